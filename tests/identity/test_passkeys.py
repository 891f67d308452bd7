"""Passkeys against an authenticator that lies in every way one can: only the honest answer to a fresh question gets in."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from support.authenticator import SoftKey
from support.front import Front

from appliance.errors import Conflict, Invalid, NotFound
from appliance.identity.challenges import Challenges
from appliance.identity.passkeys import PER_PERSON, Passkey, PasskeyNotAdded, PasskeyRefused
from appliance.identity.sign_in import Caller, SignedIn
from appliance.identity.users import User

BROWSER, OTHER_BROWSER = "cookie-of-this-browser", "cookie-of-another"
_addresses = itertools.count(1)


async def added(home: Front, user: User, key: SoftKey, name: str = "Laptop", **lies: Any) -> Passkey:
    options = await home.passkeys.creation_options(user, "s1", BROWSER)
    return await home.passkeys.add(user, key.create(options, **lies), name, session_id="s1", browser=BROWSER)


async def sign_in(home: Front, answer: dict[str, Any], browser: str = BROWSER, address: str = "") -> SignedIn:
    """From a new address each time, so that no throttle decides what the passkey should."""
    assertion = await home.passkeys.check(answer, "sign-in", browser)
    return await home.sign_in.by(
        "passkey",
        lambda tx: home.passkeys.use(tx, assertion),
        Caller(address or f"10.0.0.{next(_addresses)}", "test"),
        fresh=assertion is not None and assertion.verified,
        refused=PasskeyRefused,
    )


async def asked(home: Front) -> dict[str, Any]:
    return await home.passkeys.request_options("sign-in", BROWSER)


async def test_added_used_counted_and_removed(home: Front) -> None:
    user, key = await home.member("viewer"), SoftKey()
    passkey = await added(home, user, key)
    assert (passkey.name, passkey.used_at) == ("Laptop", None)
    signed_in = await sign_in(home, key.get(await asked(home)))
    assert signed_in.session.user == user
    assert home.sessions.check(signed_in.cookie) is signed_in.session
    assert [each.used_at for each in await home.passkeys.of(user.id)] == [home.clock.now()]
    await home.recovery.replace(user)
    await home.ways_in.remove_passkey(user, passkey.id)
    with pytest.raises(PasskeyRefused):
        await sign_in(home, key.get(await asked(home)))
    assert [record.event for record in await home.audit.records() if record.event.startswith("passkey.")] == [
        "passkey.remove",
        "passkey.add",
    ]


async def test_an_answer_works_once(home: Front) -> None:
    """AUTH-6: the same bytes again, and fifty at once: one session."""
    key = SoftKey()
    await added(home, await home.member("viewer"), key)
    answer = key.get(await asked(home))
    tried = await asyncio.gather(*(sign_in(home, answer) for _ in range(50)), return_exceptions=True)
    assert sum(isinstance(one, SignedIn) for one in tried) == 1
    assert all(isinstance(one, SignedIn | PasskeyRefused) for one in tried)


async def test_a_challenge_is_bound_and_short(home: Front) -> None:
    key = SoftKey()
    await added(home, await home.member("viewer"), key)
    with pytest.raises(PasskeyRefused):
        await sign_in(home, key.get(await asked(home)), browser=OTHER_BROWSER)
    with pytest.raises(PasskeyRefused):
        await sign_in(home, key.get(await asked(home)), browser="")
    late = await asked(home)
    home.clock.advance(301)
    with pytest.raises(PasskeyRefused):
        await sign_in(home, key.get(late))
    for_step_up = await home.passkeys.request_options("step-up s1", BROWSER)
    with pytest.raises(PasskeyRefused):
        await sign_in(home, key.get(for_step_up))
    just_in_time = await asked(home)
    home.clock.advance(299)
    await sign_in(home, key.get(just_in_time))


LIES: dict[str, dict[str, Any]] = {
    "another site": {"client": {"origin": "https://croft.localhost.evil.example"}},
    "another port": {"client": {"origin": "https://croft.localhost:8443"}},
    "plain http": {"client": {"origin": "http://croft.localhost"}},
    "the editor's host": {"client": {"origin": "https://ide.croft.localhost"}},
    "in a foreign frame": {"client": {"crossOrigin": True}},
    "a registration": {"client": {"type": "webauthn.create"}},
    "no challenge": {"client": {"challenge": ""}},
    "a number as challenge": {"client": {"challenge": 7}},
    "another's signature": {"signature": bytes(70)},
    "no signature": {"signature": b""},
    "another person": {"user": b"somebody-else"},
    "nobody": {"user": b""},
}


@pytest.mark.parametrize("lie", LIES)
async def test_lies_are_refused(home: Front, lie: str) -> None:
    key = SoftKey()
    await added(home, await home.member("viewer"), key)
    with pytest.raises(PasskeyRefused):
        await sign_in(home, key.get(await asked(home), **LIES[lie]))
    await sign_in(home, key.get(await asked(home)))


async def test_a_key_for_another_host_is_refused(home: Front) -> None:
    user, key = await home.member("viewer"), SoftKey()
    await added(home, user, key)
    key.rp = "ide.croft.localhost"
    with pytest.raises(PasskeyRefused):
        await sign_in(home, key.get(await asked(home)))
    with pytest.raises(PasskeyNotAdded):
        await added(home, user, SoftKey(rp="evil.example"))
    with pytest.raises(PasskeyNotAdded):
        await added(home, user, SoftKey(origin="https://evil.example"))


async def test_a_counter_that_went_back_shuts_the_key_out(home: Front) -> None:
    """There may be a copy: neither of the two gets in any more, and the person is told."""
    user, key = await home.member("viewer"), SoftKey()
    await added(home, user, key)
    await sign_in(home, key.get(await asked(home), count=10))
    home.clock.advance(1)
    with pytest.raises(PasskeyRefused):
        await sign_in(home, key.get(await asked(home), count=10))
    with pytest.raises(PasskeyRefused):
        await sign_in(home, key.get(await asked(home), count=99))
    assert [each.suspect_at for each in await home.passkeys.of(user.id)] == [home.clock.now()]
    assert [need.key for need in await home.ways_in.needs(user)] == ["needs.suspect", "needs.passkey", "needs.codes"]
    assert "passkey.suspect" in {record.event for record in await home.audit.records()}
    await home.ways_in.remove_passkey(user, (await home.passkeys.of(user.id))[0].id)


async def test_an_answer_overtaken_on_its_way_is_no_sign_of_a_copy(home: Front) -> None:
    key = SoftKey()
    await added(home, await home.member("viewer"), key)
    slow = key.get(await asked(home))
    home.clock.advance(30)
    await sign_in(home, key.get(await asked(home)))
    home.clock.advance(30)
    with pytest.raises(PasskeyRefused):
        await sign_in(home, slow)
    await sign_in(home, key.get(await asked(home), count=3))


async def test_a_forged_low_counter_does_not_shut_a_key_out(home: Front) -> None:
    """Only what the key itself signed counts, or anybody could shut anybody out."""
    user, key, thief = await home.member("viewer"), SoftKey(), SoftKey()
    await added(home, user, key)
    await sign_in(home, key.get(await asked(home), count=10))
    thief.id, thief.user = key.id, key.user
    with pytest.raises(PasskeyRefused):
        await sign_in(home, thief.get(await asked(home), count=1))
    await sign_in(home, key.get(await asked(home), count=11))


async def test_a_key_that_does_not_count_is_fine(home: Front) -> None:
    key = SoftKey()
    await added(home, await home.member("viewer"), key)
    for _ in range(3):
        await sign_in(home, key.get(await asked(home), count=0))


async def test_a_touch_alone_signs_in_but_is_not_fresh(home: Front) -> None:
    """AUTH-10: dangerous acts need a device that asked who is holding it."""
    user, key = await home.member("viewer"), SoftKey()
    await added(home, user, key)
    assert home.sessions.fresh((await sign_in(home, key.get(await asked(home)))).session)
    key.verifies = False
    session = (await sign_in(home, key.get(await asked(home)))).session
    assert not home.sessions.fresh(session)
    options = await home.passkeys.request_options("step-up s1", BROWSER, user_id=user.id)
    assert options["userVerification"] == "required"
    assert await home.passkeys.check(key.get(options), "step-up s1", BROWSER, user_id=user.id) is None


async def test_step_up_is_for_ones_own_keys(home: Front) -> None:
    mine, other, key = await home.member("viewer"), await home.member("operator"), SoftKey()
    await added(home, other, key)
    options = await home.passkeys.request_options("step-up s1", BROWSER, user_id=mine.id)
    assert options["allowCredentials"] == []
    assert await home.passkeys.check(key.get(options), "step-up s1", BROWSER, user_id=mine.id) is None


async def test_a_registration_is_bound_to_its_session_and_browser(home: Front) -> None:
    user, key = await home.member("viewer"), SoftKey()
    for session, browser in (("s2", BROWSER), ("s1", OTHER_BROWSER)):
        options = await home.passkeys.creation_options(user, "s1", BROWSER)
        with pytest.raises(PasskeyNotAdded):
            await home.passkeys.add(user, key.create(options), "x", session_id=session, browser=browser)
    options = await home.passkeys.creation_options(user, "s1", BROWSER)
    answer = key.create(options)
    await home.passkeys.add(user, answer, "x", session_id="s1", browser=BROWSER)
    with pytest.raises(PasskeyNotAdded):
        await home.passkeys.add(user, answer, "x", session_id="s1", browser=BROWSER)


async def test_a_key_belongs_to_one_person(home: Front) -> None:
    key = SoftKey()
    await added(home, await home.member("viewer"), key)
    with pytest.raises(Conflict):
        await added(home, await home.member("operator"), key)


async def test_no_certificates_and_no_odd_keys(home: Front) -> None:
    user = await home.member("viewer")
    for lie in (
        {"fmt": "fido-u2f"},
        {"fmt": "tpm"},
        {"cose": {1: 2, 3: -35, -1: 2, -2: b"x", -3: b"y"}},
        {"cose": {}},
        {"cose": "text"},
        {"cose": {1: 2, 3: -7}},
    ):
        with pytest.raises(PasskeyNotAdded):
            await added(home, user, SoftKey(), **lie)
    assert await home.passkeys.of(user.id) == []


async def test_what_is_no_webauthn_at_all_is_a_refusal(home: Front) -> None:
    """Whatever arrives is refused in words; it is never a fault of ours."""
    user, key = await home.member("viewer"), SoftKey()
    await added(home, user, key)
    good = key.get(await asked(home))
    for part in ("clientDataJSON", "authenticatorData", "signature", "userHandle"):
        for nonsense in ("", "A", "ÿÿ", "=" * 20, "_w" * 9000, "W10", "bnVsbA"):
            answer = key.get(await asked(home))
            answer["response"][part] = nonsense
            assert await home.passkeys.check(answer, "sign-in", BROWSER) is None, (part, nonsense)
    assert await home.passkeys.check(good | {"id": "A"}, "sign-in", BROWSER) is None
    for nonsense in ("", "A", "n" * 9000, "gICA", "oWNmbXRkbm9uZQ"):
        answer = SoftKey().create(await home.passkeys.creation_options(user, "s1", BROWSER))
        answer["response"]["attestationObject"] = nonsense
        with pytest.raises(PasskeyNotAdded):
            await home.passkeys.add(user, answer, "x", session_id="s1", browser=BROWSER)


async def test_a_person_has_a_bounded_number(home: Front) -> None:
    user = await home.member("viewer")
    for _ in range(PER_PERSON):
        await added(home, user, SoftKey())
    with pytest.raises(Conflict):
        await added(home, user, SoftKey())


@pytest.mark.parametrize("name", ["x" * 81, "a\u202eexe.png", "a\x00b", "\u2066hidden"])
async def test_names_that_lie_are_refused(home: Front, name: str) -> None:
    user, key = await home.member("viewer"), SoftKey()
    with pytest.raises(Invalid):
        await added(home, user, key, name)
    passkey = await added(home, user, key, "<b>مفتاحي</b>")
    with pytest.raises(Invalid):
        await home.passkeys.rename(user, passkey.id, name)
    with pytest.raises(Invalid):
        await home.passkeys.rename(user, passkey.id, "   ")
    with pytest.raises(NotFound):
        await home.passkeys.rename(await home.member("operator"), passkey.id, "mine now")
    assert [each.name for each in await home.passkeys.of(user.id)] == ["<b>مفتاحي</b>"]


async def test_nobody_removes_their_last_way_in(home: Front) -> None:
    user = await home.member("viewer")
    first, second = await added(home, user, SoftKey()), await added(home, user, SoftKey())
    await home.ways_in.remove_passkey(user, first.id)
    with pytest.raises(Conflict) as refused:
        await home.ways_in.remove_passkey(user, second.id)
    assert refused.value.code == "last_way_in"
    with pytest.raises(NotFound):
        await home.ways_in.remove_passkey(await home.member("operator"), second.id)
    assert [each.id for each in await home.passkeys.of(user.id)] == [second.id]
    home.mail_is_on = True
    await home.ways_in.remove_passkey(user, second.id)


async def test_a_suspended_person_stays_out(home: Front) -> None:
    user, key = await home.member("viewer"), SoftKey()
    await home.member("admin")
    await added(home, user, key)
    await home.users.change(user, "test", suspended=True)
    with pytest.raises(PasskeyRefused):
        await sign_in(home, key.get(await asked(home)))


async def test_failures_are_throttled_but_a_known_device_gets_in(home: Front) -> None:
    """AUTH-4."""
    user, key = await home.member("viewer"), SoftKey()
    await added(home, user, key)
    device = (await sign_in(home, key.get(await asked(home)), address="192.0.2.7")).device
    for _ in range(5):
        with pytest.raises(PasskeyRefused):
            await sign_in(home, key.get(await asked(home), signature=b"x"), address="192.0.2.7")
    with pytest.raises(PasskeyRefused):
        await sign_in(home, key.get(await asked(home)), address="192.0.2.7")
    assertion = await home.passkeys.check(key.get(await asked(home)), "sign-in", BROWSER)
    await home.sign_in.by(
        "passkey",
        lambda tx: home.passkeys.use(tx, assertion),
        Caller("192.0.2.7", "test", device),
        refused=PasskeyRefused,
    )


def test_challenges_cost_nothing_until_they_come_back(home: Front) -> None:
    challenges = Challenges(home.clock)
    out = [challenges.make("sign-in", BROWSER) for _ in range(1000)]
    assert challenges._taken == {}
    assert len(set(out)) == 1000
    for each in out[:10]:
        assert challenges.age(each, "sign-in", BROWSER) == 0
        assert challenges.use(each)
        assert not challenges.use(each)
        assert challenges.age(each, "sign-in", BROWSER) is None
    home.clock.advance(301)
    assert challenges.age(out[20], "sign-in", BROWSER) is None
    fresh = challenges.make("sign-in", BROWSER)
    home.clock.advance(2)
    assert challenges.age(fresh, "sign-in", BROWSER) == 2
    assert challenges.use(fresh)
    assert len(challenges._taken) == 1, "what is too old to come back is forgotten"
    assert Challenges(home.clock).age(challenges.make("sign-in", BROWSER), "sign-in", BROWSER) is None
    for broken in (b"", b"x", fresh[:-1], fresh + b"x", bytes(64)):
        assert challenges.age(broken, "sign-in", BROWSER) is None
