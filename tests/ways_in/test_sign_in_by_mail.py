"""Signing in by mail, from the address to the session, over the real web application and a real mail server."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.cookies import SimpleCookie
from typing import Any

import aiohttp
import pytest
from support.front import UI, Front
from support.mailbox import Mailbox, code_in, html, link_in, plain
from support.visitor import Visitor, token
from support.waiting import until

from appliance.database import Database
from appliance.errors import TooMany
from appliance.identity import mailed
from appliance.identity.mailed import ALPHABET, CODE_LENGTH, CodeRefused, MailedRefused, OtherBrowser, folded, new_code
from appliance.identity.sign_in import Caller
from appliance.identity.users import Role
from webui.guard import DEVICE_COOKIE
from webui.handlers.mailed import ASK_COOKIE

HERE = Caller("192.0.2.1", "test")


async def asked(door: Front, email: str = "viewer@example.org", **form: str) -> Visitor:
    visitor = Visitor(door)
    assert await visitor.ask("POST", "/sign-in/mail", email=email, **form) == (303, "", "/sign-in/code")
    return visitor


async def member(door: Front, email: str = "viewer@example.org") -> None:
    await door.member("admin")
    await door.users.create(email, "سلمى حداد", Role.viewer, "test")


async def test_by_the_link(door: Front, box: Mailbox) -> None:
    await member(door)
    visitor = await asked(door)
    link = link_in(await box.letter())
    assert link.startswith(f"{UI}/sign-in/mailed?t=croft_eml_")
    status, page, _ = await visitor.ask("GET", link.removeprefix(UI))
    assert status == 200
    assert "/sign-in/mailed" in page
    assert not visitor.signed_in, "a GET uses nothing up (DECIDED 20)"
    assert (await visitor.ask("POST", "/sign-in/mailed", t=token(link)))[::2] == (303, "/")
    assert visitor.signed_in
    assert ASK_COOKIE not in visitor.cookies
    again = Visitor(door)
    again.cookies = dict(visitor.cookies)
    assert (await again.ask("POST", "/sign-in/mailed", t=token(link)))[0] == 400


async def test_by_the_code(door: Front, box: Mailbox) -> None:
    """Typed as people type: small letters, spaces, other dashes, other digits."""
    await member(door)
    visitor = await asked(door, remember="on")
    code = code_in(await box.letter())
    arabic = str.maketrans("23456789", "٢٣٤٥٦٧٨٩")
    status, page, _ = await visitor.ask("GET", "/sign-in/code")
    assert status == 200
    assert "viewer@example.org" in page
    assert (await visitor.ask("POST", "/sign-in/code", code=f" {code.lower().replace('-', ' – ').translate(arabic)} "))[
        0
    ] == 303
    assert visitor.signed_in
    assert door.sessions.of()[0].remember, "as chosen when asking"
    assert (await Visitor(door).ask("POST", "/sign-in/mailed", t=token(link_in(await box.letter()))))[0] == 400


async def test_only_in_the_browser_that_asked(door: Front, box: Mailbox) -> None:
    """DECIDED 20: neither link nor code signs a stranger in, and the link is not used up by their trying."""
    await member(door)
    visitor, stranger = await asked(door), Visitor(door, "192.0.2.77")
    link, code = link_in(await box.letter()), code_in(await box.letter())
    status, page, _ = await stranger.ask("POST", "/sign-in/mailed", t=token(link))
    assert status == 400
    assert "other browser" in page
    assert (await stranger.ask("POST", "/sign-in/code", code=code))[0] == 400
    await stranger.ask("POST", "/sign-in/mail", email="viewer@example.org")
    assert (await stranger.ask("POST", "/sign-in/code", code=code))[0] == 400, "a code belongs to one asking"
    assert not stranger.signed_in
    assert (await visitor.ask("POST", "/sign-in/mailed", t=token(link)))[0] == 303


async def test_ten_minutes_and_no_longer(door: Front, box: Mailbox) -> None:
    """By uptime: a clock that jumps ends nothing and revives nothing."""
    await member(door)
    early, late = await asked(door), await asked(door)
    first, second = link_in(await box.letter(0)), link_in(await box.letter(1))
    door.clock.wall += 86400
    door.clock.boot += 599
    assert (await early.ask("POST", "/sign-in/mailed", t=token(first)))[0] == 303
    door.clock.wall -= 86400
    door.clock.boot += 2
    assert (await late.ask("POST", "/sign-in/mailed", t=token(second)))[0] == 400
    assert (await late.ask("GET", "/sign-in/code"))[::2] == (303, "/sign-in")


async def test_an_older_mail_of_the_same_browser_still_works(door: Front, box: Mailbox) -> None:
    await member(door)
    visitor = await asked(door)
    code = code_in(await box.letter(0))
    await visitor.ask("POST", "/sign-in/mail", email="viewer@example.org")
    later = link_in(await box.letter(1))
    assert (await visitor.ask("POST", "/sign-in/code", code=code))[0] == 303
    asker = Visitor(door)
    asker.cookies = dict(visitor.cookies)
    assert (await asker.ask("POST", "/sign-in/mailed", t=token(later)))[0] == 400, "the other one died with it"


async def test_a_code_takes_five_tries(door: Front) -> None:
    """AUTH-4: the right one does not help after that, from whatever network."""
    await member(door)
    ask = await door.mailed.ask("viewer@example.org", HERE, "", remember=False)

    async def attempt(code: str, number: int) -> Any:
        caller = Caller(f"198.51.100.{number}", "test")
        account = await door.mailed.try_code(ask.browser, Caller("192.0.2.1", "test"))
        return await door.sign_in.by(
            "code",
            lambda tx: door.mailed.redeem_code(tx, code, ask.browser),
            caller,
            account=account,
            refused=CodeRefused,
        )

    for number in range(mailed.TRIES):
        with pytest.raises(CodeRefused):
            await attempt("22222222", number)
    with pytest.raises(CodeRefused):
        await attempt(ask.code, 100)
    fresh = await door.mailed.ask("viewer@example.org", HERE, "", remember=False)
    ask = fresh
    assert (await attempt(fresh.code, 101)).session.user.email == "viewer@example.org"


async def test_strangers_and_members_get_the_same(door: Front, box: Mailbox) -> None:
    """AUTH-5: page, status, headers and cookies do not tell; only the mailbox does."""
    await member(door)
    suspended = await door.users.create("gone@example.org", "", Role.viewer, "test")
    await door.users.change(suspended, "test", suspended=True)
    seen = set()
    for email in ("viewer@example.org", "nobody@example.org", "gone@example.org"):
        visitor = Visitor(door)
        sent = {"Accept": "text/html", "X-Forwarded-For": "192.0.2.50"}
        async with door.ask("POST", "/sign-in/mail", data={"email": email}, headers=sent) as answer:
            cookie = SimpleCookie(answer.headers["Set-Cookie"])[ASK_COOKIE]
            visitor.cookies[ASK_COOKIE] = cookie.value
            kept = {name: value for name, value in answer.headers.items() if name not in ("Date", "Set-Cookie")}
            seen.add((answer.status, await answer.text(), str(kept), cookie["max-age"], len(cookie.value)))
        page = (await visitor.ask("GET", "/sign-in/code"))[1]
        wrong = await visitor.ask("POST", "/sign-in/code", code="WRONGONE")
        seen.add(
            (
                wrong[0],
                page.replace(email, "ADDRESS")
                == (await visitor.ask("GET", "/sign-in/code"))[1].replace(email, "ADDRESS"),
            )
        )
    assert len(seen) == 2, seen
    await box.letter()
    assert [envelope.rcpt_tos for envelope, _ in box.letters] == [["viewer@example.org"]]


@asynccontextmanager
async def counted(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[str]]:
    """Every statement that is executed meanwhile, by its first words."""
    import aiosqlite

    told: list[str] = []
    for name in ("execute", "execute_fetchall"):
        real = getattr(aiosqlite.Connection, name)

        def wrapped(self: Any, sql: str, *args: Any, _real: Any = real, **more: Any) -> Any:
            told.append(" ".join(sql.split()[:4]))
            return _real(self, sql, *args, **more)

        monkeypatch.setattr(aiosqlite.Connection, name, wrapped)
    yield told
    monkeypatch.undo()


async def test_asking_is_the_same_work_for_everybody(door: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """AUTH-5: the same statements and the same commits, in the same order."""
    await member(door)
    await asked(door)  # so that both find a template that is compiled
    work: dict[str, list[str]] = {}
    for email in ("viewer@example.org", "nobody@example.org"):
        async with counted(monkeypatch) as told:
            await asked(door, email)
        work[email] = [
            words for words in told if not words.startswith(("SELECT max(seq)", "INSERT INTO audit_checkpoints"))
        ]
    assert work["viewer@example.org"] == work["nobody@example.org"]
    assert len(work["viewer@example.org"]) > 10


async def test_nobody_waits_for_the_mail_server(door: Front, box: Mailbox) -> None:
    """A server that takes seconds for a letter does not show in the answer."""
    await member(door)
    box.slow = 5
    began = time.monotonic()
    await asked(door)
    await asked(door, "nobody@example.org")
    assert time.monotonic() - began < 4, "less than the server took for one letter"
    box.slow = 0


async def test_nobody_is_mail_bombed(door: Front, box: Mailbox) -> None:
    """AUTH-4: a few mails to an address, then pauses; who asks sees no difference, and a known device has its own allowance."""
    await member(door)
    user = await door.users.find("viewer@example.org")
    secret, _, _ = await door.links.create(user, "console")
    device = (await door.sign_in.by_link(secret, HERE)).device
    for number in range(20):
        ask = await door.mailed.ask("VIEWER@example.org", Caller(f"198.51.100.{number}", "x"), "", remember=False)
        assert (ask.to is not None) is (number < mailed.PER_ADDRESS.failures)
    known = Caller("198.51.100.200", "x", device)
    assert (await door.mailed.ask("viewer@example.org", known, "", remember=False)).to is not None
    sent = 0
    for minute in range(60):
        door.clock.advance(60)
        for _ in range(3):
            ask = await door.mailed.ask("viewer@example.org", Caller(f"203.0.113.{minute}", "x"), "", remember=False)
            sent += ask.to is not None
    assert 0 < sent < 40, f"{sent} mails in an hour"


async def test_one_network_asks_only_so_often(door: Front) -> None:
    await member(door)
    for number in range(mailed.PER_NETWORK.failures):
        await door.mailed.ask(f"n{number}@example.org", HERE, "", remember=False)
    with pytest.raises(TooMany) as caught:
        await door.mailed.ask("more@example.org", HERE, "", remember=False)
    assert caught.value.retry_after > 0
    visitor = Visitor(door, HERE.address)
    status, page, _ = await visitor.ask("POST", "/sign-in/mail", email="kept@example.org", remember="on")
    assert status == 429
    assert 'value="kept@example.org"' in page, "nothing typed is lost"
    assert "checked" in page


async def test_the_owner_is_not_locked_out_by_failing_strangers(door: Front, box: Mailbox) -> None:
    """AUTH-4: twenty networks fail on the account; its owner still gets in from where one of them sits, on a known device."""
    await member(door)
    user = await door.users.find("viewer@example.org")
    secret, _, _ = await door.links.create(user, "console")
    device = (await door.sign_in.by_link(secret, HERE)).device
    for number in range(20):
        stranger = Visitor(door, f"198.51.100.{number}")
        await stranger.ask("POST", "/sign-in/mail", email="viewer@example.org")
        for _ in range(6):
            assert (await stranger.ask("POST", "/sign-in/code", code="22222222"))[0] == 400
    mails = len(box.letters)
    owner = Visitor(door, "198.51.100.3")
    owner.cookies[DEVICE_COOKIE] = device
    await owner.ask("POST", "/sign-in/mail", email="viewer@example.org")
    await until(lambda: len(box.letters) > mails, "the owner's own letter", 20)
    code = code_in(box.letters[-1][1])
    assert (await owner.ask("POST", "/sign-in/code", code=code))[0] == 303
    assert owner.signed_in


async def test_two_browsers_race_for_one_link_and_one_code(door: Front) -> None:
    """Exactly one wins, whichever way each comes."""
    await member(door)
    for _ in range(3):
        ask = await door.mailed.ask("viewer@example.org", HERE, "", remember=False)

        async def by_code(number: int, ask: Any = ask) -> Any:
            await door.mailed.try_code(ask.browser, Caller("192.0.2.1", "test"))
            return await door.sign_in.by(
                "code",
                lambda tx: door.mailed.redeem_code(tx, ask.code, ask.browser),
                Caller(f"198.51.100.{number}", "x"),
                refused=CodeRefused,
            )

        async def by_mail(number: int, ask: Any = ask) -> Any:
            return await door.sign_in.by(
                "mail",
                lambda tx: door.mailed.redeem_link(tx, ask.link, ask.browser),
                Caller(f"198.51.100.{number}", "x"),
                refused=MailedRefused,
            )

        tried = await asyncio.gather(
            *(by_code(number) for number in range(2)),
            *(by_mail(number + 100) for number in range(20)),
            return_exceptions=True,
        )
        won = [one for one in tried if not isinstance(one, BaseException)]
        assert len(won) == 1
        assert all(isinstance(one, (CodeRefused, MailedRefused)) for one in tried if isinstance(one, BaseException))
        door.clock.advance(3600)


async def test_200_parallel_requests_leave_room_for_the_rest(door: Front) -> None:
    """/healthz answers throughout; each request gets an answer, most of them a refusal for asking too often."""
    await member(door)
    slowest, asking = 0.0, True

    async def watch() -> None:
        nonlocal slowest
        # A client of its own: the other one has 100 connections at most and would make this wait for one.
        own = aiohttp.UnixConnector(str(door.settings.paths.socket("web")))
        async with aiohttp.ClientSession(connector=own) as client:
            while asking:
                began = time.monotonic()
                async with client.get("http://x/healthz", headers={"Host": "croft.localhost"}) as answer:
                    assert answer.status == 200
                slowest = max(slowest, time.monotonic() - began)
                await asyncio.sleep(0.01)

    watching = asyncio.create_task(watch())
    visitors = [Visitor(door, f"203.0.113.{number % 4}") for number in range(200)]
    answers = await asyncio.gather(*(one.ask("POST", "/sign-in/mail", email="viewer@example.org") for one in visitors))
    asking = False
    await watching
    statuses = [status for status, _, _ in answers]
    assert set(statuses) == {303, 429}
    assert statuses.count(303) == 4 * mailed.PER_NETWORK.failures
    assert slowest < 2, f"/healthz took {slowest:.2f} s"
    assert door.mailer.waiting <= mailed.PER_ADDRESS.failures


async def test_the_mail_reads_well(door: Front, box: Mailbox) -> None:
    """In the person's language and direction, plain text beside it, nothing fetched from anywhere (PRV-5)."""
    await member(door)
    user = await door.users.find("viewer@example.org")
    await door.users.prefer(user, language="ar")
    await asked(door)
    message = await box.letter()
    assert message["Content-Language"] == "ar"
    assert "تسجيل الدخول" in message["Subject"]
    page = html(message)
    assert '<html lang="ar" dir="rtl">' in page
    assert "text-align:right" in page
    assert set(re.findall(r"https?://[^\s\"'<>]+", page)) == {link_in(message)}
    assert not re.search(r"<(img|script|link|style|iframe|form|object)\b|url\(|@import", page, re.IGNORECASE)
    assert code_in(message) in page
    assert "\n\n" in plain(message)
    assert "<" not in plain(message)


