"""A model as large as a small machine's default answers there while somebody edits: nothing is killed, nobody falls silent."""

from __future__ import annotations

import os
import shutil
import time

import pytest
from support.appliance import Appliance, whole_appliance
from support.browser import chromium, editor_frame, person, sign_in
from support.cage import small_machine
from support.journey import edit_and_save
from support.lifeline import live_in, sshd
from support.tiny_model import real_sized_model
from support.waiting import poll

from appliance.assistant import choice
from appliance.assistant.choice import Choice

pytestmark = [pytest.mark.browser, pytest.mark.timeout(420)]


def ask_while_editing(appliance: Appliance) -> None:
    """The editor is open, the model loads and answers, an edit is saved meanwhile, and Stop frees the machine."""
    with chromium(appliance.root_certificate) as browser:
        page = person(browser).new_page()
        sign_in(page, appliance.croft("login-link")["url"])
        page.goto(f"{appliance.url}/workspace")
        frame = editor_frame(page)
        asked = time.monotonic()
        conversation = appliance.control.call("POST", "/api/conversations", {})["conversation"]["id"]
        address = f"/api/conversations/{conversation}"
        appliance.control.call("POST", f"{address}/messages", {"text": "Write a long story."})
        poll(lambda: answer_of(appliance, address), "the model has begun to answer", 180, pause=0.5)
        print(f"first words after {time.monotonic() - asked:.0f} s, engine and model asleep before")
        edit_and_save(page, frame, appliance.paths.workspace)
        stopped = time.monotonic()
        appliance.control.call("POST", f"{address}/stop", {})
        poll(lambda: appliance.control.call("GET", "/api/assistant")["holds"] == 0, "the engine is let go", 20)
        print(f"stopped within {time.monotonic() - stopped:.1f} s")
        status = appliance.control.call("GET", "/api/assistant")
        assert (status["state"], status["model"], status["remote"]) == ("ready", "real-sized", False)


def answer_of(appliance: Appliance, address: str) -> str:
    messages = appliance.control.call("GET", address)["messages"]
    return "".join(str(one) for one in messages[1:] if one["state"] in ("running", "done") and one.get("text"))


def test_the_model_answers_while_a_window_is_open() -> None:
    """SYS-5, R13: 705 MiB of weights, the editor, the proxy and the daemon in 2 GB."""
    with small_machine() as cage, sshd(cage) as port, whole_appliance(inside=cage.enter) as appliance:
        models = appliance.paths.state / "models"
        file = real_sized_model(models)
        file.chmod(0o640)
        if os.geteuid() == 0:
            shutil.chown(file, appliance.settings.users_daemon)
        choice.write(models, Choice("real-sized", file.name, 2048))
        live_in(cage, appliance, port, ask_while_editing)
