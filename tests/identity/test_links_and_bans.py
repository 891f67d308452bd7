"""One-time links under races, guessing and power cuts."""

from __future__ import annotations

import asyncio
import re
import statistics
import time
from typing import Any

import pytest
from support.front import Front

from appliance.errors import Conflict, Invalid
from appliance.identity.links import LinkRefused
from appliance.identity.sign_in import Caller
from appliance.identity.throttle import network
from appliance.identity.users import Role

HERE = Caller("192.0.2.1", "test")


def elsewhere(number: int) -> Caller:
    return Caller(f"198.51.100.{number}", "test")


async def test_of_fifty_who_claim_the_appliance_one_does(home: Front) -> None:
    """AUTH-1."""
    secret, kind, seconds = await home.links.create(None, "console")
    assert (kind, seconds) == ("setup", 1800)
    tried = await asyncio.gather(
        *(home.sign_in.by_link(secret, elsewhere(number), email=f"n{number}@example.org") for number in range(50)),
        return_exceptions=True,
    )
    assert sum(isinstance(one, LinkRefused) for one in tried) == 49
    people = await home.users.all()
    assert [person.role for person in people] == [Role.admin]
    assert len(home.sessions.of()) == 1
    with pytest.raises(LinkRefused):
        await home.sign_in.by_link(secret, HERE, email="late@example.org")
    with pytest.raises(Conflict):
        await home.links.create(None, "console")


async def test_a_second_set_up_link_cannot_make_a_second_owner(home: Front) -> None:
    """AUTH-1: an older link dies with a newer one, and any dies with the first admin."""
    old, _, _ = await home.links.create(None, "console")
    new, _, _ = await home.links.create(None, "console")
    with pytest.raises(LinkRefused):
        await home.sign_in.by_link(old, HERE, email="a@example.org")
    await home.users.create("b@example.org", "", Role.admin, "test")
    with pytest.raises(LinkRefused):
        await home.sign_in.by_link(new, HERE, email="a@example.org")
    assert len(await home.users.all()) == 1


async def test_a_mistyped_address_does_not_cost_the_link(home: Front) -> None:
    secret, _, _ = await home.links.create(None, "console")
    for email in ("", "x", "a b@example.org", "a@b\0", "a@" + "x" * 300, "<a@b.c>", "a@b.c\r\nBcc: d@e.f"):
        with pytest.raises(Invalid, match="e-mail"):
            await home.sign_in.by_link(secret, HERE, email=email)
    assert (await home.sign_in.by_link(secret, HERE, email="a@example.org")).session.user.role is Role.admin


@pytest.mark.parametrize(
    ("wall", "boot", "works"), [(600, 600, True), (601, 601, False), (86400, 599, True), (-86400, 601, False)]
)
async def test_links_age_by_uptime(home: Front, wall: float, boot: float, works: bool) -> None:
    """A clock set back revives nothing, one set forward ends nothing."""
    user = await home.member("admin")
    secret, _, _ = await home.links.create(user, "console")
    home.clock.wall += wall
    home.clock.boot += boot
    assert (await home.links.look(secret) is not None) is works


async def test_links_of_people_who_may_not(home: Front) -> None:
    await home.member("admin")
    user = await home.member("viewer")
    secret, _, _ = await home.links.create(user, "console")
    await home.users.change(user, "test", suspended=True)
    with pytest.raises(LinkRefused):
        await home.sign_in.by_link(secret, HERE)
    other, _, _ = await home.links.create(user, "console")
    await home.users.remove(user, "test")
    with pytest.raises(LinkRefused):
        await home.sign_in.by_link(other, HERE)


async def test_the_store_holds_no_usable_secret(home: Front) -> None:
    """AUTH-7, TOK-11: a copy of the database opens nothing."""
    secret, _, _ = await home.links.create(await home.member("admin"), "console")
    signed_in = await home.sign_in.by_link(secret, HERE)
    ide = await home.ide_cookie(signed_in.session)
    content = b"".join(path.read_bytes() for path in (home.folder / "state").glob("croft.db*"))
    assert b"admin@example.org" in content
    for one in (secret, signed_in.cookie, signed_in.device, ide):
        assert one.encode() not in content
        assert len(re.sub(r"^croft_[a-z]+_", "", one)) == 43, "256 bits in base64"


async def fail(home: Front, caller: Caller, times: int = 1) -> list[LinkRefused]:
    refusals = []
    for _ in range(times):
        with pytest.raises(LinkRefused) as caught:
            await home.sign_in.by_link("croft_lnk_guess", caller)
        refusals.append(caught.value)
    return refusals


async def ban(home: Front, caller: Caller) -> float:
    return await home.throttle.banned(network(caller.address))


async def test_five_failures_bring_a_ban_that_doubles(home: Front) -> None:
    """AUTH-4."""
    await fail(home, HERE, 4)
    assert await ban(home, HERE) == 0
    for expected in (300, 600, 1200, 2400, 3600, 3600):
        await fail(home, HERE, 1 if expected == 300 else 5)
        assert await ban(home, HERE) == pytest.approx(expected)
        home.clock.advance(expected + 121)
        assert await ban(home, HERE) == 0
    home.clock.advance(25 * 3600)
    await fail(home, elsewhere(1))
    await fail(home, HERE, 5)
    assert await ban(home, HERE) == pytest.approx(300), "a day without failures is forgiven"