async def test_nothing_usable_is_stored(door: Front) -> None:
    """AUTH-7: neither link nor code nor the browser's cookie can be made from the database; guessing all codes needs the cookie."""
    await member(door)
    ask = await door.mailed.ask("viewer@example.org", HERE, "", remember=False)
    row = await door.store.database.row("SELECT * FROM mailed")
    assert row is not None
    stored = b"".join(bytes(str(value), "utf-8") if not isinstance(value, bytes) else value for value in tuple(row))
    for secret in (ask.link, ask.code, ask.browser):
        assert secret.encode() not in stored


async def test_it_survives_a_restart_of_the_daemon(door: Front) -> None:
    """AUTH-12: another reader of the same store comes to the same end."""
    await member(door)
    ask = await door.mailed.ask("viewer@example.org", HERE, "", remember=False)
    other = mailed.Mailed(door.store.database, door.throttle, door.audit, door.clock, door.store.boot_id)
    assert await other.look(ask.link)
    with pytest.raises(OtherBrowser):
        async with door.store.database.transaction() as tx:
            await other.redeem_link(tx, ask.link, "croft_ask_" + "x" * 43)
    another_boot = mailed.Mailed(door.store.database, door.throttle, door.audit, door.clock, "another boot")
    door.clock.wall += 601
    assert not await another_boot.look(ask.link)


