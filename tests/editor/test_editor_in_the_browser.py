"""The extension in real code-server, driven from the page beside it as the assistant's buttons do."""

from __future__ import annotations

import json
import os
import shutil
import signal
from typing import Any

import pytest
from support.editor import two_people_at_once
from support.tiny_model import tiny_model
from support.waiting import poll

from appliance.assistant import choice
from appliance.assistant.choice import Choice

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


def test_what_is_open_arrives_when_it_is_asked_for(seat: Any) -> None:
    """File, selection, problems and names become chips with a cost; nobody's text is sent before."""
    seat.file("greet.py", "def greet(name):\n    return 'hello ' + name\n\nprint(greet('you'))\n")
    seat.file("سلام.txt", "مرحبا بالعالم\n")
    seat.open("greet.py", 2, 5)
    front = seat.front()
    assert front["language"] == "python"
    assert front["lines"] == 5
    assert "text" not in json.dumps(seat.editor())
    seat.frame.locator(".view-lines").first.click()
    seat.page.keyboard.press("Control+a")
    poll(lambda: seat.front()["selected"] > 60, "the selection is told")

    chips = seat.done("/api/editor/context", kinds=["file", "selection", "names", "diagnostics"])["chips"]
    by_kind = {chip["kind"]: chip for chip in chips}
    assert set(by_kind) == {"file", "selection", "names"}, "there are no problems to tell of"
    assert by_kind["file"]["path"] == "greet.py"
    assert by_kind["file"]["text"].startswith("def greet")
    assert by_kind["selection"]["text"] == by_kind["file"]["text"]
    assert (by_kind["selection"]["from"], by_kind["selection"]["to"]) == (1, 5)
    assert {"greet.py", "سلام.txt"} <= set(by_kind["names"]["text"].split("\n"))
    assert all(chip["tokens"] > 0 and not chip["truncated"] for chip in chips)


def test_the_editor_is_light_or_dark_as_the_device_is(seat: Any) -> None:
    """Until somebody chooses a theme of their own."""
    for scheme, look in (("dark", "vs-dark"), ("light", "vs")):
        seat.page.emulate_media(color_scheme=scheme)
        seat.frame.locator(f".monaco-workbench.{look}").wait_for()


def test_what_is_inserted_is_in_the_buffer_and_the_caret_behind_it(seat: Any) -> None:
    """Twice in a row: the second does not overwrite the first."""
    file = seat.file("insert.txt", "one\ntwo\n")
    seat.open("insert.txt", 2, 1)
    assert seat.done("/api/editor/insert", text="first ")["inserted"] == {"path": "insert.txt", "line": 2}
    seat.done("/api/editor/insert", text="second\n")
    poll(lambda: file.read_text() == "one\nfirst second\ntwo\n", "both are in the file, saved by the editor itself")
    seat.frame.locator(".view-lines").first.click()
    seat.page.keyboard.press("Control+a")
    poll(lambda: seat.front()["selected"] > 10, "all is selected")
    seat.done("/api/editor/insert", text="instead ")
    seat.done("/api/editor/insert", text="of all")
    poll(lambda: file.read_text() == "instead of all", "what was selected is replaced, once")


def test_a_difference_is_accepted_rejected_and_closed(seat: Any) -> None:
    """Several at once; what is rejected or closed leaves the file as it was; a new file is made by accepting."""
    kept, changed = seat.file("kept.txt", "a\nb\n"), seat.file("changed.txt", "a\nb\nc\n")
    first = seat.done("/api/editor/diff", path="kept.txt", text="x\n")["diff"]
    second = seat.done("/api/editor/diff", path="changed.txt", text="a\nB\nc\n")["diff"]
    third = seat.done("/api/editor/diff", path="fresh.txt", text="new\n")["diff"]
    assert changed.read_text() == "a\nb\nc\n"

    assert seat.done(f"/api/editor/diff/{second['id']}/accept")["diff"]["state"] == "accepted"
    poll(lambda: changed.read_text() == "a\nB\nc\n", "what was accepted is saved")
    assert seat.done(f"/api/editor/diff/{first['id']}/reject")["diff"]["state"] == "rejected"
    assert kept.read_text() == "a\nb\n"
    seat.frame.get_by_role("button", name="Accept changes").click()
    poll(lambda: (seat.workspace / "fresh.txt").exists(), "the entry of the status bar accepts")
    assert (seat.workspace / "fresh.txt").read_text() == "new\n"
    wanted = {first["id"]: "rejected", second["id"]: "accepted", third["id"]: "accepted"}
    poll(
        lambda: {row["id"]: row["state"] for row in seat.editor()["diffs"]} == wanted, "pages know what became of each"
    )
    assert seat.ask("POST", f"/api/editor/diff/{first['id']}/accept")[0] == 409


