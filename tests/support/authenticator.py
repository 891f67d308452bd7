"""A security key in software (W3C Web Authentication Level 3, sections 6 and 7), honest unless a test makes it lie."""

from __future__ import annotations

import hashlib
import json
import secrets
import struct
from typing import Any

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.identity.passkeys import decode, encode

PRESENT, VERIFIED, ATTESTED = 0x01, 0x04, 0x40


class SoftKey:
    """One credential. ``count`` is what it counted to; ``verifies`` whether it asks who is holding it."""

    def __init__(self, origin: str = "https://croft.localhost", rp: str = "croft.localhost") -> None:
        self.origin, self.rp = origin, rp
        self.id = secrets.token_bytes(32)
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.count, self.verifies = 0, True
        self.user = b""

    def create(self, options: dict[str, Any], **lies: Any) -> dict[str, Any]:
        """The answer to creation options."""
        self.user = decode(options["user"]["id"])
        numbers = self.key.public_key().public_numbers()
        cose = {1: 2, 3: -7, -1: 1, -2: numbers.x.to_bytes(32, "big"), -3: numbers.y.to_bytes(32, "big")}
        attested = bytes(16) + struct.pack(">H", len(self.id)) + self.id + cbor2.dumps(lies.get("cose", cose))
        statement = {"fmt": lies.get("fmt", "none"), "attStmt": {}, "authData": self._data(ATTESTED) + attested}
        return self._answer(
            clientDataJSON=encode(self._client("webauthn.create", options["challenge"], lies)),
            attestationObject=encode(cbor2.dumps(statement)),
            transports=["internal"],
        )

    def get(self, options: dict[str, Any], **lies: Any) -> dict[str, Any]:
        """The answer to request options; the counter goes on unless it is told where to go."""
        self.count = lies.get("count", self.count + 1)
        client = self._client("webauthn.get", options["challenge"], lies)
        data = self._data(0)
        signed = self.key.sign(data + hashlib.sha256(client).digest(), ec.ECDSA(hashes.SHA256()))
        return self._answer(
            clientDataJSON=encode(client),
            authenticatorData=encode(data),
            signature=encode(lies.get("signature", signed)),
            userHandle=encode(lies.get("user", self.user)),
        )

    def _client(self, kind: str, challenge: str, lies: dict[str, Any]) -> bytes:
        said = {"type": kind, "challenge": challenge, "origin": self.origin, "crossOrigin": False}
        return json.dumps(said | lies.get("client", {})).encode()

    def _data(self, flags: int) -> bytes:
        flags |= PRESENT | (VERIFIED if self.verifies else 0)
        return hashlib.sha256(self.rp.encode()).digest() + struct.pack(">BI", flags, self.count)

    def _answer(self, **response: Any) -> dict[str, Any]:
        return {"id": encode(self.id), "rawId": encode(self.id), "type": "public-key", "response": response}
