"""Dangerous acts ask again who one is, and then happen exactly as asked, once (AUTH-7, AUTH-10)."""

from __future__ import annotations

import re
import tempfile
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from support.authenticator import SoftKey
from support.front import Front, front
from support.mailbox import code_in, mailbox, toml

from appliance.identity.sessions import Session
from appliance.identity.users import User
from webui import routes
from webui.guard import COOKIE
from webui.handlers.mailed import ASK_COOKIE
from webui.handlers.passkeys import CHALLENGE_COOKIE

HTML = {"Accept": "text/html,application/xhtml+xml"}


async def stale(door: Front, role: str = "admin", *, remember: bool = False) -> tuple[Session, str]:
    session, cookie = await door.sign_in_as(role, remember=remember)
    door.clock.advance(301)
    return session, cookie


def user_of(session: Session) -> User:
    return session.user


async def prove(door: Front, cookie: str, code: str, status: int = 200) -> str:
    """Prove by what can be typed; the new cookie."""
    async with door.ask("POST", "/api/step-up/code", cookie, json={"code": code}) as answer:
        assert answer.status == status, await answer.text()
        return answer.cookies[COOKIE].value if status == 200 else ""


def held(text: str) -> dict[str, str]:
    """The hidden fields of the form that goes on."""
    form = re.search(r'<form id="held".*?</form>', text, re.DOTALL)
    assert form
    return {
        unescape(name): unescape(value)
        for name, value in re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', form[0])
    }


@pytest.mark.parametrize("remember", [False, True])
async def test_every_fresh_route_refuses_a_stale_session(door: Front, remember: bool) -> None:
    """AUTH-10, DECIDED 14: "stay signed in" sessions like everybody's."""
    session, cookie = await stale(door, remember=remember)
    fresh = [route for route in routes.UI if route.fresh]
    assert len(fresh) > 8
    for route in fresh:
        how: dict[str, Any] = {"json": {}} if route.method in ("POST", "PATCH", "PUT") else {}
        async with door.ask(route.method, re.sub(r"\{[^}]+\}", "nothing", route.path), cookie, **how) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (403, "step_up"), route.path
    assert not door.sessions.fresh(session)


async def test_a_code_makes_fresh_and_brings_a_new_id(door: Front) -> None:
    session, cookie = await stale(door)
    codes = await door.recovery.replace(user_of(session))
    born, remembered = session.born, session.remember
    new = await prove(door, cookie, codes[0])
    assert door.sessions.fresh(session)
    assert (door.sessions.check(cookie), door.sessions.check(new)) == (None, session)
    assert (session.born, session.remember) == (born, remembered), "proving again does not make a session live longer"
    async with door.ask("POST", "/api/users", new, json={"email": "n@example.org"}) as answer:
        assert answer.status == 201
    door.clock.advance(301)
    async with door.ask("POST", "/api/users", new, json={"email": "m@example.org"}) as answer:
        assert answer.status == 403
    await prove(door, new, codes[0], 400)
    assert [r.detail["way"] for r in await door.audit.records() if r.event == "step-up"] == ["recovery"]


async def test_others_proofs_are_refused_and_stay_whole(door: Front) -> None:
    session, cookie = await stale(door, "viewer")
    other = await door.member("operator")
    code = (await door.recovery.replace(other))[0]
    link, _, _ = await door.links.create(other, "console")
    await prove(door, cookie, code, 400)
    await prove(door, cookie, link, 400)
    assert not door.sessions.fresh(session)
    assert await door.recovery.left(other.id) == 10
    assert await door.links.look(link) == "login"


async def test_a_link_from_the_console_can_be_pasted_or_opened(door: Front) -> None:
    session, cookie = await stale(door, "viewer")
    for form in ("{}", "https://croft.localhost/sign-in/link?t={}", "  {}\n"):
        link, _, _ = await door.links.create(user_of(session), "console")
        cookie = await prove(door, cookie, form.format(link))
        assert door.sessions.fresh(session)
        door.clock.advance(301)
    link, _, _ = await door.links.create(user_of(session), "console")
    async with door.ask("POST", "/sign-in/link", cookie, data={"t": link}) as answer:
        assert answer.status == 303
        opened = answer.cookies[COOKIE].value
    assert door.sessions.check(opened) is session, "the same session goes on, so editors and terminals stay"
    assert door.sessions.fresh(session)
    assert door.sessions.check(cookie) is None
    assert door.sessions.of(session.user.id) == [session]


@pytest.mark.parametrize("nonsense", ["", " ", "https://[", "https://croft.localhost/?t=", "croft_lnk_x", "x" * 9000])
async def test_nonsense_is_refused_in_words(door: Front, nonsense: str) -> None:
    _, cookie = await stale(door, "viewer")
    async with door.ask("POST", "/api/step-up/code", cookie, json={"code": nonsense}) as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]["hint"]