def test_the_editors_own_buttons_decide_too(seat: Any) -> None:
    file = seat.file("titled.txt", "before\n")
    made = seat.done("/api/editor/diff", path="titled.txt", text="after\n")["diff"]
    accept = seat.frame.locator(".editor-actions [aria-label*='Accept the Proposed Changes']").first
    accept.wait_for()
    accept.click()
    poll(lambda: file.read_text() == "after\n", "accepted by the title's button")
    closed = seat.done("/api/editor/diff", path="titled.txt", text="again\n")["diff"]
    seat.command("View: Close Editor")
    states = lambda: {row["id"]: row["state"] for row in seat.editor()["diffs"]}  # noqa: E731
    poll(lambda: states()[closed["id"]] == "closed", "closing the tab ends it")
    assert states()[made["id"]] == "accepted"
    assert file.read_text() == "after\n"


def test_a_part_of_a_proposal_is_taken_back_before_the_rest_is_accepted(seat: Any) -> None:
    """The menu beside a change takes that one back; what is accepted is what the right side shows by then."""
    lines = [f"line {n}" for n in range(40)]
    file = seat.file("parts.txt", "\n".join(lines))
    made = seat.done("/api/editor/diff", path="parts.txt", text="\n".join(["FIRST", *lines[1:39], "LAST"]))["diff"]
    seat.frame.locator(".modified .view-lines").get_by_text("FIRST").wait_for()
    seat.frame.locator(".gutterItem .action-label").first.click()
    seat.frame.get_by_role("menuitem", name="Revert Block").click()
    seat.frame.locator(".modified .view-lines").get_by_text("FIRST").wait_for(state="detached")
    seat.done(f"/api/editor/diff/{made['id']}/accept")
    assert file.read_text().split("\n") == [*lines[:39], "LAST"]


def test_a_file_opens_at_a_line(seat: Any) -> None:
    seat.file("long.txt", "".join(f"line {n}\n" for n in range(1, 400)))
    seat.open("long.txt", 250)
    seat.frame.get_by_text("line 250", exact=True).first.wait_for()
    status, answer = seat.ask("POST", "/api/editor/open", path="gone.txt")
    assert (status, answer["error"]["code"]) == (409, "editor_not_found")


def test_asking_about_a_selection_reaches_the_page(seat: Any) -> None:
    """From the menu of the editor; the page is told what was asked, by topic and once."""
    seat.file("ask.txt", "what does this mean\n")
    seat.open("ask.txt")
    seat.page.evaluate(
        """() => {
            window.heard = [];
            const source = new EventSource("/api/events?topics=editor");
            source.addEventListener("editor", (event) => window.heard.push(JSON.parse(event.data).asked));
        }"""
    )
    seat.frame.locator(".view-lines").first.click()
    seat.page.keyboard.press("Control+a")
    poll(lambda: seat.front()["selected"] > 10, "all is selected")
    seat.frame.locator(".view-lines").first.click(button="right")
    # A menu takes no click in its first moments: it would be the one that opened it.
    seat.page.wait_for_timeout(500)
    seat.frame.get_by_role("menuitem", name="Ask Croft About Selection").click()
    heard = poll(
        lambda: [one for one in seat.page.evaluate("window.heard") if one and one["path"] == "ask.txt"],
        "the page hears of it",
    )
    assert heard[-1]["kind"] == "selection"
    chip = seat.done("/api/editor/context", kinds=["selection"], window=heard[-1]["window"])["chips"][0]
    assert chip["text"] == "what does this mean\n"


