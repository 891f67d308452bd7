"""Workspace tokens: Ed25519 JWTs (RFC 7519, RFC 8037) for programs that act for a person.

Rules (TOK-1..5): one algorithm; only the header fields alg, kid and typ; ``kid`` is a key of a fixed map and nothing else; exact
issuer and audience; a distinct ``typ`` for each purpose; a launch token counts once, and that is on disk before anything follows.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import secrets
import sqlite3
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Struct

from appliance.clock import Clock
from appliance.database import Database
from appliance.errors import Unauthenticated

ACCESS_SECONDS = 15 * 60
# A registry issues launch tokens for 60 s (DECIDED 13); one that lasts longer than this is refused, signed or not (TOK-3).
LONGEST_LAUNCH_SECONDS = 120
LEEWAY = 30
TOKEN_MAX = 4096
CACHE_MAX = 1024
# Checked whole: the decoder underneath skips whatever is not base64.
_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\Z")
_KID = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_HEADER = {"alg", "kid", "typ"}
ACCESS_TYPE = "croft-access+jwt"
LAUNCH_TYPE = "croft-launch+jwt"


class TokenRefused(Unauthenticated):
    """The token is not one of ours, not for here, not for this, or over. Which one goes to the log only."""

    code = "token_refused"

    def __init__(self, why: str) -> None:
        super().__init__("this token is not accepted", hint="Sign in again to get a new one.")
        self.why = why


class Claims(Struct, frozen=True):
    """What a verified token says. Times are Unix seconds."""

    subject: str
    session: str
    jti: str
    expires_at: float


class WorkspaceTokens:
    """Issues access tokens for this appliance and verifies access and launch tokens."""

    def __init__(self, key: Ed25519PrivateKey, instance: str, clock: Clock, database: Database) -> None:
        self._key = key
        self._kid = base64.urlsafe_b64encode(key.public_key().public_bytes_raw()[:12]).decode()
        self._instance = instance
        self._clock = clock
        self._db = database
        self._verified: dict[str, Claims] = {}

    def issue_access(self, user_id: str, session_id: str) -> str:
        """A token for ``user_id``, bound to a session, that lasts 15 minutes."""
        import jwt  # on first use: it brings X.509 with it, and most appliances never need a token

        now = int(self._clock.now())
        claims = {
            "iss": self._instance,
            "aud": self._instance,
            "sub": user_id,
            "sid": session_id,
            "iat": now,
            "nbf": now,
            "exp": now + ACCESS_SECONDS,
            "jti": secrets.token_urlsafe(16),
        }
        return jwt.encode(claims, self._key, algorithm="EdDSA", headers={"kid": self._kid, "typ": ACCESS_TYPE})

    def verify_access(self, token: str) -> Claims:
        """The claims of an access token of ours. Raises TokenRefused. Verified ones are kept in a bounded cache."""
        known = self._verified.get(token)
        if known is None:
            known = self._verify(
                token, ACCESS_TYPE, {self._kid: self._key.public_key()}, self._instance, ACCESS_SECONDS
            )
            if len(self._verified) >= CACHE_MAX:
                self._verified.clear()
            self._verified[token] = known
        if known.expires_at <= self._clock.now():
            raise TokenRefused("expired")
        return known

    def forget(self) -> None:
        """Empty the cache; called whenever a session ends or a token is revoked."""
        self._verified.clear()

    async def use_launch(self, token: str, keys: Mapping[str, Ed25519PublicKey], issuer: str) -> Claims:
        """Verify a launch token and use it up, on disk, before the caller makes a session. Raises TokenRefused."""
        claims = self._verify(token, LAUNCH_TYPE, keys, issuer, LONGEST_LAUNCH_SECONDS)
        now = self._clock.now()
        try:
            async with self._db.transaction() as tx:
                await tx.execute("DELETE FROM used_tokens WHERE expires_at < ?", (now - 24 * 3600,))
                await tx.execute("INSERT INTO used_tokens VALUES (?, ?)", (claims.jti, claims.expires_at + LEEWAY))
        except sqlite3.IntegrityError as error:
            raise TokenRefused("used already") from error
        return claims

    def _verify(self, token: str, kind: str, keys: Mapping[str, Ed25519PublicKey], issuer: str, longest: int) -> Claims:
        key = keys.get(_kid_of(token, kind))
        if key is None:
            raise TokenRefused("unknown key")
        import jwt

        try:
            body = jwt.decode(
                token,
                key,
                algorithms=["EdDSA"],
                audience=self._instance,
                issuer=issuer,
                options={
                    "require": ["exp", "nbf", "iat", "jti", "sub"],
                    "strict_aud": True,
                    # Times are checked below, against the injected clock.
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            raise TokenRefused(type(error).__name__) from error
        return self._timely(body, longest)

    def _timely(self, body: dict[str, Any], longest: int) -> Claims:
        iat, nbf, exp = body["iat"], body["nbf"], body["exp"]
        now = self._clock.now()
        # In this range no comparison can overflow, and a NaN is in no range.
        if not all(type(value) in (int, float) and 0 <= value < 1 << 53 for value in (iat, nbf, exp)):
            raise TokenRefused("times of the wrong kind")
        if not all(
            isinstance(body.get(name, ""), str) and len(body.get(name, "")) <= 128 for name in ("sub", "jti", "sid")
        ):
            raise TokenRefused("claims of the wrong type")
        if not body["jti"] or not body["sub"] or not 0 < exp - iat <= longest:
            raise TokenRefused("lasts too long, or names nobody")
        if now > exp + LEEWAY or now < nbf - LEEWAY or now < iat - LEEWAY:
            raise TokenRefused("not now")
        return Claims(body["sub"], body.get("sid", ""), body["jti"], float(exp))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a field is there twice")
    return dict(pairs)


def _kid_of(token: str, kind: str) -> str:
    """The key id of a token whose header holds exactly what we expect. Raises TokenRefused."""
    head = token.split(".", 1)[0]
    if len(token) > TOKEN_MAX or not _TOKEN.match(token):
        raise TokenRefused("not a token")
    try:
        header = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)), object_pairs_hook=_once)
    except (binascii.Error, ValueError, RecursionError) as error:
        raise TokenRefused("unreadable header") from error
    if not isinstance(header, dict) or set(header) != _HEADER or header["alg"] != "EdDSA" or header["typ"] != kind:
        raise TokenRefused("wrong header")
    kid = header["kid"]
    if not isinstance(kid, str) or not _KID.match(kid):
        raise TokenRefused("unusable key id")
    return kid
