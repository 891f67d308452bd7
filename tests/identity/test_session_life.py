"""Sessions: how they age, what ends them, and what is left of them after a crash."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import Any

import pytest
from support.folders import short_folder
from support.front import Front, front
from support.killed import killed

from appliance.clock import SystemClock
from appliance.errors import Conflict, NotFound
from appliance.identity.links import LinkRefused
from appliance.identity.sign_in import Caller
from appliance.identity.users import Role

HOUR, DAY, YEAR = 3600.0, 86400.0, 365 * 86400.0


async def test_idle_and_absolute_limits(home: Front) -> None:
    """AUTH-8: one hour without use; a day in any case."""
    session, cookie = await home.sign_in_as("viewer")
    home.clock.advance(HOUR - 1)
    assert home.sessions.check(cookie) is session
    home.clock.advance(1)
    assert home.sessions.check(cookie) is None
    session, cookie = await home.sign_in_as("viewer")
    for _ in range(47):
        home.clock.advance(HOUR / 2)
        home.sessions.slide(session)
    assert home.sessions.check(cookie) is session
    home.clock.advance(HOUR / 2)
    assert home.sessions.check(cookie) is None


async def test_looking_is_not_use(home: Front) -> None:
    """DECIDED 14: streams, polls and checks do not slide a session; navigations and changes do."""
    session, cookie = await home.sign_in_as("viewer")
    for path, headers, slides in (
        ("/api/services", {}, False),
        ("/", {"Sec-Fetch-Mode": "no-cors"}, False),
        ("/api/status", {"Sec-Fetch-Mode": "cors"}, False),
        ("/", {"Sec-Fetch-Mode": "navigate"}, True),
    ):
        home.clock.advance(600)
        active = session.active
        async with home.ask("GET", path, cookie, headers=headers) as answer:
            assert answer.status == 200
        assert (session.active > active) is slides, path


@pytest.mark.parametrize("jump", [DAY, -DAY, YEAR, -YEAR])
async def test_the_wall_clock_neither_extends_nor_ends_a_session(home: Front, jump: float) -> None:
    """AUTH-8, R9."""
    session, cookie = await home.sign_in_as("viewer")
    home.clock.wall += jump
    assert home.sessions.check(cookie) is session
    home.clock.advance(HOUR)
    assert home.sessions.check(cookie) is None


@pytest.mark.parametrize("jump", [0.0, -DAY, DAY])
async def test_expiry_survives_restarts_of_the_daemon(house: Any, jump: float) -> None:
    """AUTH-8, AUTH-12: restarting again and again adds nothing, whatever the wall clock says meanwhile."""
    async with house.opened() as life:
        _, cookie = await life.sign_in_as("viewer")
    house.clock.wall += jump
    for _ in range(5):
        house.clock.advance(HOUR / 5 - 1)
        async with house.opened() as life:
            assert life.sessions.check(cookie) is not None
    house.clock.advance(6)
    async with house.opened() as life:
        assert life.sessions.check(cookie) is None


async def test_a_reboot_counts_the_time_away(house: Any) -> None:
    """AUTH-8: another boot, uptime small again."""
    async with house.opened() as life:
        session, cookie = await life.sign_in_as("viewer")
        life.clock.advance(1800)
        assert life.sessions.check(cookie) is session
    house.reboot(off_for=1000)
    async with house.opened() as life:
        assert life.sessions.check(cookie) is not None
        house.clock.advance(900)
        assert life.sessions.check(cookie) is None


async def test_many_reboots_do_not_extend_a_session(house: Any) -> None:
    async with house.opened() as life:
        _, cookie = await life.sign_in_as("viewer")
    lived = 0.0
    for _ in range(60):
        house.reboot(off_for=600)
        lived += 600
        async with house.opened() as life:
            found = life.sessions.check(cookie)
            if found is None:
                break
            life.sessions.slide(found)
            house.clock.advance(1200)
            lived += 1200
            life.sessions.slide(found)
    assert lived <= DAY + 1800
    assert lived >= DAY - 1800


async def test_stay_signed_in_lasts_thirty_days_and_no_longer(house: Any) -> None:
    async with house.opened() as life:
        _, cookie = await life.sign_in_as("viewer", remember=True)
    house.clock.advance(29 * DAY)
    async with house.opened() as life:
        session = life.sessions.check(cookie)
        assert session is not None
        assert not life.sessions.fresh(session), "dangerous acts need a new proof (DECIDED 14)"
        life.sessions.slide(session)
    house.clock.advance(DAY)
    async with house.opened() as life:
        assert life.sessions.check(cookie) is None


async def test_ended_means_ended_even_when_the_disk_does_not_take_it(house: Any) -> None:
    """A5, R10: nothing more passes, and nothing comes back after a restart."""
    async with house.opened() as life:
        session, cookie = await life.sign_in_as("viewer")
        ide = await life.ide_cookie(session)
        await life.store.database._writer.execute("PRAGMA query_only = ON")
        with pytest.raises(sqlite3.OperationalError):
            await life.sessions.end([session], "revoked", "test")
        assert life.sessions.check(cookie) is None
        assert life.sessions.check_ide(ide) is None
        await life.store.database._writer.execute("PRAGMA query_only = OFF")
        await life.sessions.save()
        assert [record.event for record in await life.audit.records(limit=1)] == ["session.end"]
    async with house.opened() as life:
        assert life.sessions.check(cookie) is None


async def test_ending_while_the_caller_is_cancelled(house: Any) -> None:
    async with house.opened() as life:
        cookies = []
        for steps in range(10):
            session, cookie = await life.sign_in_as("viewer")
            task = asyncio.create_task(life.sessions.end([session], "sign-out", session.user.id))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if steps:
                assert life.sessions.check(cookie) is None
                cookies.append(cookie)
    async with house.opened() as life:
        assert [life.sessions.check(cookie) for cookie in cookies] == [None] * len(cookies)


async def test_suspension_is_at_once_and_whole(home: Front) -> None:
    """DESIGN 8."""
    _, admin = await home.sign_in_as("admin")
    session, cookie = await home.sign_in_as("operator")
    ide, code = await home.ide_cookie(session), home.sessions.hand_off(session)
    async with home.ask("PATCH", "/api/users/operator@example.org", admin, json={"suspended": True}) as answer:
        assert answer.status == 200
    assert (home.sessions.check(cookie), home.sessions.check_ide(ide), await home.sessions.enter_ide(code)) == (
        None,
        None,
        None,
    )
    async with home.ask("PATCH", "/api/users/operator@example.org", admin, json={"suspended": False}) as answer:
        assert answer.status == 200
    assert home.sessions.check(cookie) is None, "resuming does not revive sessions"


async def test_removal_ends_everything(home: Front) -> None:
    _, admin = await home.sign_in_as("admin")
    session, cookie = await home.sign_in_as("operator")
    secret, _, _ = await home.links.create(session.user, "console")
    async with home.ask("DELETE", "/api/users/operator@example.org", admin) as answer:
        assert answer.status == 200
    assert home.sessions.check(cookie) is None
    with pytest.raises(LinkRefused):
        await home.sign_in.by_link(secret, Caller("192.0.2.1", "x"))
    with pytest.raises(NotFound):
        home.sessions.get(session.id)


async def test_the_last_admin_stays(home: Front) -> None:
    first = await home.member("admin")
    second = await home.users.create("second@example.org", "", Role.admin, "test")
    tried = await asyncio.gather(
        home.users.change(first, "t", role=Role.viewer),
        home.users.change(second, "t", suspended=True),
        home.users.remove(first, "t"),
        home.users.remove(second, "t"),
        return_exceptions=True,
    )
    assert any(isinstance(one, Conflict) for one in tried)
    left = [user for user in await home.users.all() if user.role is Role.admin and not user.suspended]
    assert len(left) == 1


async def test_rotation_loses_nobody(home: Front) -> None:
    """AUTH-7."""
    session, cookie = await home.sign_in_as("operator")
    await home.store.database._writer.execute("PRAGMA query_only = ON")
    session.rotate = True
    with pytest.raises(sqlite3.OperationalError):
        await home.sessions.rotate(session)
    assert home.sessions.check(cookie) is session
    await home.store.database._writer.execute("PRAGMA query_only = OFF")
    fresh = await home.sessions.rotate(session)
    assert (home.sessions.check(cookie), home.sessions.check(fresh)) == (None, session)


CRASH = """
import asyncio, os, sys
from pathlib import Path
from support.front import front
from appliance.clock import SystemClock
from appliance.identity.links import LinkRefused
from appliance.identity.sign_in import Caller

