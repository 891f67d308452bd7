"""Inviting people and looking after members, with forms as browsers without scripts send them and with the API."""

from __future__ import annotations

import asyncio
import html as markup
import re
from typing import Any

import pytest
from support.front import UI, Front
from support.mailbox import PASSWORD, Mailbox, html, link_in, plain
from support.visitor import Visitor, token

from appliance.errors import Conflict
from appliance.identity.invitations import DAY, Invitation, InvitationRefused
from appliance.identity.sign_in import Caller
from appliance.identity.users import Role
from webui.guard import COOKIE

EVIL = """<img src=x onerror=alert(1)>"'></script>{{7*7}}"""


async def admin(door: Front) -> Visitor:
    visitor = Visitor(door)
    _, visitor.cookies[COOKIE] = await door.sign_in_as("admin")
    return visitor


def link_on(page: str) -> str:
    found = re.search(r"<code>(https://[^<]+/invitation\?t=croft_inv_[^<]+)</code>", page)
    assert found, "the page shows the link"
    return markup.unescape(found[1])


async def invite(boss: Visitor, email: str = "new@example.org", **more: str) -> str:
    form = {"email": email, "role": "operator", "days": "7", "note": "", "language": "en"} | more
    status, page, _ = await boss.ask("POST", "/people/invitations", **form)
    assert status == 200, page
    return link_on(page)


async def test_from_the_invitation_to_the_session(quiet: Front) -> None:
    """Without mail: the link is shown once, with its QR code; any browser takes it; the name is the person's own."""
    boss = await admin(quiet)
    link = await invite(boss, note="See you on Monday")
    guest = Visitor(quiet, "203.0.113.9")
    status, page, _ = await guest.ask("GET", link.removeprefix(UI))
    assert status == 200
    for words in ("invites you", "Operator", "shell on this machine", "share one workspace", "See you on Monday"):
        assert words in page
    assert (await guest.ask("GET", link.removeprefix(UI)))[0] == 200, "a GET uses nothing up"
    status, _, onwards = await guest.ask("POST", "/invitation", t=token(link), name="سلمى حداد", remember="on")
    assert (status, onwards) == (303, "/account/start")
    assert guest.signed_in
    user = await quiet.users.find("new@example.org")
    assert (user.name, user.role) == ("سلمى حداد", Role.operator)
    assert link not in (await boss.ask("GET", "/people/invitations"))[1], "never shown again"
    late = Visitor(quiet)
    assert (await late.ask("POST", "/invitation", t=token(link), name="x"))[0] == 400
    told = [record.event for record in await quiet.audit.records()]
    assert {"invitation.create", "invitation.accept", "user.create", "sign-in"} <= set(told)


async def test_by_mail_with_hostile_words(door: Front, box: Mailbox) -> None:
    """In the chosen language; notes and names are text, whatever they hold (WEB-13)."""
    boss = await admin(door)
    user = await door.users.find("admin@example.org")
    await door.store.database.execute("UPDATE users SET name = ? WHERE id = ?", (EVIL, user.id))
    boss = await admin(door)
    link = await invite(
        boss, "ليلى@مثال.إختبار", note=f"{EVIL}\nBcc: everyone@example.org", language="ar", role="viewer"
    )
    message = await box.letter()
    assert box.letters[0][0].rcpt_tos == ["ليلى@xn--mgbh0fb.xn--kgbechtv"]
    assert message["Bcc"] is None
    assert message["Content-Language"] == "ar"
    assert link_in(message) == link
    page = html(message)
    assert 'dir="rtl"' in page
    assert "<img" not in page
    assert "<script" not in page
    assert markup.escape(EVIL.split('"')[0]) in page
    assert "49" not in re.findall(r"\{\{.*?\}\}|\b49\b", page)
    assert "> Bcc: everyone@example.org" in plain(message)
    shown = (await Visitor(door).ask("GET", link.removeprefix(UI)))[1]
    assert "<img src=x" not in shown


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("email", "no address"),
        ("role", "root"),
        ("days", "0"),
        ("days", "31"),
        ("days", "x"),
        ("note", "n" * 501),
        ("note", "\u202egnp"),
    ],
)
async def test_faults_keep_what_was_typed(quiet: Front, field: str, value: str) -> None:
    boss = await admin(quiet)
    form = {
        "email": "kept@example.org",
        "role": "viewer",
        "days": "9",
        "note": "kept note",
        "language": "ar",
        field: value,
    }
    status, page, _ = await boss.ask("POST", "/people/invitations", **form)
    assert status == 400
    assert 'data-kind="bad"' in page
    for name, kept in (("email", 'value="kept@example.org"'), ("days", 'value="9"'), ("note", "kept note</textarea>")):
        assert field == name or kept in page


