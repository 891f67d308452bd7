"""SYS-5 from a person's side: the first model is chosen while the editor runs, on a machine of 4 GB (process runtime)."""

from __future__ import annotations

import os
import shutil

import pytest
from support.appliance import Appliance, whole_appliance
from support.cage import holding, small_machine
from support.tiny_model import real_sized_model
from support.waiting import poll

from appliance.broker.shares import Machine, plan

MEMORY_MB = 4000
HELD_MB = 2700
pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="limits need cgroups that only root can write"),
]


def limits(appliance: Appliance) -> dict[str, int]:
    """MiB by service, as the kernel has them now."""
    found = {}
    for row in appliance.control.call("GET", "/api/services")["services"]:
        if row["state"] in ("running", "starting") and row["memory_limit"]:
            found[row["name"]] = row["memory_limit"] >> 20
    return found


def share_of_the_editor(model_mb: int | None) -> int:
    return plan(Machine(MEMORY_MB, 2), docker=False, model_mb=model_mb).shares["ide"].memory_mb


def ide_pid(appliance: Appliance) -> int:
    from appliance.broker.client import call

    rows = call(appliance.paths.socket("broker"), "services").data["services"]
    return next(int(row["pid"]) for row in rows if row["service"] == "ide")


def is_in_use(appliance: Appliance) -> bool:
    return any(row["in_use"] for row in appliance.control.call("GET", "/api/models")["models"])


def ask(appliance: Appliance, conversation: str) -> dict[str, object]:
    """The end of an answer, or its beginning where it goes well."""
    address = f"/api/conversations/{conversation}"
    appliance.control.call("POST", f"{address}/messages", {"text": "Write a long story."})

    def answer() -> dict[str, object] | None:
        last: dict[str, object] = appliance.control.call("GET", address)["messages"][-1]
        return last if last["role"] == "assistant" and (last["state"] == "failed" or last.get("text")) else None

    return poll(answer, "an answer, or why there is none", 120, pause=0.3)


def test_a_model_chosen_while_the_editor_runs_and_somebody_works_in_it() -> None:
    with small_machine(MEMORY_MB) as cage, whole_appliance(inside=cage.enter) as appliance:
        control = appliance.control
        control.call("POST", "/api/services/ide/start", {})
        poll(lambda: limits(appliance).get("ide") == share_of_the_editor(None), "the editor runs with all there is", 60)
        pid = ide_pid(appliance)
        with holding(HELD_MB, pid) as work:
            models = appliance.paths.state / "models"
            models.mkdir(exist_ok=True)
            file = real_sized_model(models)
            shutil.chown(file, appliance.settings.users_daemon)
            control.call("POST", f"/api/models/{file.name}/adopt", {})
            poll(lambda: is_in_use(appliance), "the model is taken in, and used as the first there is", 60)
            poll(lambda: HELD_MB < limits(appliance)["ide"] < share_of_the_editor(None), "the editor gives what it can")

            conversation = control.call("POST", "/api/conversations", {})["conversation"]["id"]
            refused = ask(appliance, conversation)
            assert refused["state"] == "failed"
            assert refused["usage"]["error"]["code"] == "ai_no_room"
            problems = control.call("GET", "/api/services")["problems"]
            assert [one["code"] for one in problems if one["service"] == "ai"] == ["no_room"]
            assert work.poll() is None
            assert cage.oom_kills() == 0

        answered = ask(appliance, conversation)
        assert answered["state"] in ("running", "done"), answered
        now = limits(appliance)
        assert set(now) == {"proxy", "ide", "ai"}
        assert sum(now.values()) <= MEMORY_MB - 256
        assert ide_pid(appliance) == pid
        assert cage.oom_kills() == 0
        assert not [one for one in control.call("GET", "/api/services")["problems"] if one["code"] == "no_room"]

        control.call("POST", f"/api/conversations/{conversation}/stop", {})
        control.call("POST", "/api/models/real-sized/remove", {})
        control.call("POST", "/api/services/ai/stop", {})
        poll(lambda: limits(appliance).get("ide") == share_of_the_editor(None), "the editor has it all again", 30)