async def main():
    async with front(Path(sys.argv[1]), SystemClock()) as life:
        _, kept = await life.sign_in_as("admin")
        gone, ended = await life.sign_in_as("viewer")
        await life.sessions.end([gone], "revoked", "test")
        for _ in range(5):
            try:
                await life.sign_in.by_link("croft_lnk_guess", Caller("203.0.113.5", "x"))
            except LinkRefused:
                pass
        print(kept, ended, flush=True)
        os.kill(os.getpid(), 9)
asyncio.run(main())
"""


async def test_a_killed_daemon_forgets_nothing() -> None:
    """AUTH-12: kill -9 right after the answers."""
    with short_folder() as folder:
        kept, ended = await killed(CRASH, folder)
        async with front(folder, SystemClock()) as life:
            assert life.sessions.check(kept) is not None
            assert life.sessions.check(ended) is None
            assert await life.throttle.banned("203.0.113.5") > 0
            assert await life.audit.verify() is None


async def test_a_browser_whose_name_is_no_text_can_sign_in(home: Front) -> None:
    """A header may hold any byte; what is kept of it can be stored and shown."""
    user = await home.member("viewer")
    secret, _, _ = await home.links.create(user, "console")
    agent = b"caf\xe9".decode("utf-8", "surrogateescape")  # as aiohttp reads it
    found = await home.sign_in.by_link(secret, Caller("192.0.2.1", agent))
    assert found.session.agent == "caf?"