async def test_one_open_invitation_for_an_address(quiet: Front) -> None:
    boss = await admin(quiet)
    first = await invite(boss)
    for email, words in (("NEW@example.org", "open already"), ("admin@example.org", "member already")):
        status, page, _ = await boss.ask("POST", "/people/invitations", email=email, role="viewer", days="7")
        assert status == 409
        assert words in page
    made = (await quiet.invitations.all())[0]
    status, page, _ = await boss.ask("POST", f"/people/invitations/{made.id}/renew")
    second = link_on(page)
    assert second != first
    assert await quiet.invitations.look(token(first)) is None, "the newest link alone works"
    assert (await boss.ask("POST", f"/people/invitations/{made.id}/revoke"))[0] == 303
    assert await quiet.invitations.look(token(second)) is None
    assert (await Visitor(quiet).ask("POST", "/invitation", t=token(second), name="x"))[0] == 400
    assert (await boss.ask("POST", f"/people/invitations/{made.id}/renew"))[0] == 409
    await invite(boss)


async def test_invitations_end(quiet: Front) -> None:
    boss = await admin(quiet)
    link = token(await invite(boss, days="1"))
    quiet.clock.advance(DAY - 60)
    assert await quiet.invitations.look(link) is not None
    quiet.clock.advance(61)
    assert await quiet.invitations.look(link) is None
    assert (await quiet.invitations.all())[0].state == "expired"
    boss = await admin(quiet)
    assert await quiet.invitations.look(token(await invite(boss))) is not None, "an expired one makes room"


@pytest.mark.parametrize("fate", ["suspended", "demoted", "removed"])
async def test_an_invitation_is_worth_no_more_than_its_maker(quiet: Front, fate: str) -> None:
    await quiet.member("admin")
    rogue = await quiet.users.create("rogue@example.org", "", Role.admin, "test")
    _, secret = await quiet.invitations.create("friend@example.org", Role.admin, rogue, rogue.id)
    _, console = await quiet.invitations.create("other@example.org", Role.viewer, None, "console")
    assert await quiet.invitations.look(secret) is not None
    if fate == "removed":
        await quiet.users.remove(rogue, "test")
    else:
        change: dict[str, Any] = {"suspended": True} if fate == "suspended" else {"role": Role.operator}
        await quiet.users.change(rogue, "test", **change)
    assert await quiet.invitations.look(secret) is None
    assert await quiet.invitations.look(console) is not None


async def test_twenty_race_for_one_invitation(quiet: Front) -> None:
    await quiet.member("admin")
    _, secret = await quiet.invitations.create("one@example.org", Role.viewer, None, "console")

    async def accept(number: int) -> Any:
        return await quiet.sign_in.by(
            "invitation",
            lambda tx: quiet.invitations.accept(tx, secret, f"n{number}"),
            Caller(f"198.51.100.{number}", "x"),
            refused=InvitationRefused,
        )

    tried = await asyncio.gather(*(accept(number) for number in range(20)), return_exceptions=True)
    assert sum(isinstance(one, InvitationRefused) for one in tried) == 19
    assert len(await quiet.users.all()) == 2


async def test_a_name_that_cannot_be_does_not_cost_the_invitation(quiet: Front) -> None:
    boss = await admin(quiet)
    link = token(await invite(boss))
    guest = Visitor(quiet)
    status, page, _ = await guest.ask("POST", "/invitation", t=link, name="\u202eevil", remember="on")
    assert status == 400
    assert "checked" in page
    await quiet.users.create("new@example.org", "", Role.viewer, "test")
    assert (await guest.ask("POST", "/invitation", t=link, name="x"))[0] == 409
    assert not guest.signed_in


