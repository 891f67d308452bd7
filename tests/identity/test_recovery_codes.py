"""Recovery codes: strong, single use whatever races, replaced as a whole, and told apart by nobody who guesses."""

from __future__ import annotations

import asyncio
import math
import statistics
import time

import pytest
from support.folders import short_folder
from support.front import Front, front
from support.killed import killed

from appliance.clock import SystemClock
from appliance.identity.recovery import COUNT, LENGTH, LETTERS, CodeRefused, read
from appliance.identity.sign_in import Caller, SignedIn

HERE = Caller("192.0.2.1", "test")


async def use(home: Front, code: str, caller: Caller = HERE) -> SignedIn:
    return await home.sign_in.by("recovery", lambda tx: home.recovery.use(tx, code), caller, refused=CodeRefused)


async def test_ten_strong_ones_of_which_only_hashes_are_kept(home: Front) -> None:
    """AUTH-6."""
    codes = await home.recovery.replace(await home.member("viewer"))
    assert len(set(codes)) == COUNT == 10
    assert LENGTH * math.log2(len(LETTERS)) >= 64
    assert all(len(read(code)) == LENGTH and set(read(code)) <= set(LETTERS) for code in codes)
    dump = b"".join(path.read_bytes() for path in home.folder.rglob("croft.db*"))
    for code in codes:
        assert code.encode() not in dump
        assert read(code).encode() not in dump


async def test_one_of_fifty_racers_wins(home: Front) -> None:
    user = await home.member("viewer")
    code = (await home.recovery.replace(user))[0]
    tried = await asyncio.gather(
        *(use(home, code, Caller(f"10.0.0.{n}", "test")) for n in range(50)), return_exceptions=True
    )
    assert sum(isinstance(one, SignedIn) for one in tried) == 1
    assert sum(isinstance(one, CodeRefused) for one in tried) == 49
    assert await home.recovery.left(user.id) == 9
    assert len(home.sessions.of(user.id)) == 1


async def test_new_ones_end_the_old_ones(home: Front) -> None:
    user, other = await home.member("viewer"), await home.member("operator")
    theirs, old = await home.recovery.replace(other), await home.recovery.replace(user)
    new = await home.recovery.replace(user)
    for number, code in enumerate(old):
        with pytest.raises(CodeRefused):
            await use(home, code, Caller(f"10.0.1.{number}", "test"))
    assert (await use(home, new[0])).session.user == user
    assert (await use(home, theirs[0])).session.user == other


async def test_typed_as_people_type(home: Front) -> None:
    user = await home.member("viewer")
    codes = await home.recovery.replace(user)
    arabic = str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")
    misread = str.maketrans("01", "OI")
    typed = (codes[0].lower(), codes[1].replace("-", ""), f"  {codes[2].replace('-', ' ')}\u200f\n")
    for text in (*typed, codes[3].translate(arabic), codes[4].translate(misread), codes[5].replace("-", "–")):
        assert (await use(home, text)).session.user == user, text


async def test_needs_say_what_is_left_to_do(home: Front) -> None:
    user = await home.member("viewer")
    assert [need.key for need in await home.ways_in.needs(user)] == ["needs.passkey", "needs.codes"]
    codes = await home.recovery.replace(user)
    assert [need.key for need in await home.ways_in.needs(user)] == ["needs.passkey"]
    for code in codes[:7]:
        await use(home, code)
    low = (await home.ways_in.needs(user))[-1]
    assert (low.key, low.params) == ("needs.codes_low", {"n": 3})


async def test_a_suspended_person_keeps_nothing_by_it(home: Front) -> None:
    await home.member("admin")
    user = await home.member("viewer")
    code = (await home.recovery.replace(user))[0]
    await home.users.change(user, "test", suspended=True)
    with pytest.raises(CodeRefused):
        await use(home, code)
    await home.users.change(user, "test", suspended=False)
    await use(home, code)


async def test_guesses_are_throttled_and_cost_the_same(home: Front) -> None:
    """AUTH-4, AUTH-5: unknown, used and banned: one text, and alike in time (medians, with room for a busy machine)."""
    user = await home.member("viewer")
    codes = await home.recovery.replace(user)
    await use(home, codes[0])
    for _ in range(5):
        with pytest.raises(CodeRefused):
            await use(home, "AAAA-AAAA-AAAA-AAAA")
    with pytest.raises(CodeRefused):
        await use(home, codes[1])
    assert (await use(home, codes[1], Caller("192.0.2.2", "test"))).session.user == user, "a ban uses nothing up"

    async def cost(code: str, caller: Caller) -> tuple[float, str]:
        began = time.perf_counter()
        with pytest.raises(CodeRefused) as refused:
            await use(home, code, caller)
        return time.perf_counter() - began, f"{refused.value.message} {refused.value.hint} {refused.value.status}"

    spent: dict[str, list[float]] = {"unknown": [], "used": [], "banned": []}
    said = set()
    for number in range(40):
        for name, code, caller in (
            ("unknown", "BBBB-BBBB-BBBB-BBBB", Caller(f"10.0.{number}.1", "test")),
            ("used", codes[0], Caller(f"10.1.{number}.1", "test")),
            ("banned", codes[2], HERE),
        ):
            seconds, words = await cost(code, caller)
            spent[name].append(seconds)
            said.add(words)
    assert len(said) == 1
    medians = {name: statistics.median(each) for name, each in spent.items()}
    assert max(medians.values()) < 3 * min(medians.values()) + 0.003, medians


CRASH = """
import asyncio, os, sys
from pathlib import Path
from support.authenticator import SoftKey
from support.front import front
from appliance.clock import SystemClock
from appliance.identity.recovery import CodeRefused
from appliance.identity.sign_in import Caller

async def main():
    async with front(Path(sys.argv[1]), SystemClock()) as life:
        user, key = await life.member("viewer"), SoftKey()
        options = await life.passkeys.creation_options(user, "s", "b")
        await life.passkeys.add(user, key.create(options), "Laptop", session_id="s", browser="b")
        codes = await life.recovery.replace(user)
        by = lambda tx: life.recovery.use(tx, codes[0])
        signed_in = await life.sign_in.by("recovery", by, Caller("192.0.2.1", "x"), refused=CodeRefused)
        again = lambda tx: life.recovery.use(tx, codes[1])
        signed_in.session.proved -= 1000
        cookie = await life.step_up.by("recovery", again, Caller("192.0.2.1", "x"), signed_in.session, refused=CodeRefused)
        print(signed_in.cookie, cookie, *codes, flush=True)
        os.kill(os.getpid(), 9)
asyncio.run(main())
"""


async def test_a_killed_daemon_forgets_nothing_that_was_used_or_made() -> None:
    """AUTH-12: kill -9 right after the answers."""
    with short_folder() as folder:
        old, cookie, *codes = await killed(CRASH, folder)
        async with front(folder, SystemClock()) as life:
            session = life.sessions.check(cookie)
            assert session is not None
            assert life.sessions.fresh(session)
            assert life.sessions.check(old) is None
            assert [each.name for each in await life.passkeys.of(session.user.id)] == ["Laptop"]
            assert await life.recovery.left(session.user.id) == 8
            for number, code in enumerate(codes[:2]):
                with pytest.raises(CodeRefused):
                    await use(life, code, Caller(f"10.0.0.{number}", "test"))
            await use(life, codes[2])
            assert await life.audit.verify() is None