async def test_slow_failures_bring_none(home: Front) -> None:
    for _ in range(20):
        await fail(home, HERE)
        home.clock.advance(31)
    assert await ban(home, HERE) == 0


async def test_a_ban_refuses_even_a_good_link_and_only_there(home: Front) -> None:
    """AUTH-4, AUTH-5: same words; the link is not used up; a device known from before passes."""
    user = await home.member("admin")
    first, _, _ = await home.links.create(user, "console")
    device = (await home.sign_in.by_link(first, HERE)).device
    secret, _, _ = await home.links.create(user, "console")
    before = await fail(home, HERE, 5)
    with pytest.raises(LinkRefused) as caught:
        await home.sign_in.by_link(secret, HERE)
    assert {(one.message, one.hint, one.status, one.code) for one in [*before, caught.value]} == {
        (caught.value.message, caught.value.hint, 400, "link_refused")
    }
    with pytest.raises(LinkRefused):
        await home.sign_in.by_link(secret, Caller(HERE.address, "x", device + "x"))
    assert (await home.sign_in.by_link(secret, Caller(HERE.address, "x", device))).session.user == user
    other, _, _ = await home.links.create(user, "console")
    await home.sign_in.by_link(other, elsewhere(7))


async def test_hammering_during_a_ban_neither_prolongs_it_nor_fills_the_log(home: Front) -> None:
    await fail(home, HERE, 5)
    home.clock.advance(100)
    written = len(await home.audit.records(limit=1000))
    await fail(home, HERE, 50)
    assert await ban(home, HERE) == pytest.approx(200)
    assert len(await home.audit.records(limit=1000)) == written
    assert len(await home.store.database.rows("SELECT * FROM bans")) == 1


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::%eth0/64"),
        ("", "unknown"),
        ("evil, 192.0.2.1", "unknown"),
        ("x" * 9999, "unknown"),
    ],
)
def test_what_counts_as_one_caller(address: str, key: str) -> None:
    assert network(address) in (key, "fe80::/64", "unknown") if "%" in address else network(address) == key


async def test_a_clock_set_back_does_not_lengthen_a_ban(home: Front) -> None:
    """R9."""
    await fail(home, HERE, 5)
    home.clock.wall -= 86400
    assert await ban(home, HERE) == 0
    await fail(home, HERE, 5)
    assert 0 < await ban(home, HERE) <= 3600


async def test_failures_and_bans_survive_a_restart(house: Any) -> None:
    """AUTH-12: also between the third and the fourth failure."""
    async with house.opened() as life:
        await fail(life, HERE, 3)
    async with house.opened() as life:
        await fail(life, HERE, 2)
        assert await ban(life, HERE) > 0
    house.reboot()
    async with house.opened() as life:
        assert await ban(life, HERE) > 0


async def test_a_link_works_across_a_restart_and_a_used_one_does_not(house: Any) -> None:
    async with house.opened() as life:
        user = await life.member("admin")
        used, _, _ = await life.links.create(user, "console")
        fresh, _, _ = await life.links.create(user, "console")
        await life.sign_in.by_link(used, HERE)
    house.reboot()
    async with house.opened() as life:
        with pytest.raises(LinkRefused):
            await life.sign_in.by_link(used, HERE)
        await life.sign_in.by_link(fresh, HERE)


async def test_every_refusal_reaches_the_disk(home: Front) -> None:
    """AUTH-5: SQLite leaves the disk alone where nothing changes, which shows in the time; so something always does."""
    log = home.settings.paths.database.with_name(home.settings.paths.database.name + "-wal")
    sizes = [log.stat().st_size]
    for _ in range(9):  # from the sixth on during a ban
        home.clock.advance(0.01)
        await fail(home, HERE, 1)
        sizes.append(log.stat().st_size)
    assert await ban(home, HERE) > 0
    assert len(set(sizes)) == len(sizes), sizes


async def test_refusals_cost_the_same(home: Front) -> None:
    """AUTH-5: unknown, used and banned take alike; medians, with room for a busy machine."""
    user = await home.member("admin")
    used, _, _ = await home.links.create(user, "console")
    await home.sign_in.by_link(used, elsewhere(1))
    await fail(home, HERE, 5)

    async def cost(secret: str, caller: Caller) -> float:
        home.clock.advance(0.01)
        began = time.perf_counter()
        with pytest.raises(LinkRefused):
            await home.sign_in.by_link(secret, caller)
        return time.perf_counter() - began

    # In turn, so that whatever else the machine does meanwhile weighs on all three alike.
    spent: dict[str, list[float]] = {"unknown": [], "used": [], "banned": []}
    for number in range(40):
        spent["unknown"].append(await cost("croft_lnk_guess", Caller(f"10.0.{number}.1", "test")))
        spent["used"].append(await cost(used, Caller(f"10.1.{number}.1", "test")))
        spent["banned"].append(await cost(used, HERE))
    medians = {name: statistics.median(each) for name, each in spent.items()}
    assert max(medians.values()) < 3 * min(medians.values()) + 0.003, medians
