"""The journey on the smallest machine, process runtime: nothing is killed, the daemon and sshd answer all along."""

from __future__ import annotations

import pytest
from support.appliance import whole_appliance
from support.cage import small_machine
from support.lifeline import live_in, sshd

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


def test_the_journey_fits_and_the_lifeline_holds() -> None:
    """SYS-5, R13: editor open in 2 GB; no OOM kill; daemon and sshd answer within one second throughout."""
    with small_machine() as cage, sshd(cage) as port, whole_appliance(inside=cage.enter) as appliance:
        live_in(cage, appliance, port)
