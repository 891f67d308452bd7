"""Our mail: whether it is set up, the password of its account, and the one sender that nobody waits for.

Rules: posting never touches the network, so what a page answers and how fast says nothing about the mail server or the person
(AUTH-5). The password lies in a file of its own (SEC-1), never in croft.toml, and is read only to be sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import logging
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from appliance import keys
from appliance.errors import Conflict, Invalid
from appliance.identity.smtp import Letter, MailFault, deliver
from appliance.settings import Settings

log = logging.getLogger(__name__)

QUEUE_MAX = 100
PASSWORD_MAX = 1000
LONGEST_PAUSE = 60.0

Deliver = Callable[[Settings, str, Letter], Awaitable[None]]


def pause(tries: int) -> float:
    """Seconds before trying a letter again: 2, 4, 8 ... 60, each shortened at random so that letters spread."""
    return float(min(2.0 ** min(tries, 10), LONGEST_PAUSE) * random.uniform(0.5, 1.0))  # noqa: S311 - not a secret


class Mailer:
    """Post letters with :meth:`post`; :meth:`run` sends them, one at a time, the earliest due first."""

    def __init__(
        self, settings: Settings, *, deliver: Deliver = deliver, pause: Callable[[int], float] = pause
    ) -> None:
        self._settings = settings
        self._deliver = deliver
        self._pause = pause
        # When due, a number that keeps the order, tries so far, when it stops being worth sending, the letter.
        self._queue: list[tuple[float, int, int, float, Letter]] = []
        self._numbers = itertools.count()
        self._arrived = asyncio.Event()
        self.fault: MailFault | None = None

    @property
    def on(self) -> bool:
        """Whether mail is set up."""
        return bool(self._settings.mail_host)

    @property
    def waiting(self) -> int:
        """Letters that have not been handed over yet."""
        return len(self._queue)

    def use(self, settings: Settings) -> None:
        """Go on with other settings. The password stays behind when the server or the account is another: it must not be
        handed to whoever somebody who took over an admin's session names."""
        where = [(one.mail_host, one.mail_port, one.mail_tls, one.mail_user) for one in (self._settings, settings)]
        self._settings = settings
        if where[0] != where[1]:
            password_file(settings).unlink(missing_ok=True)

    def post(self, letter: Letter) -> bool:
        """Have ``letter`` sent soon. False when mail is off or too much is waiting already."""
        if not self.on or len(self._queue) >= QUEUE_MAX:
            log.warning("a letter was not taken", extra={"on": self.on, "waiting": len(self._queue)})
            return False
        now = time.monotonic()
        self._put(now, 0, now + letter.lifetime, letter)
        return True

    async def run(self) -> None:
        """Send what is posted, until cancelled. A letter that fails waits; the others do not wait for it.

        What waits then is lost, and said to be: letters hold links that open this appliance, and those are on no disk (SEC-1).
        """
        try:
            await self._send_all()
        finally:
            if self._queue:
                log.warning("letters that waited are lost with this stop", extra={"letters": len(self._queue)})

    async def _send_all(self) -> None:
        task = asyncio.current_task()
        # The mail client may lose a cancellation (bpo-37658, mended in Python 3.12); the task still knows of it.
        while task is None or not task.cancelling():
            _, _, tries, until, letter = await self._next()
            if time.monotonic() > until:  # the server was slow for so long that it is of no use any more
                log.warning("a letter was not sent", extra={"cause": "too_old", "again": False})
                continue
            try:
                await self.send(letter)
            except MailFault as fault:
                due = time.monotonic() + self._pause(tries + 1)
                again = fault.passing and due < until
                log.warning("a letter was not sent", extra={"cause": fault.code, "said": fault.said, "again": again})
                if again:
                    self._put(due, tries + 1, until, letter)

    async def send(self, letter: Letter) -> None:
        """Send ``letter`` now. Raises MailFault, which stays as :attr:`fault` until a letter goes through."""
        try:
            await self._deliver(self._settings, await asyncio.to_thread(self._password), letter)
        except MailFault as fault:
            self.fault = fault
            raise
        self.fault = None

    async def set_password(self, text: str) -> None:
        """Keep the password of the mail account; the next letter uses it. Raises Invalid, OSError."""
        password = text.strip("\r\n")
        if not password or len(password) > PASSWORD_MAX or not password.isprintable():
            raise Invalid(
                "that is not usable as a password", hint=f"Give one line of up to {PASSWORD_MAX} printable characters."
            )
        await asyncio.to_thread(keys.write_private, password_file(self._settings), password.encode())

    def has_password(self) -> bool:
        """Whether one is kept. Looks at the disk."""
        return password_file(self._settings).exists()

    def must_be_on(self) -> None:
        """Raises Conflict when mail is not set up."""
        if not self.on:
            raise Conflict("mail is not set up", hint="Set mail.host in the settings first.", code="mail_off")

    def _password(self) -> str:
        try:
            return password_file(self._settings).read_text("utf-8")
        except FileNotFoundError:
            return ""
        except (OSError, UnicodeDecodeError) as error:
            raise MailFault("mail_sign_in", "the password file cannot be read") from error

    def _put(self, due: float, tries: int, until: float, letter: Letter) -> None:
        heapq.heappush(self._queue, (due, next(self._numbers), tries, until, letter))
        self._arrived.set()

    async def _next(self) -> tuple[float, int, int, float, Letter]:
        """The first letter that is due, taken from the queue once it is."""
        while True:
            self._arrived.clear()
            left = self._queue[0][0] - time.monotonic() if self._queue else None
            if left is not None and left <= 0:
                return heapq.heappop(self._queue)
            # Not wait_for, for the reason given at run().
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._arrived.wait()


def password_file(settings: Settings) -> Path:
    """Where the password of the mail account lies (0600)."""
    return settings.paths.keys / "mail.password"
