"""What strangers, members and half-gone members try at the front door, and must not get."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from support.authenticator import SoftKey
from support.front import Front
from support.visitor import Visitor
from support.waiting import until

from appliance.errors import Conflict, Invalid, TooMany
from appliance.identity import mailed, throttle
from appliance.identity.sign_in import Caller
from appliance.identity.throttle import PER_CALLER
from appliance.identity.users import Role, check_email
from webui.guard import COOKIE

HTML = {"Accept": "text/html"}


async def records(door: Front, event: str = "") -> int:
    found = await door.store.database.rows("SELECT 1 FROM audit WHERE event = ? OR ? = ''", (event, event))
    return len(found)


# Roles and states that change while something is under way.


@pytest.mark.parametrize(
    ("path", "form"), [("/preferences", {"lang": "ar"}), ("/account/name", {"name": "Somebody Else"})]
)
async def test_nothing_said_meanwhile_gives_a_role_back(
    door: Front, monkeypatch: pytest.MonkeyPatch, path: str, form: dict[str, str]
) -> None:
    """AUTH-11: a person who loses a role while they change their language or name does not keep it in memory."""
    session, cookie = await door.sign_in_as("operator")
    reader = door.store.database
    real, read, go_on = reader.row, asyncio.Event(), asyncio.Event()

    async def slow(sql: str, values: Sequence[Any] = ()) -> Any:
        found = await real(sql, values)
        if "FROM users" in sql:  # a thread that is late with what it has read
            read.set()
            await go_on.wait()
        return found

    monkeypatch.setattr(reader, "row", slow)
    changing = asyncio.ensure_future(_sent(door.ask("POST", path, cookie, data=form)))
    looking = asyncio.ensure_future(read.wait())
    await asyncio.wait({changing, looking}, return_when=asyncio.FIRST_COMPLETED)
    taking = asyncio.ensure_future(door.users.change(session.user, "test", role=Role.viewer))
    await asyncio.wait({taking}, timeout=1)
    go_on.set()
    await asyncio.gather(changing, taking)
    looking.cancel()
    assert session.user.role is Role.viewer
    assert session.user == await door.users.find(session.user.id)


async def _sent(asking: Any) -> None:
    async with asking as answer:
        assert answer.status == 303


@pytest.mark.parametrize("what", ["demoted", "suspended", "signed out", "stale"])
async def test_a_request_that_dribbles_in_is_judged_when_it_is_whole(door: Front, what: str) -> None:
    """AUTH-9, AUTH-10, AUTH-11: who holds a body back until their role is gone has no role."""
    await door.member("admin")
    user = await door.users.create("second@example.org", "second", Role.admin, "test")
    secret, _, _ = await door.links.create(user, "console")
    signed_in = await door.sign_in.by_link(secret, Caller("192.0.2.1", "test"))
    body = json.dumps({"email": "friend@example.org", "role": "admin"}).encode()
    reader, writer = await door.raw()
    writer.write(
        b"POST /api/users HTTP/1.1\r\nHost: croft.localhost\r\nSec-Fetch-Site: same-origin\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nX-Forwarded-For: 192.0.2.9\r\n"
        + f"Cookie: {COOKIE}={signed_in.cookie}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body[:4]
    )
    await writer.drain()
    async with door.ask("GET", "/healthz") as answer:  # by now the other one has been looked at, too
        assert answer.status == 200
    if what == "demoted":
        await door.users.change(user, "test", role=Role.viewer)
    elif what == "suspended":
        await door.users.change(user, "test", suspended=True)
    elif what == "signed out":
        await door.sessions.end([signed_in.session], "revoked", "test")
    else:
        door.clock.advance(301)
    writer.write(body[4:])
    await writer.drain()
    status = int((await reader.read()).split(b" ")[1])
    writer.close()
    assert status in (401, 403)
    assert "friend@example.org" not in [one.email for one in await door.users.all()]


async def test_a_change_of_a_person_reaches_their_sessions_whoever_makes_it(door: Front) -> None:
    """A5: no caller has to think of it."""
    session, cookie = await door.sign_in_as("operator")
    await door.users.change(session.user, "test", suspended=True)
    assert session.ended
    async with door.ask("GET", "/api/me", cookie) as answer:
        assert answer.status == 401
    session, _ = await door.sign_in_as("viewer")
    await door.users.remove(session.user, "test")
    assert session.ended
    await door.sessions.save()
    ended = [one.detail["why"] for one in await door.audit.records(event="session.end")]
    assert sorted(ended) == ["removed", "suspended"]


# What strangers and low roles can make us keep.


async def test_one_network_fills_neither_the_log_nor_the_tables(door: Front) -> None:
    """AUTH-4: asking for mail beyond the limit leaves nothing behind."""
    here = Caller("203.0.113.7", "test")
    for number in range(mailed.PER_NETWORK.failures * 4):
        try:
            await door.mailed.ask(f"n{number}@example.org", here, "", remember=False)
        except TooMany:
            continue
    for table in ("mailed", "bans"):
        rows = await door.store.database.rows(f"SELECT 1 FROM {table}")  # noqa: S608 - our text
        assert len(rows) <= mailed.PER_NETWORK.failures + 1, table
    assert await records(door, "link.mail") <= mailed.PER_NETWORK.failures


async def test_answers_to_challenges_that_prove_nothing_are_not_kept(door: Front) -> None:
    """Asking for challenges and answering them with a key of one's own costs us no memory."""
    for _ in range(20):
        options = await door.passkeys.request_options("sign-in", "browser")
        assert await door.passkeys.check(SoftKey().get(options), "sign-in", "browser") is None
    assert door.passkeys._challenges._taken == {}


