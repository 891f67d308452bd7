"""Signing in by mail: who asked, the link, and the code to type in the browser that asked.

Rules: asking does the same work for everybody, member or not (AUTH-5), and mails nobody more often than PER_ADDRESS allows. Link
and code work only with the cookie of the browser that asked (DECIDED 20), once, for ten minutes; a code takes five tries.
"""

from __future__ import annotations

import hmac
import secrets as random
import unicodedata
from typing import Any

from msgspec import Struct

from appliance.audit import AuditLog
from appliance.clock import Clock
from appliance.database import Database, Row
from appliance.errors import TooMany
from appliance.identity import secrets
from appliance.identity.links import still_good
from appliance.identity.sign_in import Caller
from appliance.identity.throttle import Limit, ProofRefused, Throttle, network
from appliance.identity.users import User, check_email

LIFETIME = 10 * 60.0
KEPT = 24 * 3600.0
TRIES = 5
# No letter or digit that looks like another in any usual face: 30 signs, 8 of them make 39 bits.
ALPHABET = "23456789ABCDEFGHJKMNPQRSTVWXYZ"
CODE_LENGTH = 8
# Each one over the limit brings a pause of five minutes, doubling up to an hour (appliance/identity/throttle.py).
PER_ADDRESS = Limit(6, 900.0)
PER_NETWORK = Limit(30, 600.0)


class MailedRefused(ProofRefused):
    """The link is unknown, used or too old, or the caller is shut out."""

    code = "mailed_refused"

    def __init__(self) -> None:
        super().__init__(
            "This link does not work. It may have been used, be older than ten minutes, or there were too many attempts.",
            hint="Ask for a new one on the sign-in page, or wait a few minutes.",
        )


class OtherBrowser(MailedRefused):
    """The link is good, but this is not the browser that asked. Only who holds the link is told."""

    code = "other_browser"


class CodeRefused(ProofRefused):
    """The code is not the one that was mailed, or too many were typed."""

    code = "code_refused"

    def __init__(self) -> None:
        super().__init__(
            "This code does not work. It may be mistyped, used, or older than ten minutes, or there were too many attempts.",
            hint="Check it against the newest mail, or ask for a new one.",
        )


class Asked(Struct, frozen=True):
    """What came of asking. ``to`` is who gets the mail with ``link`` and ``code``; None when nobody does, which must not
    show. ``browser`` is the cookie for the browser that asked."""

    to: User | None
    link: str
    code: str
    browser: str


class Waiting(Struct, frozen=True):
    """What a browser waits for: the ``address`` it typed, and whether to stay signed in."""

    address: str
    remember: bool