async def test_a_mailed_code_makes_fresh_in_the_browser_that_asked() -> None:
    """With mail set up: a code in a letter, for nobody else's session, and without scripts too."""
    with tempfile.TemporaryDirectory(prefix="croft-") as name, mailbox(Path(name), tls="none") as box:
        folder = Path(name)
        (folder / "etc").mkdir()
        (folder / "etc/croft.toml").write_text(toml(box, folder, tls="none"))
        async with front(folder) as door:
            session, cookie = await stale(door, "viewer")
            async with door.ask("POST", "/api/step-up/mail", cookie) as answer:
                assert answer.status == 200
                asking = answer.cookies[ASK_COOKIE].value
            code = code_in(await box.letter())
            other, theirs = await stale(door, "operator")
            both = {"Cookie": f"{COOKIE}={theirs}; {ASK_COOKIE}={asking}"}
            async with door.ask("POST", "/api/step-up/code", json={"code": code}, headers=both) as answer:
                assert answer.status == 400
            await prove(door, cookie, code, 400)
            both = {"Cookie": f"{COOKIE}={cookie}; {ASK_COOKIE}={asking}"}
            async with door.ask("POST", "/api/step-up/code", json={"code": code.lower()}, headers=both) as answer:
                assert answer.status == 200
                cookie = answer.cookies[COOKIE].value
            assert (door.sessions.fresh(session), door.sessions.fresh(other)) == (True, False)
            door.clock.advance(301)
            proof = {"path": "/account/data", "method": "GET", "mail": "on", "code": ""}
            async with door.ask("POST", "/step-up", cookie, data=proof, headers=HTML) as answer:
                assert answer.status == 200
                both = {"Cookie": f"{COOKIE}={cookie}; {ASK_COOKIE}={answer.cookies[ASK_COOKIE].value}"}
            proof |= {"mail": "", "code": code_in(await box.letter(1))}
            async with door.ask("POST", "/step-up", data=proof, headers=HTML | both) as answer:
                assert (answer.status, answer.headers["Location"]) == (303, "/account/data")


async def test_a_passkey_makes_fresh_once(door: Front) -> None:
    session, cookie = await door.sign_in_as("viewer")
    user, key = user_of(session), SoftKey()
    options = await door.passkeys.creation_options(user, session.id, "b")
    await door.passkeys.add(user, key.create(options), "Laptop", session_id=session.id, browser="b")
    door.clock.advance(301)

    async def ask(path: str, json: Any, challenge: str) -> Any:
        both = {"Cookie": f"{COOKIE}={cookie}; {CHALLENGE_COOKIE}={challenge}"}
        async with door.ask("POST", path, json=json, headers=both) as answer:
            return answer.status, await answer.json(), answer.cookies

    status, found, given = await ask("/api/step-up/options", None, "")
    assert (status, len(found["allowCredentials"])) == (200, 1)
    browser = given[CHALLENGE_COOKIE].value
    answer = {"credential": key.get(found)}
    assert (await ask("/api/step-up/passkey", answer, "another-browser"))[0] == 400
    _, found, _ = await ask("/api/step-up/options", None, browser)
    answer = {"credential": key.get(found)}
    status, _, given = await ask("/api/step-up/passkey", answer, browser)
    assert status == 200
    assert door.sessions.fresh(session)
    cookie = given[COOKIE].value
    assert (await ask("/api/step-up/passkey", answer, browser))[0] == 400, "a replay"


async def test_a_plain_form_goes_on_as_it_was_sent(door: Front) -> None:
    """Without scripts: prove, press on; what was typed is all there, and it happens once."""
    session, cookie = await stale(door, "viewer")
    codes = await door.recovery.replace(user_of(session))
    sent = {"next": "/account/start", "note": '<b>مرحبا & "bye"</b>\n\'', "mail_password": "hush"}
    async with door.ask("POST", "/account/recovery-codes", cookie, data=sent, headers=HTML) as answer:
        text = await answer.text()
        assert answer.status == 403
        assert answer.headers["Cache-Control"] == "no-store"
    assert "hush" not in text
    carried = {name: value.replace("\r\n", "\n") for name, value in held(text).items()}
    assert carried == {"next": sent["next"], "note": sent["note"]}
    assert await door.recovery.left(session.user.id) == 10
    packed = unescape(re.search(r'name="fields" value="([^"]*)"', text)[1])  # type: ignore[index]
    proof = {"path": "/account/recovery-codes", "method": "POST", "fields": packed}
    async with door.ask("POST", "/step-up", cookie, data=proof | {"code": "wrong"}, headers=HTML) as answer:
        assert answer.status == 400
        assert held(await answer.text()).keys() == carried.keys(), "a typing error loses nothing"
    async with door.ask("POST", "/step-up", cookie, data=proof | {"code": codes[3]}, headers=HTML) as answer:
        text = await answer.text()
        assert answer.status == 200
        cookie = answer.cookies[COOKIE].value
    assert await door.recovery.left(session.user.id) == 9, "proving is not doing"
    async with door.ask("POST", "/account/recovery-codes", cookie, data=held(text), headers=HTML) as answer:
        assert answer.status == 200
    assert await door.recovery.left(session.user.id) == 10


