"""Challenges that passkeys sign.

Rules: a challenge is good once, for five minutes, in the browser it was made for and for one purpose. Nothing is kept of one
until something that holds was signed for it, so that strangers cannot fill our memory; a restart forgets the key, and with it
every challenge that was out.
"""

from __future__ import annotations

import hmac
import secrets
import struct

from appliance.clock import Clock

SECONDS = 300.0
_NONCE = 24
_HEAD = struct.Struct(f">{_NONCE}sd")  # random bytes, and the uptime it was made at


class Challenges:
    """Makes challenges and takes them back. ``browser`` is a secret in a cookie; ``purpose`` is a word without NUL, which names
    the session where there is one."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._taken: dict[bytes, float] = {}

    def make(self, purpose: str, browser: str) -> bytes:
        """A fresh challenge of 64 bytes."""
        head = _HEAD.pack(secrets.token_bytes(_NONCE), self._clock.uptime())
        return head + self._mark(head, purpose, browser)

    def age(self, challenge: bytes, purpose: str, browser: str) -> float | None:
        """How many seconds ago ``challenge`` was made; None unless it is one of ours, for this purpose and browser, in time and
        not used up."""
        head, mark = challenge[: _HEAD.size], challenge[_HEAD.size :]
        if not browser or not hmac.compare_digest(mark, self._mark(head, purpose, browser)):
            return None
        age = float(self._clock.uptime() - _HEAD.unpack(head)[1])
        return age if age <= SECONDS and head not in self._taken else None

    def use(self, challenge: bytes) -> bool:
        """Use up one that :meth:`age` knows; False when somebody else was faster."""
        head, uptime = challenge[: _HEAD.size], self._clock.uptime()
        self._taken = {each: at for each, at in self._taken.items() if uptime - at <= SECONDS}
        if head in self._taken:
            return False
        self._taken[head] = _HEAD.unpack(head)[1]
        return True

    def _mark(self, head: bytes, purpose: str, browser: str) -> bytes:
        bound = f"{purpose}\0{browser}".encode("utf-8", "surrogatepass")
        return hmac.digest(self._key, head + bound, "sha256")
