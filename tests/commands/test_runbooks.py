"""Runbooks: parameters that stay one word, who may what, and the clock that never runs anything twice."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from support.commands import Room

from appliance.commands.asker import Asker
from appliance.commands.assessing import Proposal
from appliance.commands.front import Commands
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
        {"parameters": [{"name": "words", "type": "enum(a,b\u202ec)"}]},
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


async def test_what_was_shown_is_what_runs(room: Room) -> None:
    """POL-11: a runbook that is changed between the look at its page and the press of its button does not run."""

    async def page(method: str, path: str, **how: Any) -> tuple[int, str]:
        async with room.front.ask(method, path, room.cookies["admin"], **how) as answer:
            return answer.status, await answer.text()

    await saved(room, "say", line="echo {words}")
    _, shown = await page("GET", "/commands/runbooks/say")
    found = re.search('name="version" value="([^"]+)"', shown)
    assert found is not None
    form = {"version": found[1], "p.words": "hello"}
    assert (await page("POST", "/commands/runbooks/say/run", data=form))[0] == 303
    room.front.clock.advance(1)
    await saved(room, "say", line="cat {words}")
    status, again = await page("POST", "/commands/runbooks/say/run", data=form)
    assert status == 409
    assert "cat {words}" in again
    assert [run.line for run in await room.front.commands.page(Asker(Actor.HUMAN, "admin"))] == ["echo hello"]


async def test_a_choice_is_typed_as_people_write_lists(room: Room) -> None:
    """Blanks after commas belong to the type, on the page as everywhere."""
    form = {
        "name": "deploy",
        "title_en": "Deploy",
        "line": "echo {where} {how}",
        "parameters": "where enum(staging, production) Where to\nhow word\n",
        "role": "operator",
    }
    async with room.front.ask("POST", "/commands/runbooks", room.cookies["operator"], data=form) as answer:
        assert answer.status == 303, await answer.text()
    book = await room.front.runbooks.get("deploy")
    assert book.parameters == (Parameter("where", "enum(staging, production)", "Where to"), Parameter("how", "word"))
    assert book.stages({"where": "production", "how": "x"}) == (("echo", "production", "x"),)


async def test_a_new_timetable_counts_from_when_it_was_saved(room: Room) -> None:
    """Who moves a runbook's hour to see it run sees it run: what ran by the old hours is no reason to leave it out."""
    room.front.clock.wall = at("2026-11-23 13:59")
    daily = {"line": "echo tick", "parameters": []}
    await saved(room, "quiet", schedule="daily 14:00", **daily)
    room.front.clock.advance(90)
    await room.front.runbooks.tick()
    await saved(room, "quiet", schedule="daily 14:05", **daily)
    room.front.clock.advance(300)
    await room.front.runbooks.tick()
    assert len(await room.front.runbooks.runs_of("quiet")) == 2


async def test_the_clock_runs_what_stands_there_now(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """POL-1: one takes long to start, and meanwhile the next is another's and has no hours: it does not run as its old owner."""
    books, propose, asked = room.front.runbooks, Commands.propose, []
    admin, operator = [
        Asker(Actor.HUMAN, role, next(user.id for user in await room.front.users.all() if user.role.name == role))
        for role in ("admin", "operator")
    ]
    first = Book("first", "echo slow", {"en": "x"}, {}, schedule="every 1h")
    second = replace(first, name="second", line="echo fine")
    for book in (first, second):
        await books.save(book, admin)

    async def slow(commands: Commands, asker: Asker, proposal: Proposal) -> Any:
        asked.append((asker.role, proposal.stages))
        if len(asked) == 1:
            await books.remove("second", admin)
            await books.save(replace(second, line="echo evil", schedule=""), operator)
        return await propose(commands, asker, proposal)

    monkeypatch.setattr(Commands, "propose", slow)
    room.front.clock.advance(3700)
    await books.tick()
    assert asked == [("admin", (("echo", "slow"),))]
    assert (await books.get("second")).next_at is None


async def test_what_root_saved_can_be_approved(room: Room) -> None:
    """By the clock, and the rules ask: a person decides, as for anybody else's."""
    root, commands = Asker(Actor.HUMAN, "admin"), room.front.commands
    await room.front.runbooks.save(Book("asks", "sh -c id", {"en": "Asks"}, {}, schedule="every 1h"), root)
    room.front.clock.advance(3700)
    await room.front.runbooks.tick()
    [run] = await commands.waiting(root)
    await commands.approve(root, run.id, run.hash)
    assert (await commands.wait(run.id, 10)).state is State.DONE


def test_what_looks_like_a_parameter_inside_quotes_stays_as_it_was_written() -> None:
    """Braces of another language, as in jq or JavaScript, are not touched."""
    book = Book("x", "jq '[.[] | {name} ]' {file}", {"en": "x"}, {}, (Parameter("file", "path"),))
    assert check(book).stages({"file": "a.json"}) == (("jq", "[.[] | {name} ]", "a.json"),)


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
