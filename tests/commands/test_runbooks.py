"""Runbooks: parameters that stay one word, who may what, and the clock that never runs anything twice."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.commands import Room

from appliance.commands.asker import Asker
from appliance.commands.history import State
from appliance.commands.model import Actor
from appliance.commands.runbooks import Book, Parameter, check
from appliance.commands.timetable import parse
from appliance.errors import Forbidden, Invalid

SAY = {
    "line": "echo {words} end",
    "title": {"en": "Say it", "ar": "قلها"},
    "parameters": [{"name": "words", "type": "text"}],
    "role": "viewer",
}


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


async def saved(room: Room, name: str, who: str = "operator", status: int = 200, **book: Any) -> Any:
    return await room.ask("PUT", f"/api/runbooks/{name}", who, status, json=SAY | book)


async def test_a_parameter_is_one_word_whatever_it_holds(room: Room) -> None:
    """POL-1: what is filled in is never split, expanded or read as an option."""
    await saved(room, "say")
    for value in ("a b; echo c | d", "$(id) `id`", "{words}", "'quoted\"", "سطر بالعربية"):
        answer = await room.ask("POST", "/api/runbooks/say/run", "viewer", 201, json={"values": {"words": value}})
        run = (await room.approve(answer["run"], wait=10))["run"]
        assert run["typed"] == [["echo", value, "end"]]
        assert (await room.output(run["id"])).decode() == f"{value} end\n"
    for value in ("", "-n", "a\u202eb", "x" * 5000):
        refused = await room.ask("POST", "/api/runbooks/say/run", "viewer", 400, json={"values": {"words": value}})
        assert refused["error"]["code"] == "book_value"
    await room.ask("POST", "/api/runbooks/say/run", "viewer", 400, json={"values": {"words": "x", "more": "y"}})
    listed = await room.ask("GET", "/api/runbooks/say", "operator", 200)
    assert len(listed["runs"]) == 5


@given(st.text(min_size=1, max_size=40))
def test_what_comes_out_has_the_words_of_the_line(value: str) -> None:
    """Whatever passes a type, the command has exactly the words its line has."""
    book = Book("x", "echo {a} | grep {a}", {"en": "x"}, {}, (Parameter("a", "text"),))
    try:
        stages = check(book).stages({"a": value})
    except Invalid:
        return
    assert stages == (("echo", value), ("grep", value))


@pytest.mark.parametrize(
    "book",
    [
        {"line": "{words} x"},
        {"line": "echo a{words}"},
        {"line": "echo; id"},
        {"line": "echo"},
        {"line": "echo {words} {other}"},
        {"parameters": [{"name": "words", "type": "anything"}]},
        {"parameters": [{"name": "Words", "type": "text"}]},
        {"title": {}},
        {"title": {"en": "a\u202eb"}},
        {"schedule": "daily 03:00"},
        {"schedule": "every 0h", "line": "echo", "parameters": []},
        {"schedule": "weekly 8 03:00", "line": "echo", "parameters": []},
    ],
    ids=str,
)
async def test_what_cannot_be_kept_is_refused(room: Room, book: dict[str, Any]) -> None:
    await saved(room, "say", status=400, **book)
    assert (await room.ask("GET", "/api/runbooks", "viewer", 200))["runbooks"] == []


async def test_who_may_what(room: Room) -> None:
    """Viewers run what is for them; operators change their own, admins any; nobody makes one above their role."""
    await saved(room, "say", "viewer", 403)
    await saved(room, "say", "operator", 403, role="admin")
    await saved(room, "say", "admin", role="operator")
    await room.ask("POST", "/api/runbooks/say/run", "viewer", 403, json={"values": {"words": "x"}})
    await saved(room, "say", "operator", 403, role="operator")
    await room.ask("DELETE", "/api/runbooks/say", "operator", 403)
    await room.ask("DELETE", "/api/runbooks/say", "admin", 200)
    events = [record.event for record in await room.audit()]
    assert events.count("runbook.save") == 1
    assert events.count("runbook.remove") == 1


async def test_the_clock_runs_it_once_and_only_what_is_allowed(room: Room) -> None:
    """R9: what was missed runs once; a clock set ahead or back gives nothing more; what asks waits for a person."""
    clock, books = room.front.clock, room.front.runbooks
    await saved(room, "quiet", line="echo tick", parameters=[], schedule="every 2h")
    await saved(room, "asks", line="sh -c id", parameters=[], schedule="every 2h")

    async def runs(name: str) -> list[str]:
        await books.tick()
        return await books.runs_of(name)

    assert await runs("quiet") == []
    clock.advance(7200 * 5)
    assert len(await runs("quiet")) == 1
    assert len(await runs("quiet")) == 1
    waiting = await room.front.commands.waiting(Asker(Actor.HUMAN, "admin"))
    assert [run.line for run in waiting] == ["sh -c id"]
    clock.wall += 366 * 86_400
    assert len(await runs("quiet")) == 1
    clock.wall -= 366 * 86_400
    assert len(await runs("quiet")) == 1
    clock.advance(7201)
    assert len(await runs("quiet")) == 2
    assert (await room.front.commands.wait((await runs("quiet"))[0], 10)).state is State.DONE


async def test_nothing_runs_for_who_is_gone(room: Room) -> None:
    """PRV-4: a removed member's runbooks stay for the others, but the clock leaves them alone."""
    await saved(room, "quiet", line="echo tick", parameters=[], schedule="every 2h")
    users = room.front.users
    operator = next(user for user in await users.all() if user.role.name == "operator")
    assert (await room.front.own_data.of(operator))["runbooks"][0]["name"] == "quiet"
    await users.remove(operator, "test")
    room.front.clock.advance(7300)
    await room.front.runbooks.tick()
    book = await room.front.runbooks.get("quiet")
    assert (book.owner, book.schedule) == ("", "")
    assert await room.front.runbooks.runs_of("quiet") == []
    with pytest.raises(Forbidden):
        await room.front.runbooks.remove("quiet", Asker(Actor.HUMAN, "operator", "someone", session="s"))


@pytest.mark.parametrize(
    ("text", "now", "then"),
    [
        ("every 6h", "2026-03-29 00:30", "2026-03-29 06:30"),
        ("daily 03:30", "2026-03-29 03:29", "2026-03-29 03:30"),
        ("daily 03:30", "2026-03-29 03:30", "2026-03-30 03:30"),
        ("weekly 1 00:00", "2026-11-22 12:00", "2026-11-23 00:00"),
        ("weekly 7 12:00", "2026-11-22 12:00", "2026-11-29 12:00"),
        ("weekly 3 23:59", "2028-02-29 00:00", "2028-03-01 23:59"),
    ],
)
def test_when_it_is_next(text: str, now: str, then: str) -> None:
    timetable = parse(text)
    assert timetable is not None
    assert timetable.after(at(now)) == at(then)
