"""Passkeys: WebAuthn credentials (W3C Web Authentication Level 3), several to a person.

Rules: what an authenticator signed counts for our exact origin and host name and for one challenge of ours, and every refusal
reads the same. No attestation is asked for: which make of key people own is none of our business. A passkey whose counter went
back is refused until it is removed, for there may be a copy of it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import sqlite3
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from appliance.audit import AuditLog
from appliance.clock import Clock
from appliance.database import Database, Row
from appliance.errors import Conflict, Invalid, NotFound
from appliance.identity.challenges import SECONDS, Challenges
from appliance.identity.throttle import ProofRefused
from appliance.identity.users import User, check_name

if TYPE_CHECKING:
    from webauthn.authentication.verify_authentication_response import VerifiedAuthentication
    from webauthn.registration.verify_registration_response import VerifiedRegistration

log = logging.getLogger(__name__)

PER_PERSON = 20
# COSE algorithms every authenticator has one of: EdDSA, ES256, RS256.
ALGORITHMS = (-8, -7, -257)
# The library's own errors come besides these, which hostile CBOR and keys were seen to raise from within it.
MALFORMED = (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, OverflowError, struct.error)


class PasskeyRefused(ProofRefused):
    """The passkey is unknown, or what it signed does not hold; which one is not told."""

    code = "passkey_refused"

    def __init__(self) -> None:
        super().__init__(
            "This passkey could not be accepted. It may have been removed, or the page was open for too long.",
            hint="Reload the page and try again, or use a recovery code.",
        )


class PasskeyNotAdded(Invalid):
    """What the authenticator answered cannot become a passkey."""

    code = "passkey_not_added"

    def __init__(self) -> None:
        super().__init__(
            "This passkey could not be added: what the device answered does not fit what was asked.",
            hint="Reload the page and try again, or use another device.",
        )


class RelyingParty(Struct, frozen=True):
    """Who passkeys are made for: the host's name, and the origin its pages have, port included."""

    id: str
    origin: str


class Passkey(Struct, frozen=True):
    """One passkey as its owner sees it. Times are Unix seconds; ``suspect_at`` is when its counter went back."""

    id: str
    user_id: str
    name: str
    synced: bool
    created_at: float
    used_at: float | None
    suspect_at: float | None

    @classmethod
    def of(cls, row: Row) -> Passkey:
        return cls(
            row["id"],
            row["user_id"],
            row["name"],
            bool(row["synced"]),
            row["created_at"],
            row["used_at"],
            row["suspect_at"],
        )


class Assertion(Struct, frozen=True):
    """A signature that holds. ``verified`` says that the device also asked who is holding it (a PIN, a finger, a face)."""

    passkey: str
    count: int
    verified: bool


