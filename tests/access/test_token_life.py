"""The life of a token: made, used, written down, ended; by its person's fate, by the clock, by a crash."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.front import Front, front

from appliance import token_text
from appliance.errors import CroftError, Invalid
from appliance.identity.api_tokens import DAY, EACH_MAX, TokenConflict, checked
from appliance.identity.users import Role
from appliance.log import scrub
from webui.needs import expiring


def test_a_token_is_recognised_without_asking() -> None:
    """TOK-11: 256 bits, a prefix, a checksum that finds every single wrong character and swap."""
    text = token_text.new()
    assert token_text.well_formed(text)
    assert len({token_text.new() for _ in range(200)}) == 200
    for place in range(len(text)):
        other = "a" if text[place] != "a" else "b"
        assert not token_text.well_formed(text[:place] + other + text[place + 1 :])
    swaps = [text[:n] + text[n + 1] + text[n] + text[n + 2 :] for n in range(10, 58) if text[n] != text[n + 1]]
    assert not any(map(token_text.well_formed, swaps))
    assert scrub(f"GET /x?t={text}") == "GET /x?t=[token]"


@given(st.text())
def test_nothing_else_is_a_token(text: str) -> None:
    assert not token_text.well_formed(text)


def _on_disk(door: Front) -> bytes:
    return b"".join(path.read_bytes() for path in Path(door.folder).rglob("croft.db*"))


async def test_the_store_holds_no_usable_token(door: Front, keys: Any) -> None:
    """TOK-11, AUTH-7: a dump yields nothing that opens the door."""
    token, text = await keys.make("admin", "read")
    dumped = _on_disk(door)
    assert text.encode() not in dumped
    assert text[10:40].encode() not in dumped
    rows = [dict(row) for row in await door.store.database.rows("SELECT * FROM api_tokens")]
    stored = [value for row in rows for value in row.values()]
    for value in stored:
        shown = value.hex() if isinstance(value, bytes) else str(value)
        assert (await keys.status("GET", "/api/status", shown, headers={"X-Forwarded-For": "::1"}))[0] in (401, 429)
    assert repr(token).find(token.hash.hex()) == -1


async def test_last_use_is_written_lazily(door: Front, keys: Any) -> None:
    token, text = await keys.make("admin", "read")
    before = (await door.store.database.rows("PRAGMA data_version"))[0][0]
    for _ in range(20):
        assert (await keys.status("GET", "/api/me", text))[0] == 200
    assert (await door.store.database.rows("PRAGMA data_version"))[0][0] == before, "no commit for a request"
    assert (token.used_address, token.used_at) == ("192.0.2.9", door.clock.now())
    await door.api_tokens.save()
    row = await door.store.database.row("SELECT used_at, used_address FROM api_tokens")
    assert row is not None
    assert tuple(row) == (door.clock.now(), "192.0.2.9")


async def test_expiry_by_either_clock(door: Front, keys: Any) -> None:
    """A clock set back revives nothing, one set far ahead ends everything only as long as it is."""
    token, text = await keys.make("admin", "read", days=7)
    door.clock.advance(7 * DAY - 1)
    assert door.api_tokens.check(text) is token
    door.clock.advance(1)
    assert door.api_tokens.check(text) is None
    door.clock.wall -= 3 * DAY
    assert door.api_tokens.check(text) is None


async def test_there_are_no_tokens_without_an_end(door: Front) -> None:
    for days in (0, -1, 366, 10**9):
        with pytest.raises(Invalid) as told:
            checked("x", ["read"], days, Role.admin)
        assert told.value.code == "token_days"
    with pytest.raises(Invalid):
        checked("x", [], 1, Role.admin)
    with pytest.raises(Invalid):
        checked("x", ["read", "root"], 1, Role.admin)


@pytest.mark.parametrize("name", ["", "  ", "a\u202eb", "a\u2066b", "x\x1b[31m", "a\x00b", "n" * 61, "a\ue000"])
def test_names_that_lie_or_hide_are_refused(name: str) -> None:
    with pytest.raises(Invalid):
        checked(name, ["read"], 1, Role.admin)


async def test_each_person_has_a_bounded_number(door: Front, keys: Any) -> None:
    for number in range(EACH_MAX):
        await keys.make("admin", "read", name=f"t{number}", days=1 if number == 0 else 30)
    with pytest.raises(TokenConflict):
        await keys.make("admin", "read", name="one more")
    await keys.make("viewer", "read", name="t")
    with pytest.raises(TokenConflict):
        await keys.make("viewer", "read", name="t")
    door.clock.advance(DAY)
    await keys.make("admin", "read", name="one more")
    door.clock.advance(62 * DAY)
    await keys.make("admin", "read", name="later")
    assert [token.name for token in door.api_tokens.of((await door.member("admin")).id)] == ["later"], (
        "old ones are cleared"
    )


async def test_many_made_at_once_stay_within_the_bound(door: Front, keys: Any) -> None:
    made = await asyncio.gather(*(keys.make("admin", "read", name=f"t{n}") for n in range(50)), return_exceptions=True)
    assert sum(isinstance(one, tuple) for one in made) == EACH_MAX
    assert all(isinstance(one, (tuple, TokenConflict)) for one in made)


@pytest.mark.parametrize("fate", ["suspended", "demoted", "removed"])
async def test_what_happens_to_the_person_happens_to_the_token(door: Front, keys: Any, fate: str) -> None:
    """AUTH-9, DESIGN 8: the next request is refused, and open streams are closed within two seconds."""
    _, cookie = await door.sign_in_as("admin")
    _, text = await keys.make("operator", "services", "read")
    async with keys.ask("GET", "/api/services/ide/logs/stream", text) as stream:
        assert stream.status == 200
        await stream.content.readany()
        path = "/api/users/operator@example.org"
        change = {"suspended": {"suspended": True}, "demoted": {"role": "viewer"}}.get(fate)
        async with door.ask("PATCH" if change else "DELETE", path, cookie, json=change) as answer:
            assert answer.status == 200
        status, _ = await keys.status("GET", "/api/services/ide/logs", text)
        assert status == (403 if fate == "demoted" else 401)
        async with asyncio.timeout(2):
            while await _read(stream):
                pass
    assert len(door.api_tokens.of()) == (0 if fate == "removed" else 1)
    if fate == "suspended":
        async with door.ask("PATCH", path, cookie, json={"suspended": False}) as answer:
            assert answer.status == 200
        assert (await keys.status("GET", "/api/services", text))[0] == 200


async def _read(stream: Any) -> bytes:
    try:
        return bytes(await stream.content.readany())
    except (ConnectionError, OSError, asyncio.IncompleteReadError):
        return b""
    except Exception as error:
        if type(error).__name__ == "ClientPayloadError":
            return b""
        raise


async def test_an_expired_token_loses_its_stream(door: Front, keys: Any) -> None:
    _, text = await keys.make("operator", "services", days=1)
    async with keys.ask("GET", "/api/services/ide/logs/stream", text) as stream:
        await stream.content.readany()
        door.clock.advance(DAY + 1)
        await door.api_tokens.save()
        async with asyncio.timeout(2):
            while await _read(stream):
                pass


async def test_revoking_against_using(door: Front, keys: Any) -> None:
    """A5: from the moment revoking has answered, no request passes, however many were on their way."""
    for _ in range(5):
        token, text = await keys.make("admin", "read", "people")
        over = asyncio.Event()
        late: list[int] = []

        async def use(text: str = text, over: asyncio.Event = over, late: list[int] = late) -> None:
            for number in range(12):
                after = over.is_set()
                network = {"X-Forwarded-For": f"2001:db8:{id(over) % 60000:x}:{number:x}::1"}
                status, _ = await keys.status("GET", "/api/me", text, headers=network)
                if after:
                    late.append(status)

        async def revoke(token: Any = token, over: asyncio.Event = over) -> None:
            await asyncio.sleep(0.01)
            await door.api_tokens.revoke([token], "test")
            over.set()

        await asyncio.gather(*(use() for _ in range(4)), revoke())
        assert set(late) <= {401, 429}
        assert door.api_tokens.check(text) is None


async def test_revoked_means_revoked_even_when_the_disk_does_not_take_it(door: Front, keys: Any) -> None:
    """A5, R10."""
    token, text = await keys.make("admin", "read")
    await door.store.database._writer.execute("PRAGMA query_only = ON")
    with pytest.raises((sqlite3.OperationalError, CroftError)):
        await door.api_tokens.revoke([token], "test")
    assert door.api_tokens.check(text) is None
    await door.store.database._writer.execute("PRAGMA query_only = OFF")
    await door.api_tokens.save()
    assert await door.store.database.rows("SELECT 1 FROM api_tokens") == []
    assert len(await door.audit.records(event="token.revoke")) == 1


async def test_what_is_about_to_end_is_said(door: Front, keys: Any) -> None:
    """Home names a token a week before it ends, and a week after."""
    user = await door.member("admin")
    await keys.make("admin", "read", name="backup", days=30)
    needs = expiring(door.api_tokens)
    assert await needs(user) == []
    door.clock.advance(24 * DAY)
    assert [(need.text.key, need.text.params["name"]) for need in await needs(user)] == [("tokens.need.soon", "backup")]
    door.clock.advance(7 * DAY)
    assert [need.text.key for need in await needs(user)] == ["tokens.need.over"]
    door.clock.advance(14 * DAY)
    assert await needs(user) == []


KILLED = """
import asyncio, sys
from pathlib import Path
from support.front import front
from appliance.clock import SystemClock
from appliance.identity.api_tokens import checked
from appliance.identity.users import Role