async def test_a_member_who_is_refused_again_and_again_does_not_fill_the_log(door: Front) -> None:
    """LOG-6: every place they tried is there; the thousandth try at one adds nothing."""
    _, cookie = await door.sign_in_as("viewer")
    for _ in range(20):
        async with door.ask("GET", "/api/users", cookie) as answer:
            assert answer.status == 403
    async with door.ask("GET", "/api/audit", cookie) as answer:
        assert answer.status == 403
    assert await records(door, "access.denied") == 2
    door.clock.advance(61)
    async with door.ask("GET", "/api/users", cookie) as answer:
        assert answer.status == 403
    assert await records(door, "access.denied") == 3, "a minute later it is news again"


# Proofs.


async def test_a_burst_counts_like_one_after_another(door: Front) -> None:
    """AUTH-4: guesses sent at once are not looked at before the ones before them are counted."""
    admin = await door.member("admin")
    code = (await door.recovery.replace(admin))[0]
    visitors = [Visitor(door, "203.0.113.9") for _ in range(30)]
    guesses = [each.ask("POST", "/sign-in/recovery", code="0000-0000-0000-0000") for each in visitors]
    good = Visitor(door, "203.0.113.9")
    await asyncio.gather(*guesses, good.ask("POST", "/sign-in/recovery", code=code))
    assert not good.signed_in
    assert await door.recovery.left(admin.id) == 10, "a proof that was not looked at is not used up"


def guess(door: Front, network: str) -> Any:
    return Visitor(door, network).ask("POST", "/sign-in/recovery", code="0000-0000-0000-0000")


async def test_a_flood_of_attempts_does_not_stand_before_everybody_elses_changes(door: Front) -> None:
    """A11, T1: each attempt costs a write; a run that starts or a session that ends does not wait for all of them."""
    _, cookie = await door.sign_in_as("viewer")
    guesses = [asyncio.ensure_future(guess(door, f"203.0.113.{number}")) for number in range(60)]
    await asyncio.wait(guesses, return_when=asyncio.FIRST_COMPLETED)
    async with door.ask("POST", "/preferences", cookie, data={"lang": "ar"}) as answer:
        assert answer.status == 303
    assert sum(not one.done() for one in guesses) > 20
    assert {status for status, *_ in await asyncio.gather(*guesses)} == {400}