class Passkeys:
    """Adds passkeys and accepts what they sign. ``browser`` is the secret in the browser's challenge cookie."""

    def __init__(self, database: Database, audit: AuditLog, clock: Clock, party: RelyingParty) -> None:
        self._db = database
        self._audit = audit
        self._clock = clock
        self._party = party
        self._challenges = Challenges(clock)

    async def of(self, user_id: str) -> list[Passkey]:
        """A person's passkeys, the oldest first."""
        rows = await self._db.rows("SELECT * FROM passkeys WHERE user_id = ? ORDER BY created_at, id", (user_id,))
        return [Passkey.of(row) for row in rows]

    async def creation_options(self, user: User, session_id: str, browser: str) -> dict[str, Any]:
        """What ``navigator.credentials.create`` needs (PublicKeyCredentialCreationOptionsJSON)."""
        return {
            "rp": {"id": self._party.id, "name": f"Croft ({self._party.id})"},
            "user": {"id": encode(user.id.encode()), "name": user.email, "displayName": user.name},
            "challenge": encode(self._challenges.make(f"add {session_id}", browser)),
            "pubKeyCredParams": [{"type": "public-key", "alg": number} for number in ALGORITHMS],
            "timeout": int(SECONDS * 1000),
            "excludeCredentials": await self._credentials(user.id),
            "authenticatorSelection": {
                "residentKey": "required",
                "requireResidentKey": True,
                "userVerification": "preferred",
            },
            "attestation": "none",
        }

    async def request_options(self, purpose: str, browser: str, *, user_id: str = "") -> dict[str, Any]:
        """What ``navigator.credentials.get`` needs. With ``user_id`` it is for one person's step-up, and the device has to ask
        who is holding it; without, the browser offers whatever passkeys it has for this host."""
        return {
            "rpId": self._party.id,
            "challenge": encode(self._challenges.make(purpose, browser)),
            "timeout": int(SECONDS * 1000),
            "allowCredentials": await self._credentials(user_id) if user_id else [],
            "userVerification": "required" if user_id else "preferred",
        }

    async def _credentials(self, user_id: str) -> list[dict[str, Any]]:
        rows = await self._db.rows("SELECT credential, transports FROM passkeys WHERE user_id = ?", (user_id,))
        return [
            {"type": "public-key", "id": encode(row["credential"]), "transports": json.loads(row["transports"])}
            for row in rows
        ]

    async def add(
        self, user: User, response: Mapping[str, Any], name: str, *, session_id: str, browser: str
    ) -> Passkey:
        """Keep the passkey that ``response`` (RegistrationResponseJSON) brings. Raises PasskeyNotAdded, Invalid or Conflict."""
        name = check_name(name) or "Passkey"
        challenge = _challenge_in(response)
        if self._challenges.age(challenge, f"add {session_id}", browser) is None:
            raise PasskeyNotAdded
        found = await asyncio.to_thread(_check_new, response, challenge, self._party)
        if not self._challenges.use(challenge):
            raise PasskeyNotAdded
        passkey = Passkey(
            secrets.token_hex(8), user.id, name, found.credential_backed_up, self._clock.now(), None, None
        )
        try:
            async with self._db.transaction() as tx:
                await self._insert(tx, passkey, found, response)
                await self._audit.append(tx, "passkey.add", user.id, passkey=passkey.id)
        except sqlite3.IntegrityError as error:
            raise Conflict("this passkey is here already", hint="Use another device or security key.") from error
        return passkey

    async def _insert(
        self, tx: Any, passkey: Passkey, found: VerifiedRegistration, response: Mapping[str, Any]
    ) -> None:
        count = await tx.execute_fetchall("SELECT COUNT(*) FROM passkeys WHERE user_id = ?", (passkey.user_id,))
        if next(iter(count))[0] >= PER_PERSON:
            raise Conflict(f"there are {PER_PERSON} passkeys already", hint="Remove one that you do not use any more.")
        await tx.execute(
            "INSERT INTO passkeys VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL)",
            (
                passkey.id,
                found.credential_id,
                passkey.user_id,
                found.credential_public_key,
                found.sign_count,
                passkey.name,
                json.dumps(response["response"].get("transports", [])),
                int(passkey.synced),
                passkey.created_at,
            ),
        )

    async def check(
        self, response: Mapping[str, Any], purpose: str, browser: str, *, user_id: str = ""
    ) -> Assertion | None:
        """Whether ``response`` (AuthenticationResponseJSON) answers a challenge made for ``purpose`` and ``browser``.

        With ``user_id`` it must be that person's, and the device must have asked who is holding it. None says no.
        """
        challenge = _challenge_in(response)
        age = self._challenges.age(challenge, purpose, browser)
        if age is None:
            return None
        row = await self._db.row("SELECT * FROM passkeys WHERE credential = ?", (decode(str(response["id"])),))
        if row is None or row["suspect_at"] is not None or (user_id and row["user_id"] != user_id):
            return None
        # A key that was not named to the browser says itself whose it is (Web Authentication 7.2, step 6).
        handle = response["response"].get("userHandle", None if user_id else "")
        if handle is not None and decode(handle) != row["user_id"].encode():
            return None
        try:
            found = await asyncio.to_thread(
                _check_used, response, challenge, self._party, row["public_key"], must_verify=bool(user_id)
            )
        except PasskeyRefused:
            return None
        if not self._challenges.use(challenge):
            return None
        if not _counts_on(row["sign_count"], found.new_sign_count):
            # An answer that was overtaken on its way by a later one is no sign of a copy.
            if not row["used_at"] or self._clock.now() - age > row["used_at"]:
                await self._suspect(row)
            return None
        return Assertion(row["id"], found.new_sign_count, found.user_verified)

    async def use(self, tx: Any, assertion: Assertion | None) -> User:
        """Whose passkey it was, used up in the caller's transaction: the second of two equal ones fails. Raises PasskeyRefused."""
        if assertion is None:
            raise PasskeyRefused
        done = await tx.execute(
            "UPDATE passkeys SET sign_count = ?1, used_at = ?2 WHERE id = ?3 AND suspect_at IS NULL "
            "AND (sign_count < ?1 OR (sign_count = 0 AND ?1 = 0))",
            (assertion.count, self._clock.now(), assertion.passkey),
        )
        rows = list(
            await tx.execute_fetchall(
                "SELECT u.* FROM users u JOIN passkeys p ON p.user_id = u.id WHERE p.id = ?", (assertion.passkey,)
            )
        )
        if not done.rowcount or not rows or rows[0]["suspended_at"] is not None:
            raise PasskeyRefused
        return User.of(rows[0])

    async def rename(self, user: User, passkey_id: str, name: str) -> None:
        """Give one of ``user``'s passkeys another name. Raises NotFound or Invalid."""
        wanted = check_name(name)
        if not wanted:
            raise Invalid("a passkey needs a name", hint="Use one by which you will know the device again.")
        if not await self._db.execute(
            "UPDATE passkeys SET name = ? WHERE id = ? AND user_id = ?", (wanted, passkey_id, user.id)
        ):
            raise _none_such()

    async def remove(self, tx: Any, user: User, passkey_id: str) -> Passkey:
        """Remove one of ``user``'s passkeys in the caller's transaction, and say which it was. Raises NotFound."""
        gone = list(
            await tx.execute_fetchall(
                "DELETE FROM passkeys WHERE id = ? AND user_id = ? RETURNING *", (passkey_id, user.id)
            )
        )
        if not gone:
            raise _none_such()
        await self._audit.append(tx, "passkey.remove", user.id, passkey=passkey_id)
        return Passkey.of(gone[0])

    async def _suspect(self, row: Row) -> None:
        async with self._db.transaction() as tx:
            await tx.execute("UPDATE passkeys SET suspect_at = ? WHERE id = ?", (self._clock.now(), row["id"]))
            await self._audit.append(tx, "passkey.suspect", row["user_id"], passkey=row["id"])