class Mailed:
    """Requests for sign-in mail."""

    def __init__(self, database: Database, throttle: Throttle, audit: AuditLog, clock: Clock, boot_id: str) -> None:
        self._db = database
        self._throttle = throttle
        self._audit = audit
        self._clock = clock
        self._boot = boot_id

    async def ask(self, email: str, caller: Caller, browser: str, *, remember: bool) -> Asked:
        """Note that ``browser`` (its cookie, "" for a new one) asks for a mail to ``email``.

        Raises Invalid for what is no address, TooMany when this network asks too often. That an address was asked for too
        often does not show: it just gets no more mail for a while.
        """
        email, browser = check_email(email), browser or secrets.new("ask")
        link, code = secrets.new("eml"), new_code()
        async with self._throttle.line(caller.address), self._db.transaction() as tx:
            user, known = await self._member(tx, email, caller.device)
            # On a device they know, people have an allowance of their own, which strangers cannot use up (AUTH-4).
            own = f" {user.id}" if user and known else ""
            here = f"mail {network(caller.address)}{own}"
            in_place = await self._throttle.failed(tx, here, PER_NETWORK)
            if in_place:  # else nothing more is written: one network fills neither the log nor the tables
                address = secrets.digest(email.casefold()).hex()
                to = user if await self._throttle.failed(tx, f"mail {address}{own}", PER_ADDRESS) else None
                await self._note(tx, link, browser, code, email, to, remember)
                await self._audit.append(tx, "link.mail", "anyone", user=to.id if to else None, address=caller.address)
        if not in_place:
            left = await self._throttle.banned(here)
            raise TooMany("too many sign-in mails were asked for from here", retry_after=left, hint="Wait a while.")
        return Asked(to, link, code, browser)

    async def look(self, link: str) -> bool:
        """Whether the link would still work in the browser that asked; consumes nothing."""
        row = await self._db.row("SELECT * FROM mailed WHERE hash = ?", (secrets.digest(link),))
        return row is not None and row["user_id"] is not None and still_good(row, self._clock, self._boot)

    async def waiting(self, browser: str) -> Waiting | None:
        """The newest live request of a browser."""
        live = self._live(await self._db.rows(_OF_BROWSER, (secrets.digest(browser),)))
        return Waiting(live[0]["address"], bool(live[0]["remember"])) if live else None

    async def try_code(self, browser: str, caller: Caller) -> str:
        """Spend one of the browser's tries, before looking at the code: a crash or a race gives none back. Returns the
        account to count a failure against."""
        mine = secrets.digest(browser)
        async with self._throttle.line(caller.address), self._db.transaction() as tx:
            rows = list(await tx.execute_fetchall(_OF_BROWSER, (mine,)))
            await tx.execute("UPDATE mailed SET tries = tries + 1 WHERE browser = ?", (mine,))
        return secrets.digest(rows[0]["address"].casefold()).hex() if rows else ""

    async def redeem_link(self, tx: Any, link: str, browser: str) -> User:
        """Whom the link names, used up inside the transaction that makes the session. Raises MailedRefused, OtherBrowser."""
        rows = self._live(await tx.execute_fetchall("SELECT * FROM mailed WHERE hash = ?", (secrets.digest(link),)))
        if not rows or rows[0]["user_id"] is None:
            raise MailedRefused
        if not hmac.compare_digest(rows[0]["browser"], secrets.digest(browser)):
            raise OtherBrowser
        return await self._use(tx, rows[0], MailedRefused())

    async def redeem_code(self, tx: Any, typed: str, browser: str) -> User:
        """The same by the code, after :meth:`try_code`. Raises CodeRefused."""
        given, found = _sealed(folded(typed), browser), None
        for row in self._live(await tx.execute_fetchall(_OF_BROWSER, (secrets.digest(browser),))):
            if hmac.compare_digest(row["code"], given) and row["user_id"] is not None and row["tries"] <= TRIES:
                found = row
        if found is None:
            raise CodeRefused
        return await self._use(tx, found, CodeRefused())

    async def _use(self, tx: Any, row: Row, refusal: ProofRefused) -> User:
        # The link, its code and whatever else this browser asked for: it is signed in now.
        await tx.execute(
            "UPDATE mailed SET used_at = ? WHERE browser = ? AND used_at IS NULL", (self._clock.now(), row["browser"])
        )
        people = list(await tx.execute_fetchall("SELECT * FROM users WHERE id = ?", (row["user_id"],)))
        if not people or people[0]["suspended_at"] is not None:
            raise refusal
        return User.of(people[0])

    async def _member(self, tx: Any, email: str, device: str) -> tuple[User | None, bool]:
        """The active member with this address, and whether ``device`` is one of theirs."""
        rows = list(await tx.execute_fetchall("SELECT * FROM users WHERE email = ? AND suspended_at IS NULL", (email,)))
        known = await tx.execute_fetchall(
            "SELECT 1 FROM devices WHERE hash = ? AND user_id = ?",
            (secrets.digest(device), rows[0]["id"] if rows else ""),
        )
        return User.of(rows[0]) if rows else None, bool(list(known))

    async def _note(
        self, tx: Any, link: str, browser: str, code: str, email: str, to: User | None, remember: bool
    ) -> None:
        now = self._clock.now()
        await tx.execute("DELETE FROM mailed WHERE created_at < ?", (now - KEPT,))
        await tx.execute(
            "INSERT INTO mailed (hash, browser, code, address, user_id, remember, created_at, uptime, boot_id, lifetime)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                secrets.digest(link),
                secrets.digest(browser),
                _sealed(code, browser),
                email,
                to.id if to else None,
                int(remember),
                now,
                self._clock.uptime(),
                self._boot,
                LIFETIME,
            ),
        )

    def _live(self, rows: Any) -> list[Row]:
        return [row for row in rows if still_good(row, self._clock, self._boot)]


# Newest first.
_OF_BROWSER = "SELECT * FROM mailed WHERE browser = ? AND used_at IS NULL ORDER BY rowid DESC LIMIT 20"


def new_code() -> str:
    """Eight signs of ALPHABET."""
    return "".join(random.choice(ALPHABET) for _ in range(CODE_LENGTH))


def folded(typed: str) -> str:
    """What was typed as the signs that count: any script's digits, any width or case; dashes, spaces and marks ignored."""
    plain = unicodedata.normalize("NFKC", typed[:64]).upper()
    signs = (str(unicodedata.decimal(char)) if char.isdecimal() else char for char in plain)
    return "".join(sign for sign in signs if sign in ALPHABET)


def _sealed(code: str, browser: str) -> bytes:
    """What is stored of a code: useless without the browser's cookie, which is not stored (39 bits alone would be guessed)."""
    return hmac.digest(browser.encode("utf-8", "surrogatepass"), code.encode(), "sha256")