async def main():
    async with front(Path(sys.argv[1]), SystemClock()) as door:
        user = await door.users.create("owner@example.org", "Owner", Role.admin, "test")
        kept, text = await door.api_tokens.create(user, checked("kept", ["read"], 30, Role.admin), user.id, "page")
        gone, lost = await door.api_tokens.create(user, checked("gone", ["read"], 30, Role.admin), user.id, "page")
        await door.api_tokens.revoke([gone], user.id)
        print(text, lost, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_kill_nine_keeps_and_revives_nothing() -> None:
    """AUTH-12: what was made works after a crash, what was revoked does not."""
    folder = Path(tempfile.mkdtemp(prefix="croft-"))
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{tests}:{tests.parent}"}
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, str(folder), stdout=subprocess.PIPE, env=environment
    )
    try:
        assert child.stdout is not None
        kept, gone = (await asyncio.wait_for(child.stdout.readline(), 30)).decode().split()
        child.send_signal(signal.SIGKILL)
        await child.wait()
        from appliance.clock import SystemClock

        async with front(folder, SystemClock()) as life:
            assert life.api_tokens.check(kept) is not None
            assert life.api_tokens.check(gone) is None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
        shutil.rmtree(folder, ignore_errors=True)


async def test_tokens_never_reach_the_log_or_the_audit(
    door: Front, keys: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """TOK-6, LOG-5: canaries sent in every place a program might put them."""
    caplog.set_level("DEBUG")
    canaries = [token_text.new() for _ in range(40)]
    _, good = await keys.make("admin", "read", "audit", "services", name="canary")
    canaries.append(good)
    for number, text in enumerate(canaries):
        network: dict[str, str | None] = {"X-Forwarded-For": f"2001:db8:0:{number:x}::1"}
        await keys.status("GET", f"/api/status?token={text}", text, headers=network)
        await keys.status("GET", f"/nowhere/{text}", text, headers=network)
        await keys.status("POST", f"/api/services/{text}/restart", good, headers=network)
        await keys.status("POST", "/api/connect/token", text, json={"code": text, "verifier": text}, headers=network)
        await keys.status(
            "GET", "/api/me", good, headers={**network, "User-Agent": text, "Referer": f"https://x/{text}"}
        )
    records = json.dumps([record.detail for record in await door.audit.records(limit=1000)])
    logged = "\n".join(record.getMessage() + str(vars(record)) for record in caplog.records if record.name != "asyncio")
    stored = _on_disk(door)
    for text in canaries:
        assert text not in records
        assert text.encode() not in stored
        assert text not in scrub(logged)
