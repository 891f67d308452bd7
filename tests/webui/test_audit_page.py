"""Looking into the audit log: filters, pages, sentences, files no spreadsheet runs (LOG-9), and a fault that is named."""

from __future__ import annotations

import csv
import io
import json
import re
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.front import Front, front

from appliance.audit import EVENTS
from appliance.audit_search import AuditSearch, Wanted
from appliance.identity.api_tokens import checked
from appliance.identity.users import Role
from webui.audit_words import guarded

PAGE = {"Accept": "text/html"}


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Front]:
    async with front(tmp_path) as opened:
        yield opened


async def text_of(door: Front, path: str, cookie: str) -> str:
    async with door.ask("GET", path, cookie, headers=PAGE) as answer:
        assert answer.status == 200
        return str(await answer.text())


async def test_filters_work_together_and_alone(door: Front) -> None:
    search = AuditSearch(door.store.database)
    await door.audit.note("export", "u1", what="50%_off ملف")
    door.clock.advance(86400)
    await door.audit.note("export", "u2", what="other")
    found = lambda **how: search.page(Wanted(**how))  # noqa: E731
    assert {record.actor for record in await found(event="export")} == {"u1", "u2"}
    assert [record.actor for record in await found(actor="u2")] == ["u2"]
    assert [record.actor for record in await found(text="50%_")] == ["u1"]
    assert [record.actor for record in await found(text="ملف")] == ["u1"]
    assert await found(text="50__off") == []
    assert [record.actor for record in await found(since=door.clock.now() - 10, event="export")] == ["u2"]
    assert [record.actor for record in await found(until=door.clock.now() - 10, event="export")] == ["u1"]


async def test_pages_go_back_without_a_gap(door: Front) -> None:
    _, cookie = await door.sign_in_as("admin")
    for n in range(120):
        await door.audit.note("export", "u1", what=f"part {n}")
    seen: list[str] = []
    query = "event=export"
    while True:
        text = await text_of(door, f"/audit?{query}", cookie)
        seen += re.findall(r"Took along: part (\d+)", text)
        if "Older records" not in text:
            break
        query = text.split('href="/audit?')[1].split('"')[0].replace("&amp;", "&")
    assert [int(number) for number in seen] == list(range(119, -1, -1))


async def test_people_are_called_by_their_names(door: Front) -> None:
    session, cookie = await door.sign_in_as("admin")
    await door.users.create("nora@example.org", "نورة", session.user.role, session.user.id)
    text = await text_of(door, "/audit?event=user.create", cookie)
    assert "Added" in text
    assert "نورة" in text
    assert session.user.id not in text.split('data-field="said"')[1].split("</summary>")[0]


async def test_what_people_did_is_said_whole_and_in_one_language(door: Front) -> None:
    """No value is missing from the records that acts really leave, and words of ours are told in the reader's language."""
    session, cookie = await door.sign_in_as("admin")
    user = session.user
    await door.invitations.create("nora@example.org", Role.operator, user, user.id)
    await door.api_tokens.create(user, checked("kept", ["read"], 30, Role.admin), user.id, "page")
    await door.sessions.end([(await door.sign_in_as("viewer"))[0]], "revoked", user.id)
    async with door.ask("GET", "/account/data", cookie) as answer:
        assert answer.status == 200
    for language, link, data in (("en", "a link", "their own data"), ("ar", "رابط", "بياناته")):
        async with door.ask("GET", "/api/audit", cookie, headers={"Accept-Language": language}) as answer:
            said = {record["event"]: record["said"] for record in (await answer.json())["records"]}
        assert {"invitation.create", "token.create", "session.end", "export", "sign-in"} <= set(said)
        assert [one for one in said.values() if "–" in one] == []
        assert link in said["sign-in"]
        assert data in said["export"]


async def test_every_event_has_a_sentence_that_stands(door: Front) -> None:
    """A record that lacks what its sentence names shows a dash, never a brace."""
    _, cookie = await door.sign_in_as("admin")
    for event in EVENTS:
        await door.audit.note(event, "daemon")
    async with door.ask("GET", "/api/audit", cookie) as answer:
        said = {record["event"]: record["said"] for record in (await answer.json())["records"]}
    assert set(said) >= set(EVENTS)
    assert [one for one in said.values() if "{" in one or one in EVENTS] == []