def encode(data: bytes) -> str:
    """base64url without padding, as WebAuthn's JSON has it."""
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """The bytes of base64url text; empty for anything else."""
    try:
        return urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    except ValueError:
        return b""


def _challenge_in(response: Mapping[str, Any]) -> bytes:
    """The challenge a response says it answers; empty when it says none, or comes out of a frame of another site."""
    try:
        data = json.loads(decode(response["response"]["clientDataJSON"]))
    except (ValueError, RecursionError):
        return b""
    if not isinstance(data, dict) or data.get("crossOrigin") is True or not isinstance(data.get("challenge"), str):
        return b""
    return decode(data["challenge"])


def _counts_on(known: int, told: int) -> bool:
    """Whether a signature counter goes on (Web Authentication 6.1.1); an authenticator that does not count says 0."""
    return told > known or told == known == 0


def _check_new(response: Mapping[str, Any], challenge: bytes, party: RelyingParty) -> VerifiedRegistration:
    # Here and below: the library takes 0.1 s and 6 MB to import (measured), so it waits until somebody has a passkey.
    import webauthn
    from webauthn.helpers import parse_attestation_object
    from webauthn.helpers.cose import COSEAlgorithmIdentifier
    from webauthn.helpers.exceptions import WebAuthnException

    try:
        statement = parse_attestation_object(decode(response["response"]["attestationObject"]))
        if statement.fmt not in ("none", "packed") or statement.att_stmt.x5c is not None:
            raise PasskeyNotAdded  # nobody asked for certificates, so none are parsed
        return webauthn.verify_registration_response(
            credential=dict(response),
            expected_challenge=challenge,
            expected_rp_id=party.id,
            expected_origin=party.origin,
            supported_pub_key_algs=[COSEAlgorithmIdentifier(number) for number in ALGORITHMS],
        )
    except (WebAuthnException, *MALFORMED) as error:
        log.info("a new passkey was refused", extra={"cause": str(error)[:200]})
        raise PasskeyNotAdded from error


def _check_used(
    response: Mapping[str, Any], challenge: bytes, party: RelyingParty, public_key: bytes, *, must_verify: bool
) -> VerifiedAuthentication:
    import webauthn
    from webauthn.helpers.exceptions import WebAuthnException

    try:
        return webauthn.verify_authentication_response(
            credential=dict(response),
            expected_challenge=challenge,
            expected_rp_id=party.id,
            expected_origin=party.origin,
            credential_public_key=public_key,
            credential_current_sign_count=0,  # _counts_on looks at it, so that one that went back can be told apart
            require_user_verification=must_verify,
        )
    except (WebAuthnException, *MALFORMED) as error:
        log.info("a passkey was refused", extra={"cause": str(error)[:200]})
        raise PasskeyRefused from error


def _none_such() -> NotFound:
    return NotFound("there is no such passkey", hint="It may have been removed meanwhile.")