async def test_attempts_beyond_what_can_wait_are_turned_away_at_once(
    door: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A11: a network that sends more than can be looked at fills neither our memory nor the line of the others."""
    monkeypatch.setattr(throttle, "WAITING_OF_NETWORK", 2)
    async with door.throttle.line("198.51.100.1"), door.throttle.line("198.51.100.2"):
        waiting = [asyncio.ensure_future(guess(door, "203.0.113.9")) for _ in range(2)]
        await until(lambda: door.throttle._waiting["203.0.113.9"] == 2, "two wait")
        assert (await guess(door, "203.0.113.9"))[0] == 429
        other = asyncio.ensure_future(guess(door, "203.0.113.10"))
        await until(lambda: door.throttle._waiting["203.0.113.10"] == 1, "somebody else may wait")
    assert {status for status, *_ in await asyncio.gather(*waiting, other)} == {400}
    assert not door.throttle._waiting


async def test_a_burst_of_wrong_tokens_is_on_record_as_often_as_it_counts(door: Front, keys: Any) -> None:
    """AUTH-4: those sent at once add nothing to the log beyond the five that bring the ban."""
    await asyncio.gather(*(keys.status("GET", "/api/me", f"croft_{number:043}") for number in range(40)))
    assert await records(door, "token.refused") == PER_CALLER.failures


async def test_step_up_keeps_what_was_typed_when_no_mail_can_be_sent(door: Front) -> None:
    _, cookie = await door.sign_in_as("admin")
    door.clock.advance(301)
    form = {"path": "/people/invitations", "method": "POST", "fields": "email=kept%40example.org", "mail": "on"}
    async with door.ask("POST", "/step-up", cookie, data=form, headers=HTML) as answer:
        assert answer.status == 409
        assert "kept@example.org" in await answer.text()


async def test_a_form_that_cannot_be_read_is_refused_before_step_up_too(door: Front) -> None:
    _, cookie = await door.sign_in_as("admin")
    door.clock.advance(301)
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    async with door.ask("POST", "/people/invitations", cookie, data=b"email=%ff", headers=HTML | kind) as answer:
        assert answer.status == 400


# Exports.


async def test_the_audit_log_leaves_only_with_a_fresh_proof_or_a_token_made_for_it(door: Front, keys: Any) -> None:
    """AUTH-10, LOG-9."""
    _, cookie = await door.sign_in_as("admin")
    _, text = await keys.make("admin", "audit")
    _, other = await keys.make("admin", "read", "people", "services")
    door.clock.advance(301)
    for path in ("/audit/export", "/api/audit/export"):
        for method in ("GET", "HEAD"):
            async with door.ask(method, f"{path}?format=jsonl", cookie) as answer:
                assert answer.status == 403
    assert await records(door, "export") == 0
    assert await keys.status("GET", "/api/audit/export", other) == (403, "token_scope")
    async with keys.ask("GET", "/api/audit/export?format=jsonl", text) as answer:
        assert answer.status == 200
    assert [one.actor for one in await door.audit.records(event="export")] == [door.api_tokens.check(text).actor]


# Invitations.


async def test_an_invitation_lives_and_ends_with_who_stands_behind_it(door: Front) -> None:
    """It is shown as what it is, and another admin can stand behind it from then on."""
    admin = await door.member("admin")
    second = await door.users.create("second@example.org", "Second", Role.admin, "test")
    made, secret = await door.invitations.create("new@example.org", Role.admin, second, second.id)
    await door.users.change(second, admin.id, role=Role.viewer)
    assert await door.invitations.look(secret) is None
    assert (await door.invitations.find(made.id)).state == "expired"
    renewed, secret = await door.invitations.renew(made.id, admin, admin.id)
    assert (renewed.state, renewed.inviter) == ("open", admin.name)
    await door.users.remove(second, admin.id)
    visitor = Visitor(door)
    assert (await visitor.ask("POST", "/invitation", t=secret, name="New"))[0] == 303
    assert visitor.signed_in


async def test_an_invitation_of_somebody_removed_can_be_given_a_new_link(door: Front) -> None:
    admin = await door.member("admin")
    second = await door.users.create("second@example.org", "Second", Role.admin, "test")
    made, old = await door.invitations.create("new@example.org", Role.viewer, second, second.id)
    await door.users.remove(second, admin.id)
    _, secret = await door.invitations.renew(made.id, None, "console")
    assert await door.invitations.look(old) is None
    assert await door.invitations.look(secret) is not None


# Addresses.


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("Ali@Example.ORG", "Ali@example.org"),
        ("ali@BÜCHER.example", "ali@bücher.example"),
        ("ali@xn--bcher-kva.example", "ali@bücher.example"),
        ("ali@bu\u0308cher.example", "ali@bücher.example"),
        ("ali@ｅxample.org", "ali@example.org"),
        ("ali@example。org", "ali@example.org"),
        ("سلمى@مثال.إختبار", "سلمى@مثال.إختبار"),
    ],
)
def test_one_mailbox_is_one_address(typed: str, kept: str) -> None:
    """Spellings of one domain (IDNA) are one person; the part before the @ is its server's affair and stays."""
    assert check_email(typed) == kept


@pytest.mark.parametrize(
    "typed",
    ["a@xn--\u0301.org", "a@xn--a.org", "a@\u200dx.org", "a@x..org", "a@-x.org\r\nBcc: b@y.z", "a@" + "ü" * 200],
)
def test_domains_that_are_none_are_refused(typed: str) -> None:
    with pytest.raises(Invalid):
        check_email(typed)


async def test_two_spellings_of_an_address_are_not_two_members(door: Front) -> None:
    await door.users.create("ali@bücher.example", "Ali", Role.viewer, "test")
    for other in ("ALI@BÜCHER.example", "ali@xn--bcher-kva.example"):
        with pytest.raises(Conflict):
            await door.users.create(other, "Ali", Role.admin, "test")