async def test_a_sentence_shows_what_would_not_be_seen_and_nothing_of_ours(door: Front) -> None:
    """WEB-15: characters that change direction are spelt out; the marks that keep values in their place are not."""
    _, cookie = await door.sign_in_as("admin")
    await door.audit.note("export", "u1", what="a\u202ebخ\x07")
    text = await text_of(door, "/audit?event=export", cookie)
    assert "aU+202Ebخ" in text
    assert "U+0007" in text
    assert "U+2068" not in text


@pytest.mark.parametrize("cell", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", " =1", "\n=1"])
def test_no_cell_is_a_formula(cell: str) -> None:
    """LOG-9."""
    assert guarded(cell).startswith("'")


async def test_the_csv_file_reads_back_whole(door: Front) -> None:
    """LOG-9: guarded, quoted, with the mark Excel needs; Arabic, commas and line breaks survive; the export is recorded."""
    _, cookie = await door.sign_in_as("admin")
    person = await door.users.create("evil@example.org", "=HYPERLINK(1)", (await door.member("viewer")).role, "test")
    await door.audit.note("export", person.id, what='a,"b"\nملف')
    async with door.ask("GET", "/audit/export?format=csv", cookie) as answer:
        raw = await answer.read()
        assert answer.headers["Content-Disposition"] == 'attachment; filename="croft-audit.csv"'
    assert raw.startswith("\ufeff".encode())
    rows = list(csv.DictReader(io.StringIO(raw.decode("utf-8-sig"))))
    evil = next(row for row in rows if row["actor"] == person.id)
    assert evil["name"] == "'=HYPERLINK(1)"
    assert json.loads(evil["detail"])["what"] == 'a,"b"\nملف'
    assert [int(row["seq"]) for row in rows] == list(range(1, len(rows) + 1))
    assert rows[-1]["event"] == "export"
    assert json.loads(rows[-1]["detail"]) == {"format": "csv", "what": "audit log"}


async def test_a_large_log_never_lies_in_memory_whole(door: Front) -> None:
    """5,000 records of 2 kB: the file is written while the log is read."""
    _, cookie = await door.sign_in_as("admin")
    async with door.store.database.transaction() as tx:
        for n in range(5000):
            await door.audit.append(tx, "export", "u1", what=f"{n}" + "x" * 2000)
    tracemalloc.start()
    try:
        size = 0
        async with door.ask("GET", "/audit/export?format=jsonl", cookie) as answer:
            async for piece in answer.content.iter_chunked(65536):
                size += len(piece)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size > 10_000_000
    assert peak < 8_000_000


async def test_a_broken_log_is_named_with_its_place(door: Front) -> None:
    session, cookie = await door.sign_in_as("admin")
    assert "The log is whole" in await text_of(door, "/audit?verify=1", cookie)
    await door.store.database.execute("UPDATE audit SET actor = 'nobody' WHERE seq = 2")
    assert "The log is broken at record 2: a record was changed." in await text_of(door, "/audit?verify=1", cookie)
    assert session.user.email == "admin@example.org"


async def test_only_what_is_newer_follows(door: Front) -> None:
    _, cookie = await door.sign_in_as("admin")
    first = await door.audit.note("export", "u1", what="one")
    second = await door.audit.note("export", "u1", what="two")
    async with door.ask("GET", f"/api/audit?after={first}", cookie) as answer:
        records = (await answer.json())["records"]
    assert [(record["seq"], record["said"]) for record in records] == [(second, "Took along: two.")]


async def test_the_set_up_link_is_for_the_first_admin_who_has_no_name_yet(door: Front) -> None:
    """What the log's first page says is words, never a value of the program."""
    _, cookie = await door.sign_in_as("admin")
    await door.audit.note("link.create", "console", kind="setup", user=None)
    await door.audit.note("user.create", "setup-link", user="u1", role="admin")
    text = await text_of(door, "/audit", cookie)
    assert "the first admin" in text
    assert "The set-up link" in text
    assert "None" not in re.sub(r"<[^>]*>", "", text)
