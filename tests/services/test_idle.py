"""When the IDE is idle (DECIDED 14)."""

from __future__ import annotations

import pytest

from appliance.services.idle import Use, judge


@pytest.mark.parametrize(
    ("use", "minutes", "idle", "because"),
    [
        (Use(0, 0.0), 30, True, None),
        (Use(0, 0.0), 0, False, "ide.awake.always"),
        (Use(1, 0.0), 30, False, "ide.awake.window"),
        (Use(0, 9_000.0), 30, False, "ide.awake.recent"),
        (Use(0, 0.0, active_runs=1), 30, False, "ide.awake.run"),
        (Use(0, 0.0, terminals=1), 30, False, "ide.awake.terminal"),
        (Use(0, 0.0, terminals=None), 30, False, "ide.awake.unknown"),
    ],
)
def test_idle(use, minutes, idle, because) -> None:
    verdict = judge(use, 10_000.0, minutes)
    assert verdict.idle is idle
    assert (verdict.because.key if verdict.because else None) == because
    assert verdict.look_again is None or verdict.look_again > 10_000
