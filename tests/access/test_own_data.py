"""What the appliance keeps of a person: all of it in one file, and what is left when they are removed."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from support.front import Front

from appliance.identity import own_data

ROOT = Path(__file__).parents[2]


async def fetched(door: Front, cookie: str) -> dict[str, Any]:
    async with door.ask("GET", "/account/data", cookie) as answer:
        assert answer.status == 200
        assert answer.headers["Content-Disposition"] == 'attachment; filename="croft-my-data.json"'
        told: dict[str, Any] = json.loads(await answer.read())
        return told


async def test_everything_of_one_person_and_nothing_of_others(door: Front, keys: Any) -> None:
    """PRV-6: in one file, recorded as an export, without secrets."""
    admin, cookie = await door.sign_in_as("admin")
    _, other = await door.sign_in_as("viewer")
    token, text = await keys.make("admin", "services", name="ofadmin")
    await keys.make("viewer", "read", name="ofviewer")
    assert (await keys.status("POST", "/api/services/ide/restart", text))[0] == 200
    await door.api_tokens.revoke([token], admin.user.id)
    kept, _ = await keys.make("admin", "read", name="keptone")
    told = await fetched(door, cookie)
    assert told["person"]["email"] == "admin@example.org"
    assert [row["id"] for row in told["sessions"]] == [admin.id]
    assert [row["id"] for row in told["tokens"]] == [kept.id]
    assert {"service.restart", "token.create", "token.revoke", "sign-in", "export"} <= {
        r["event"] for r in told["audit"]
    }
    assert f"token:{token.id}" in {record["actor"] for record in told["audit"]}, "revoked tokens acted for them too"
    text_of_all = json.dumps(told, ensure_ascii=False)
    for secret in (text, cookie, other, "ofviewer", "viewer@example.org", kept.hash.hex()):
        assert secret not in text_of_all
    assert {name: type(rows) for name, rows in told.items() if name not in ("made_at", "person")} == {
        name: list for name in told if name not in ("made_at", "person")
    }


async def test_it_needs_a_fresh_proof_and_a_person(door: Front, keys: Any) -> None:
    """AUTH-10: an export; a token gets none."""
    _, cookie = await door.sign_in_as("admin")
    _, text = await keys.make("admin", "read", "people", "audit")
    assert await keys.status("GET", "/account/data", text) == (403, "token_scope")
    door.clock.advance(301)
    async with door.ask("GET", "/account/data", cookie) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (403, "step_up")


async def test_every_table_is_told_or_holds_nothing_of_people(door: Front) -> None:
    """PRV-4, PRV-6: a table that refers to people is part of the file, and goes when they go."""
    rows = await door.store.database.rows(
        "SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    )
    queries = " ".join(own_data._TABLES.values())
    told = {row["name"] for row in rows if f" FROM {row['name']} " in f"{queries} "}
    of_people = {row["name"] for row in rows if "REFERENCES users" in row["sql"]}
    untold = of_people - told - {"links"}
    assert untold == set()
    for row in rows:
        if row["name"] in of_people:
            assert "ON DELETE CASCADE" in row["sql"] or "ON DELETE SET NULL" in row["sql"], row["name"]


async def test_a_room_joins_in_once(door: Front) -> None:
    async def runs(user: Any) -> list[str]:
        return [user.email]

    door.own_data.register("conversations_test", runs)
    with pytest.raises(ValueError, match="told already"):
        door.own_data.register("conversations_test", runs)
    with pytest.raises(ValueError, match="told already"):
        door.own_data.register("sessions", runs)
    _, cookie = await door.sign_in_as("viewer")
    assert (await fetched(door, cookie))["conversations_test"] == ["viewer@example.org"]


async def test_who_is_removed_leaves_no_name_behind(door: Front, keys: Any) -> None:
    """PRV-4: rows go; the audit log, still whole, never held a name or an address of a person, only ids."""
    _, cookie = await door.sign_in_as("admin")
    person = await door.users.create(
        "zaynab.unique@example.org", "Zaynab Unique", (await door.member("operator")).role, "test"
    )
    secret, _, _ = await door.links.create(person, "console")
    async with door.ask("POST", "/sign-in/link", data={"t": secret}) as answer:
        assert answer.status == 303
    async with door.ask("PATCH", f"/api/users/{person.id}", cookie, json={"role": "viewer"}) as answer:
        assert answer.status == 200
    async with door.ask("DELETE", f"/api/users/{person.id}", cookie) as answer:
        assert answer.status == 200
    tables = await door.store.database.rows("SELECT name FROM sqlite_master WHERE type = 'table'")
    for table in tables:
        everything = [dict(row) for row in await door.store.database.rows(f"SELECT * FROM {table['name']}")]  # noqa: S608
        held = str(everything).lower()
        assert "zaynab" not in held, table["name"]
        if table["name"] != "audit":
            assert person.id not in held, table["name"]
    assert await door.audit.verify() is None


# Names of things, not of people.
THINGS = {("settings.change", "name")}
OF_PEOPLE = {"email", "mail", "name", "to", "inviter"}


def _recorded(path: Path) -> list[tuple[str, str]]:
    """Every (event, name of a detail) that a file's calls to the audit log write."""
    calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
    to_log = [
        call
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and call.func.attr in ("append", "note", "doing")
        and "audit" in ast.unparse(call.func.value).lower()
    ]
    return [(_event(call), word.arg or "") for call in to_log for word in call.keywords]


def _event(call: ast.Call) -> str:
    return next((str(each.value) for each in call.args if isinstance(each, ast.Constant)), "?")


def test_no_audit_record_names_a_person() -> None:
    """PRV-4: the chain cannot be rewritten, so names and mail addresses must never come into it (docs/decisions/0007)."""
    files = [*(ROOT / "appliance").rglob("*.py"), *(ROOT / "webui").rglob("*.py")]
    recorded = {(path.name, *one) for path in files for one in _recorded(path)}
    assert len(recorded) > 40
    named = [one for one in recorded if one[2] in OF_PEOPLE and one[1:] not in THINGS]
    assert named == []
