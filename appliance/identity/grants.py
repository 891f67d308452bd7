"""How a program on a laptop comes by a token: it asks, a signed-in person approves in the browser, the program collects.

Rules: in memory, short-lived, used once. Collecting takes the code and the verifier whose SHA-256 came with the question (RFC
7636, S256), so that a code seen on its way is worth nothing. What a person types (RFC 8628) is short, so it only ever leads a
signed-in person to a question, never to a token. A grant dies with the session that approved it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets as random

from msgspec import Struct, field

from appliance.clock import Clock
from appliance.errors import Invalid, TooMany
from appliance.identity import secrets
from appliance.identity.api_tokens import Wanted
from appliance.identity.sessions import Session

REDIRECT_SECONDS = 60.0
DEVICE_SECONDS = 600.0
POLL_SECONDS = 2.0
PER_NETWORK, IN_ALL = 5, 200
# Consonants that are not mistaken for each other and spell nothing (RFC 8628 6.1): 20^8 is 34 bits.
_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"
_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}\Z")
_STATE = re.compile(r"[A-Za-z0-9_-]{16,128}\Z")
_VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}\Z")


class GrantRefused(Invalid):
    """Unknown, used, too old, denied, or collected with the wrong verifier; which one is not told."""

    code = "grant_refused"

    def __init__(self) -> None:
        super().__init__(
            "this was not approved, or took too long", hint="Run `croft sign-in` again; it starts from the beginning."
        )


class Grant(Struct):
    """A question and, once somebody approved, whose session did. ``until`` is an uptime."""

    wanted: Wanted
    challenge: str
    network: str
    until: float
    way: str
    typed: str = ""
    session: Session | None = None
    asked_at: float = field(default=float("-inf"))


class Grants:
    """All questions that wait for an answer or for being collected."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._by_code: dict[bytes, Grant] = {}

    def approve(self, session: Session, wanted: Wanted, challenge: str) -> str:
        """Approve what a browser was sent with. Returns the code that goes to the program's own port. Raises Invalid."""
        grant = Grant(
            wanted, check_challenge(challenge), "", self._uptime() + REDIRECT_SECONDS, "laptop", session=session
        )
        return self._add(grant)

    def ask(self, wanted: Wanted, challenge: str, network: str) -> tuple[str, str]:
        """A question of a program without a browser. Returns (code it collects with, code a person types).

        Raises Invalid, or TooMany when this network has too many open.
        """
        waiting = [grant for grant in self._live().values() if grant.typed]
        if sum(grant.network == network for grant in waiting) >= PER_NETWORK or len(waiting) >= IN_ALL:
            raise TooMany(
                "too many programs wait to be let in",
                retry_after=DEVICE_SECONDS / PER_NETWORK,
                hint="Wait a few minutes, or sign in with a browser on the same machine.",
            )
        typed = "".join(random.choice(_LETTERS) for _ in range(8))
        until = self._uptime() + DEVICE_SECONDS
        return self._add(Grant(wanted, check_challenge(challenge), network, until, "device", typed)), typed

    def find(self, typed: str) -> Grant | None:
        """The open question whose short code this is; case, spaces and hyphens do not matter."""
        letters = "".join(char for char in typed.upper() if char in _LETTERS)
        waiting = (grant for grant in self._live().values() if grant.typed and grant.session is None)
        return next(
            (grant for grant in waiting if len(letters) == 8 and hmac.compare_digest(grant.typed, letters)), None
        )

    def decide(self, grant: Grant, session: Session | None) -> None:
        """Approve for ``session``, or deny with None."""
        if session is None:
            self._by_code = {code: other for code, other in self._by_code.items() if other is not grant}
        else:
            grant.session = session

    def collect(self, code: str, verifier: str) -> tuple[Grant, Session] | None:
        """Use an approved question up; None while nobody has answered. A wrong verifier uses it up too.

        Raises GrantRefused, or TooMany when asked more than once in two seconds.
        """
        key = secrets.digest(code)
        grant = self._live().get(key)
        if grant is None or not _fits(verifier, grant.challenge):
            self._by_code.pop(key, None)
            raise GrantRefused
        if grant.session is None:
            last, grant.asked_at = grant.asked_at, self._uptime()
            if grant.asked_at - last < POLL_SECONDS / 2:
                raise TooMany("asked too often", retry_after=POLL_SECONDS)
            return None
        del self._by_code[key]
        if grant.session.ended:
            raise GrantRefused
        return grant, grant.session

    def _add(self, grant: Grant) -> str:
        code = secrets.new("grt")
        self._live()[secrets.digest(code)] = grant
        return code

    def _live(self) -> dict[bytes, Grant]:
        now = self._uptime()
        self._by_code = {code: grant for code, grant in self._by_code.items() if grant.until > now}
        return self._by_code

    def _uptime(self) -> float:
        return self._clock.uptime()


def check_challenge(text: str) -> str:
    """A SHA-256 in base64url, as S256 has it. Raises Invalid."""
    if not _CHALLENGE.match(text):
        raise Invalid("the challenge is not one", hint="Run `croft sign-in` again.", code="grant_question")
    return text


def loopback(port: str, state: str) -> str:
    """The only address a code is ever sent to: the port of a program on the machine the browser runs on (RFC 8252 7.3).

    Returns it with the state, ready for the code to be added. Raises Invalid.
    """
    if not (
        port.isascii() and port.isdigit() and len(port) <= 5 and 1024 <= int(port) <= 65535 and str(int(port)) == port
    ):
        raise Invalid("the port is not one", hint="Run `croft sign-in` again.", code="grant_question")
    if not _STATE.match(state):
        raise Invalid("the state is not one", hint="Run `croft sign-in` again.", code="grant_question")
    return f"http://127.0.0.1:{port}/?state={state}&code="


def _fits(verifier: str, challenge: str) -> bool:
    if not _VERIFIER.match(verifier):
        return False
    made = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode("ascii")).digest()).rstrip(b"=").decode()
    return hmac.compare_digest(made, challenge)