async def test_the_console_invites(quiet: Front) -> None:
    await quiet.member("admin")
    async with quiet.console(
        "POST", "/api/invitations", json={"email": "c@example.org", "role": "viewer", "days": 30}
    ) as said:
        made = await said.json()
    assert said.status == 201
    assert made["mailed"] is False
    found = await quiet.invitations.look(token(made["url"]))
    assert isinstance(found, Invitation)
    assert found.inviter == ""
    async with quiet.console("DELETE", f"/api/invitations/{found.id}") as said:
        assert said.status == 200
    with pytest.raises(Conflict):
        await quiet.invitations.revoke(found.id, "console")


async def test_members_by_plain_forms(quiet: Front) -> None:
    boss = await admin(quiet)
    session, _ = await quiet.sign_in_as("viewer")
    user = session.user
    page = (await boss.ask("GET", "/people"))[1]
    assert "viewer@example.org" in page
    assert f"/people/{user.id}" in page
    assert (await boss.ask("POST", f"/people/{user.id}/role", role="operator"))[::2] == (
        303,
        f"/people/{user.id}?done=role",
    )
    assert (await quiet.users.find(user.id)).role is Role.operator
    assert (await boss.ask("POST", f"/people/{user.id}/suspend"))[0] == 303
    assert session.ended, "AUTH-9: at once"
    assert "Suspended" in (await boss.ask("GET", "/people"))[1]
    assert (await boss.ask("POST", f"/people/{user.id}/resume"))[0] == 303
    status, page, _ = await boss.ask("POST", f"/people/{user.id}/remove")
    assert status == 200
    assert "Remove viewer?" in page, "without scripts the page asks, and names the person"
    assert await quiet.users.find(user.id)
    assert (await boss.ask("POST", f"/people/{user.id}/remove", sure="yes"))[::2] == (303, "/people?done=remove")
    assert [each.email for each in await quiet.users.all()] == ["admin@example.org"]
    assert (await boss.ask("GET", f"/people/{user.id}"))[0] == 404


async def test_the_last_admin_stays(quiet: Front) -> None:
    boss = await admin(quiet)
    me = (await quiet.users.find("admin@example.org")).id
    for act, form in (("role", {"role": "viewer"}), ("suspend", {}), ("remove", {"sure": "yes"})):
        status, page, _ = await boss.ask("POST", f"/people/{me}/{act}", **form)
        assert status == 409
        assert "only admin who can sign in" in page
    assert boss.signed_in


async def test_changes_need_a_fresh_proof(quiet: Front) -> None:
    """AUTH-10."""
    boss = await admin(quiet)
    user = await quiet.member("viewer")
    quiet.clock.advance(301)
    for path in (f"/people/{user.id}/role", f"/people/{user.id}/remove", "/people/invitations"):
        status, _, _ = await boss.ask("POST", path, role="admin", sure="yes", email="x@example.org", days="7")
        assert status != 200
    assert (await quiet.users.find(user.id)).role is Role.viewer
    assert await quiet.invitations.all() == []


async def test_when_somebody_was_last_here(quiet: Front) -> None:
    session, _ = await quiet.sign_in_as("viewer")
    before = (await quiet.users.seen())[session.user.id]
    quiet.clock.advance(120)
    quiet.sessions.slide(session)
    await quiet.sessions.save()
    assert (await quiet.users.seen())[session.user.id] == before + 120
    await quiet.sessions.end([session], "sign-out", "test")
    assert (await quiet.users.seen())[session.user.id] == before + 120, "kept when the session is gone"


async def test_the_password_goes_in_by_the_console(door: Front, box: Mailbox) -> None:
    async with door.console("PUT", "/api/mail/password", json={"password": "wrong"}) as said:
        assert said.status == 200
    async with door.console("POST", "/api/mail/test", json={"email": "a@example.org"}) as said:
        assert (said.status, (await said.json())["error"]["code"]) == (502, "mail_sign_in")
    async with door.console("PUT", "/api/mail/password", json={"password": PASSWORD}) as said:
        assert said.status == 200
    async with door.console("POST", "/api/mail/test", json={"email": "a@example.org"}) as said:
        assert said.status == 200
    assert (await box.letter())["To"] == "a@example.org"
    assert not [record for record in await door.audit.records() if PASSWORD in str(record.detail)]