async def test_off_means_off(quiet: Front) -> None:
    await quiet.member("admin")
    visitor = Visitor(quiet)
    status, page, _ = await visitor.ask("GET", "/sign-in")
    assert status == 200
    assert "/sign-in/mail" not in page
    assert "croft login-link" in page
    assert "Mail is not set up" in page
    status, page, _ = await visitor.ask("POST", "/sign-in/mail", email="admin@example.org")
    assert status == 409
    assert "Mail is not set up" in page


@pytest.mark.parametrize(
    "email", ["", "x", "a@b\r\nBcc: c@d", "<a@b.c>", "a@b.c, d@e.f", "a@" + "x" * 300, '"><script>@b.c']
)
async def test_what_is_no_address_is_said_and_kept(door: Front, email: str) -> None:
    await member(door)
    status, page, _ = await Visitor(door).ask("POST", "/sign-in/mail", email=email)
    assert status == 400
    assert "<script>@" not in page
    assert "Check the e-mail address" in page


def test_codes_are_easy_to_read_and_hard_to_guess() -> None:
    assert len(set(ALPHABET)) == 30
    assert not set("01OILU") & set(ALPHABET)
    made = {new_code() for _ in range(500)}
    assert len(made) == 500
    assert all(len(code) == CODE_LENGTH and set(code) <= set(ALPHABET) for code in made)
    assert folded("ab٢٣-۴۵ ＷＸ\u200f") == "AB2345WX"
    assert folded("x" * 10_000) == "X" * 64


async def test_what_is_asked_for_is_kept_for_a_day(door: Front) -> None:
    await door.mailed.ask("one@example.org", HERE, "", remember=False)
    door.clock.advance(mailed.KEPT + 1)
    await door.mailed.ask("two@example.org", HERE, "", remember=False)
    database: Database = door.store.database
    assert [row["address"] for row in await database.rows("SELECT address FROM mailed")] == ["two@example.org"]