def test_programs_in_the_terminal_find_the_model(seat: Any) -> None:
    """OPENAI_BASE_URL and OPENAI_API_KEY are set there and answer; without the key nothing does (NET-2)."""
    out = seat.workspace / "models.json"
    script = seat.file(
        "look.py",
        "import json, os, urllib.request, urllib.error\n"
        "def get(key):\n"
        "    url = os.environ['OPENAI_BASE_URL'] + '/models'\n"
        "    wanted = urllib.request.Request(url, headers={'Authorization': 'Bearer ' + key})\n"
        "    try:\n"
        "        return json.load(urllib.request.urlopen(wanted))\n"
        "    except urllib.error.HTTPError as error:\n"
        "        return [error.code, json.load(error)['error']['code']]\n"
        "found = [get(os.environ['OPENAI_API_KEY']), get('wrong'), os.environ['OPENAI_BASE_URL']]\n"
        "json.dump(found, open('models.new', 'w')); os.rename('models.new', 'models.json')\n",
    )
    seat.command("Terminal: Create New Terminal")
    seat.frame.get_by_role("button", name="Trust Folder & Continue").click()
    seat.frame.locator(".terminal-wrapper .xterm").first.wait_for()

    def ran() -> bool:
        seat.frame.locator(".terminal-wrapper .xterm").first.click()
        seat.page.keyboard.type(f"/usr/bin/python3 {script.name}\n", delay=10)
        seat.page.wait_for_timeout(1500)
        return out.exists()

    poll(ran, "the terminal asks for models", 45)
    answer, refused, url = json.loads(out.read_text())
    assert answer["object"] == "list"
    assert refused == [401, "invalid_api_key"]
    assert url.startswith("http://127.0.0.1:")


ASKING = """
import json, os, urllib.request
def ask(**how):
    body = {"model": "croft", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 6, **how}
    wanted = urllib.request.Request(
        os.environ["OPENAI_BASE_URL"] + "/chat/completions", json.dumps(body).encode(),
        {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "Content-Type": "application/json"},
    )
    return urllib.request.urlopen(wanted, timeout=90).read().decode()
whole = json.loads(ask())
stream = [line for line in ask(stream=True).splitlines() if line.startswith("data: ")]
json.dump({"whole": whole, "stream": stream, "uid": os.getuid()}, open("said.new", "w"))
os.rename("said.new", "said.json")
"""


def test_a_program_in_the_terminal_is_answered_by_the_machine_s_own_engine(seat: Any) -> None:
    """Decision 0011: llama.cpp sleeps until then; the key that the terminal presets is all the program needs, whole and streamed."""
    appliance = seat.appliance
    models = appliance.paths.state / "models"
    file = tiny_model(models, 2048)
    file.chmod(0o640)
    shutil.chown(file, (appliance.paths.state / "croft.db").stat().st_uid)
    choice.write(models, Choice("tiny", file.name, 2048))
    out, script = seat.workspace / "said.json", seat.file("ask.py", ASKING)
    seat.command("Terminal: Create New Terminal")
    trust, terminal = (
        seat.frame.get_by_role("button", name="Trust Folder & Continue"),
        ".terminal-wrapper.active .xterm",
    )
    poll(lambda: trust.is_visible() or seat.frame.locator(terminal).first.is_visible(), "it opens, or asks first", 30)
    if trust.is_visible():
        trust.click()
    seat.frame.locator(terminal).first.click()
    seat.page.keyboard.type(f"/usr/bin/python3 {script.name}\n", delay=10)
    poll(out.exists, "the engine has answered the program", 120)
    said = json.loads(out.read_text())
    assert said["uid"] == seat.workspace.stat().st_uid
    assert said["whole"]["object"] == "chat.completion"
    assert 0 < said["whole"]["usage"]["completion_tokens"] <= 6
    assert said["stream"][-1] == "data: [DONE]"
    assert all(json.loads(line[6:])["object"] == "chat.completion.chunk" for line in said["stream"][:-1])
    assert appliance.control.call("GET", "/api/assistant")["model"] == "tiny"


def test_the_line_comes_back_after_the_daemon_does(seat: Any) -> None:
    """The same window by itself, without a reload: what was proposed can still be accepted, and the page is answered again."""
    file = seat.file("restart.txt", "before\n")
    seat.open("restart.txt")
    window = seat.editor()["windows"][0]["id"]
    seat.done("/api/editor/diff", path="restart.txt", text="after\n")
    pid = seat.appliance.daemon_pid()
    os.kill(pid, signal.SIGKILL)
    poll(lambda: seat.appliance.is_up() and seat.appliance.daemon_pid() != pid, "the daemon is back", 60)
    rows = poll(lambda: seat.editor()["windows"], "the window greets again", 30)
    assert rows[0]["id"] == window
    assert file.read_text() == "before\n"
    seat.frame.get_by_role("button", name="Accept changes").click()
    poll(lambda: file.read_text() == "after\n", "accepted after the restart")
    poll(lambda: seat.front(), "the file is in front")
    assert seat.done("/api/editor/context", kinds=["file"])["chips"][0]["text"] == "after\n"


def test_two_people_at_once_each_have_their_own_windows(seat: Any, browser: Any) -> None:
    """Opened at the same moment: whose browser a window is in, is known by who writes to its socket, not by the clock."""
    two_people_at_once(seat, browser)
