"""Rehearsals as people meet them: tried without asking, looked at, applied once, undone; all of it audited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.broker import ROOT, Home
from support.commands import Room, room_in
from support.daemon import POLICY
from support.rehearsals import picture
from support.waiting import until

from appliance.clock import ManualClock
from appliance.commands.language import load

pytestmark = pytest.mark.skipif(not ROOT, reason="needs root, as CI has it")
DAY = 86_400.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def room(broker: Home, clock: ManualClock) -> AsyncIterator[Room]:
    async with room_in(broker, clock=clock) as made:
        yield made


async def rehearse(room: Room, script: str, who: str = "operator") -> dict[str, Any]:
    """The rehearsal of a shell script, once its changes are known."""
    run = await room.propose("sh", "-c", script, view="rehearsal", who=who)
    assert run["state"] == "running", "nobody is asked"
    return await ready(room, run["id"])


async def ready(room: Room, run: str) -> dict[str, Any]:
    """The rehearsal once nothing of it is under way."""
    found: dict[str, Any] = {}
    async with asyncio.timeout(30), room.front.bus.subscribe({"runs"}) as changes:
        while not found or found["state"] in ("running", "applying", "undoing"):
            found = (await room.ask("GET", f"/api/commands/{run}/changes", status=200))["rehearsal"]
            if found["state"] in ("running", "applying", "undoing"):
                await anext(changes)
    return found


async def act(room: Room, found: dict[str, Any], what: str, status: int = 200, who: str = "operator") -> Any:
    body = {"digest": found["digest"]} if what == "apply" else {}
    return await room.ask("POST", f"/api/commands/{found['run']}/{what}", who, status, json=body)


async def test_from_trying_to_applying_to_undoing(room: Room) -> None:
    """DECIDED 25, LOG-2: announced before, closed after, and the command itself ran once."""
    before = picture(room.workspace)
    found = await rehearse(room, "echo three >> readme; echo new > fresh; rm old/b; date +%N > when")
    assert (found["state"], found["applicable"], found["count"]) == ("ready", True, 4)
    assert {row["path"]: row["what"] for row in found["changes"]} == {
        "fresh": "added",
        "old/b": "deleted",
        "readme": "changed",
        "when": "added",
    }
    assert picture(room.workspace) == before
    query = f"/api/commands/{found['run']}/changes/diff?path="
    assert (await room.ask("GET", query + "readme"))["diff"]["text"] == (
        "--- readme\n+++ readme\n@@ -1,2 +1,3 @@\n one\n two\n+three\n"
    )
    seen = (await room.ask("GET", query + "when"))["diff"]["text"].splitlines()[-1].removeprefix("+")
    applied = (await act(room, found, "apply"))["rehearsal"]
    assert (applied["state"], applied["can_undo"]) == ("applied", True)
    assert (room.workspace / "when").read_text().strip() == seen, "it was merged, not run again"
    assert (room.workspace / "fresh").read_text() == "new\n"
    assert (await act(room, found, "undo"))["rehearsal"]["state"] == "undone"
    assert picture(room.workspace) == before
    said = [(row.event, row.detail.get("result")) async for row in records(room) if row.event in WATCHED]
    assert said == [("rehearsal.apply", None), ("outcome", "done"), ("rehearsal.undo", None), ("outcome", "done")]


WATCHED = ("rehearsal.apply", "rehearsal.undo", "rehearsal.discard", "outcome")


async def records(room: Room) -> AsyncIterator[Any]:
    """Audit records of rehearsals, in order; outcomes of the runs themselves left out."""
    found = sorted(await room.audit(), key=lambda row: row.seq)
    merges = {row.seq for row in found if row.event.startswith("rehearsal.")}
    for row in found:
        if row.event != "outcome" or row.intent in merges:
            yield row


async def test_who_may_not_rehearse_or_apply(room: Room) -> None:
    """DECIDED 18, POL-11: no viewer, and nobody without a session."""
    before = picture(room.workspace)
    body = {"argv": ["sh", "-c", "echo x > fresh"], "view": "rehearsal"}
    refused = await room.ask("POST", "/api/commands", "viewer", 403, json=body)
    assert refused["error"]["code"] == "forbidden"
    found = await rehearse(room, "echo x > fresh")
    for what in ("apply", "undo", "discard"):
        await act(room, found, what, 403, who="viewer")
    assert picture(room.workspace) == before


async def test_what_the_policy_refuses_is_not_tried_either(room: Room) -> None:
    """POL-1: deny is deny in every view; and a rule that came later stops the applying."""
    found = await rehearse(room, "echo x > fresh")
    room.front.policy = load(POLICY + '\n[[rule]]\nid = "no-shell"\nbin = "sh"\nanything = true\nmode = "deny"\n')
    assert (await act(room, found, "apply", 403))["error"]["code"] == "denied"
    body = {"argv": ["sh", "-c", "echo x > fresh"], "view": "rehearsal"}
    assert (await room.ask("POST", "/api/commands", status=403, json=body))["error"]["code"] == "denied"
    assert not (room.workspace / "fresh").exists()


async def test_only_what_was_shown_is_applied_and_only_once(room: Room) -> None:
    """POL-10, POL-11."""
    found = await rehearse(room, "echo x > fresh")
    forged = found | {"digest": "0" * 64}
    assert (await act(room, forged, "apply", 409))["error"]["code"] == "changed"
    await act(room, found, "apply")
    (room.workspace / "fresh").unlink()
    assert (await act(room, found, "apply", 409))["error"]["code"] == "over"
    assert not (room.workspace / "fresh").exists()


async def test_a_conflict_names_the_file_and_leaves_the_result_to_look_at(room: Room) -> None:
    found = await rehearse(room, "echo x >> readme; echo new > fresh")
    room.broker.workspace_file("readme", "mine\n", 0o644)
    refused = await act(room, found, "apply", 409)
    assert refused["error"]["code"] == "conflict"
    assert "readme" in refused["error"]["message"]
    assert not (room.workspace / "fresh").exists()
    assert (await ready(room, found["run"]))["state"] == "ready"
    assert (await act(room, found, "discard"))["rehearsal"]["state"] == "discarded"
    assert list((room.broker.paths.state / "rehearsals").iterdir()) == []


async def test_an_undo_conflict_changes_nothing(room: Room) -> None:
    found = await rehearse(room, "echo x >> readme; echo new > fresh")
    await act(room, found, "apply")
    room.broker.workspace_file("fresh", "edited\n", 0o644)
    before = picture(room.workspace)
    assert (await act(room, found, "undo", 409))["error"]["code"] == "conflict"
    assert picture(room.workspace) == before
    assert (await ready(room, found["run"]))["can_undo"] is True


async def test_results_run_out(room: Room, clock: ManualClock) -> None:
    """A day to apply, seven days to undo; then the files go."""
    applied, left = await rehearse(room, "echo x > one"), await rehearse(room, "echo x > two")
    await act(room, applied, "apply")
    clock.advance(DAY + 1)
    room.cookies["operator"] = (await room.front.sign_in_as("operator"))[1]
    assert (await act(room, left, "apply", 409))["error"]["code"] == "not_applicable"
    await room.front.commands.rehearsals.forget()
    assert (await ready(room, left["run"]))["state"] == "expired"
    assert (await ready(room, applied["run"]))["can_undo"] is True
    clock.advance(6 * DAY)
    room.cookies["operator"] = (await room.front.sign_in_as("operator"))[1]
    await room.front.commands.rehearsals.forget()
    assert (await act(room, applied, "undo", 409))["error"]["code"] == "over"
    assert list((room.broker.paths.state / "rehearsals").iterdir()) == []


async def test_nothing_changed_and_what_cannot_be_applied_say_so(room: Room) -> None:
    nothing = await rehearse(room, "cat readme; touch readme")
    assert (nothing["state"], nothing["count"], nothing["applicable"]) == ("empty", 0, False)
    pipe = await rehearse(room, "mkfifo pipe; echo x > fresh")
    assert (pipe["state"], pipe["cause"], pipe["applicable"]) == ("ready", "problems", False)
    assert pipe["problems"] == [{"path": "pipe", "cause": "special"}]
    assert (await act(room, pipe, "apply", 409))["error"]["code"] == "not_applicable"


async def test_two_rehearsals_at_once_do_not_see_each_other(room: Room) -> None:
    one = await room.propose("sh", "-c", "echo one > same; sleep 0.5; cat same", view="rehearsal")
    other = await room.propose("sh", "-c", "echo two > same; sleep 0.5; cat same", view="rehearsal")
    found = [await ready(room, run["id"]) for run in (one, other)]
    assert [await room.output(run["id"]) for run in (one, other)] == [b"one\n", b"two\n"]
    await act(room, found[1], "apply")
    assert (await act(room, found[0], "apply", 409))["error"]["code"] == "conflict"
    assert (room.workspace / "same").read_text() == "two\n"


async def test_a_plain_run_has_no_changes(room: Room) -> None:
    run = await room.propose("echo", "hello")
    assert (await room.ask("GET", f"/api/commands/{run['id']}/changes", status=404))["error"]["code"] == "not_found"


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        ("printf 'a\\000b' > fresh", "binary"),
        ("seq 200000 > fresh", "large"),
        ("ln -s readme fresh", "link"),
        ("mkdir fresh", "folder"),
    ],
)
async def test_differences_that_are_no_text(room: Room, script: str, kind: str) -> None:
    found = await rehearse(room, script)
    diff = (await room.ask("GET", f"/api/commands/{found['run']}/changes/diff?path=fresh"))["diff"]
    assert (diff["kind"], diff["what"]) == (kind, "added")


async def test_a_daemon_that_comes_back_finishes_what_was_begun(broker: Home, clock: ManualClock) -> None:
    """R1: the row says that a merge was under way; the next daemon goes on where it stopped."""
    async with room_in(broker, clock=clock) as room:
        found = await rehearse(room, "echo x > fresh; echo y > other")
        async with room.front.store.database.transaction() as tx:
            await tx.execute("UPDATE rehearsals SET state = 'applying'")
    assert not (broker.paths.workspace / "fresh").exists()
    async with room_in(broker, clock=clock) as room:
        await until(lambda: (broker.paths.workspace / "other").exists(), "the merge is finished")
        assert (await ready(room, found["run"]))["state"] == "applied"