async def test_no_more_is_carried_along_than_a_form_may_hold(door: Front) -> None:
    """WEB-16: a page of a hundred thousand fields would have everybody wait while it is made."""
    _, cookie = await stale(door, "viewer")
    form = {
        "path": "/account",
        "method": "POST",
        "fields": "&".join(f"f{number}=" for number in range(33)),
        "code": "x",
    }
    async with door.ask("POST", "/step-up", cookie, data=form, headers=HTML) as answer:
        assert answer.status == 400
        assert "f32" not in await answer.text()


async def test_a_page_that_needs_proof_comes_after_it(door: Front) -> None:
    session, cookie = await stale(door, "viewer")
    codes = await door.recovery.replace(user_of(session))
    async with door.ask("GET", "/account/data?as=file", cookie, headers=HTML) as answer:
        assert answer.status == 403
        assert 'name="path" value="/account/data?as=file"' in unescape(await answer.text())
    proof = {"path": "/account/data?as=file", "method": "GET", "code": codes[0]}
    async with door.ask("POST", "/step-up", cookie, data=proof, headers=HTML) as answer:
        assert (answer.status, answer.headers["Location"]) == (303, "/account/data?as=file")


@pytest.mark.parametrize(
    "path", ["https://evil.example/", "//evil.example", "javascript:alert(1)", "/\\evil.example", "evil", ""]
)
async def test_the_way_on_stays_here(door: Front, path: str) -> None:
    session, cookie = await stale(door, "viewer")
    codes = await door.recovery.replace(user_of(session))
    proof = {"path": path, "method": "GET", "code": codes[0]}
    async with door.ask("POST", "/step-up", cookie, data=proof, headers=HTML) as answer:
        assert (answer.status, answer.headers["Location"]) == (303, "/")
        cookie = answer.cookies[COOKIE].value
    proof |= {"method": "DELETE", "code": codes[1]}
    async with door.ask("POST", "/step-up", cookie, data=proof, headers=HTML) as answer:
        assert answer.status == 400
    assert await door.recovery.left(session.user.id) == 9


async def test_guessing_at_a_stolen_session_is_throttled(door: Front) -> None:
    """AUTH-4: the sixth guess is not even looked at, right or wrong."""
    session, cookie = await stale(door, "viewer")
    codes = await door.recovery.replace(user_of(session))
    for _ in range(5):
        await prove(door, cookie, "AAAA-BBBB-CCCC-DDDD", 400)
    await prove(door, cookie, codes[0], 400)
    assert await door.recovery.left(session.user.id) == 10


async def test_passkeys_of_others_cannot_be_touched(door: Front) -> None:
    mine, cookie = await door.sign_in_as("viewer")
    other = await door.member("operator")
    options = await door.passkeys.creation_options(other, "s", "b")
    theirs = await door.passkeys.add(other, SoftKey().create(options), "Theirs", session_id="s", browser="b")
    for method, path, how in (
        ("PATCH", f"/api/passkeys/{theirs.id}", {"json": {"name": "mine"}}),
        ("DELETE", f"/api/passkeys/{theirs.id}", {}),
        ("POST", f"/account/passkeys/{theirs.id}/name", {"data": {"name": "mine"}}),
        ("POST", f"/account/passkeys/{theirs.id}/remove", {"data": {}}),
    ):
        async with door.ask(method, path, cookie, **how) as answer:
            assert answer.status in (400, 404)
    assert [each.name for each in await door.passkeys.of(other.id)] == ["Theirs"]
    assert await door.passkeys.of(mine.user.id) == []


async def test_devices_are_ones_own_and_forgettable(door: Front) -> None:
    session, cookie = await door.sign_in_as("viewer")
    _, admin = await door.sign_in_as("admin")
    device = (await door.devices.of(session.user.id))[0]
    async with door.ask("DELETE", f"/api/devices/{device.id}", admin) as answer:
        assert answer.status == 404
    async with door.ask("DELETE", f"/api/devices/{device.id}", cookie) as answer:
        assert answer.status == 200
    assert await door.devices.of(session.user.id) == []
    assert door.sessions.check(cookie) is session
