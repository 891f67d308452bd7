"""What is kept of commands and for how long (PRV-4): runs, their output, leases and budgets go as the manual says; audit stays."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from msgspec.structs import replace
from support.commands import TOUCH, Room
from support.daemon import POLICY

from appliance.commands.asker import Asker
from appliance.commands.assessing import Proposal
from appliance.commands.history import MOST_BYTES, MOST_ROWS, MOST_TYPED, History, State
from appliance.commands.language import load
from appliance.commands.limits import DAY
from appliance.commands.model import Actor
from appliance.commands.redact import LONGEST_COMMAND
from appliance.database import Database

LEASED = POLICY + TOUCH


async def count(room: Room, table: str) -> int:
    (row,) = await room.front.store.database.rows(f"SELECT count(*) AS n FROM {table}")  # noqa: S608 - our names
    return int(row["n"])


async def events(room: Room) -> list[str]:
    return [record.event for record in await room.audit()]


async def copies(room: Room, run: str, number: int, **other: Any) -> None:
    """``number`` runs like one that is over, each a second older than the one before."""
    like = await room.front.commands.history.get(run)
    async with room.front.store.database.transaction() as tx:
        for n in range(number):
            made = replace(like, id=f"run-{n:016x}", created_at=like.created_at - n, kept=0)
            await room.front.commands.history.add(tx, replace(made, **other))


async def test_after_thirty_days_only_the_audit_log_remembers(room: Room) -> None:
    room.front.policy = load(LEASED)
    commands, clock = room.front.commands, room.front.clock
    person = Asker(Actor.HUMAN, "operator", (await room.front.member("operator")).id, session="s")
    said = await commands.propose(person, Proposal(stages=(("echo", "hello"),)))
    asked = await commands.propose(person, Proposal(stages=(("touch", "a"),)))
    await room.approve({"id": asked.id, "hash": asked.hash}, wait=10, lease={"runs": 3, "minutes": 200})
    await room.over(said.id)
    book = {"line": "echo x", "title": {"en": "Say", "ar": "قل"}, "role": "viewer"}
    await room.ask("PUT", "/api/runbooks/say", status=200, json=book)
    await room.over((await room.ask("POST", "/api/runbooks/say/run", json={"values": {}}))["run"]["id"])
    assert [await count(room, table) for table in ("runs", "leases", "runbook_runs")] == [3, 1, 1]
    assert len(list(commands.history.folder.iterdir())) == 2, "touch wrote nothing"
    clock.advance(29 * DAY)
    await commands.forget()
    assert [await count(room, table) for table in ("runs", "leases", "runbook_runs")] == [3, 1, 1]
    assert await count(room, "rates") == 0, "budgets are whole again after two days"
    assert len(list(commands.history.folder.iterdir())) == 2
    before = await events(room)
    clock.advance(DAY + 1)
    await commands.forget()
    assert [await count(room, table) for table in ("runs", "leases", "runbook_runs")] == [0, 0, 0]
    assert list(commands.history.folder.iterdir()) == []
    assert await events(room) == before
    assert {"command.run", "command.ask", "command.approve", "lease.give", "outcome"} <= set(before)
    assert await room.front.audit.verify() is None


async def test_what_waits_or_runs_is_never_let_go(room: Room) -> None:
    waiting = await room.propose("sh", "-c", "true")
    running = await room.propose("sleep", "60")
    room.front.clock.wall += 400 * DAY
    await room.front.commands.forget()
    assert [run.id for run in await room.front.commands.history.in_state(State.WAITING)] == [waiting["id"]]
    assert room.front.commands.live(running["id"]) is not None
    assert (await room.front.commands.history.get(running["id"])).state is State.RUNNING
    await room.ask("POST", f"/api/commands/{running['id']}/cancel", status=200)


async def test_the_number_of_runs_is_bounded(room: Room) -> None:
    run = await room.propose("true", wait=10)
    await copies(room, run["id"], MOST_ROWS + 5)
    await room.front.commands.forget()
    assert await count(room, "runs") == MOST_ROWS
    assert (await room.front.commands.history.get(run["id"])).id == run["id"], "the oldest go"


async def test_the_length_of_what_is_remembered_is_bounded(room: Room) -> None:
    """Long lines are refused no earlier than short ones: it is their sum that counts."""
    run = await room.propose("true", wait=10)
    line = "x" * 40_000
    number = MOST_TYPED // 40_000 + 10
    await copies(room, run["id"], number, line=line)
    await room.front.commands.forget()
    left = await count(room, "runs")
    assert MOST_TYPED * 0.98 < left * 40_000 <= MOST_TYPED
    assert (await room.front.commands.history.get(run["id"])).state is State.DONE, "the oldest go"


async def test_output_on_disk_is_bounded_and_only_its_run_forgets_it(room: Room) -> None:
    """The newest keep theirs; a run whose output went says so instead of showing another's."""
    history, each = room.front.commands.history, MOST_BYTES // 4
    run = await room.propose("echo", "hello", wait=10)
    await copies(room, run["id"], 6, kept=each)
    for n in range(6):
        history.output(f"run-{n:016x}").touch()
    await room.front.commands.forget()
    kept = {row["id"] for row in await room.front.store.database.rows("SELECT id FROM runs WHERE kept > 0")}
    assert kept == {run["id"], *(f"run-{n:016x}" for n in range(3))}
    assert {path.name for path in history.folder.iterdir()} == kept
    assert await room.output(run["id"]) == b"hello\n"
    assert await count(room, "runs") == 7


class Meanwhile:
    """The database, and something that happens right after each look at rows."""

    def __init__(self, database: Database, then: Callable[[], Awaitable[object]]) -> None:
        self._database, self._then = database, then

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    async def rows(self, *words: Any) -> list[Any]:
        found = await self._database.rows(*words)
        await self._then()
        return found


async def test_a_run_that_begins_while_files_are_removed_keeps_its_output(room: Room) -> None:
    begun: list[dict[str, Any]] = []

    async def begin() -> None:
        begun.append(await room.propose("echo", "hello", wait=10))

    database: Any = Meanwhile(room.front.store.database, begin)
    await History(database, room.front.commands.history.folder).forget(room.front.clock.now())
    assert begun
    for run in begun:
        assert await room.output(run["id"]) == b"hello\n"


@pytest.mark.parametrize("words", [["x" * 40_000], ["word"] * 900, ["--flag=" + "é" * 300] * 70])
async def test_what_stays_for_good_is_short(room: Room, words: list[str]) -> None:
    """LOG-5: nobody fills the disk by the audit log, which nothing is ever removed from."""
    room.front.policy = load(POLICY.replace('human = "ask"', 'human = "deny"'))
    refused = await room.ask("POST", "/api/commands", status=403, json={"argv": ["unheard-of", *words]})
    (record,) = [one for one in await room.audit() if one.event == "command.refuse"]
    (kept,) = record.detail["stages"]
    assert kept[0] == "unheard-of"
    assert sum(map(len, kept)) <= LONGEST_COMMAND
    assert len(kept) + record.detail.get("words_left_out", 0) == len(words) + 1
    if "words_left_out" in record.detail:
        assert record.detail["shape"] == (await room.front.commands.history.get(refused["run"]["id"])).shape
