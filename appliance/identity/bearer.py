"""From an ``Authorization`` header to an API token, or one refusal for everything that is none.

Rules: unknown, mistyped, expired and revoked tokens get the same answer. Wrong ones are counted by network (AUTH-4) under a key of
their own, so a forgotten script never shuts its owner out of the sign-in page; a token that works is never counted nor refused.
"""

from __future__ import annotations

from collections.abc import Sequence

from appliance.audit import AuditLog
from appliance.database import Database
from appliance.errors import TooMany, Unauthenticated
from appliance.identity.api_tokens import ApiToken, ApiTokens
from appliance.identity.throttle import Throttle, network

SCHEME = "bearer "


class BearerRefused(Unauthenticated):
    """The token is not accepted; why is not told."""

    code = "token_refused"
    challenge = 'Bearer realm="croft", error="invalid_token"'

    def __init__(self) -> None:
        super().__init__(
            "this token is not accepted",
            hint="It may be mistyped, expired or revoked. The tokens page shows which ones work; `croft sign-in` gets a new one.",
        )


class Bearer:
    """Admits tokens."""

    def __init__(self, database: Database, tokens: ApiTokens, throttle: Throttle, audit: AuditLog) -> None:
        self._db = database
        self._tokens = tokens
        self._throttle = throttle
        self._audit = audit

    async def admit(self, sent: Sequence[str], address: str) -> ApiToken:
        """The live token of a request's ``Authorization`` headers. Raises BearerRefused, or TooMany after five of them."""
        token = self._tokens.check(sent[0].partition(" ")[2].strip()) if len(sent) == 1 else None
        if token is not None:
            self._tokens.used(token, address)
            return token
        key = f"token {network(address)}"
        if left := await self._throttle.banned(key):
            raise TooMany(
                "too many tokens that are not accepted came from this network",
                retry_after=left,
                hint="Tokens that work still do. Stop the program that sends the wrong one.",
            )
        async with self._throttle.line(address), self._db.transaction() as tx:
            if await self._throttle.failed(tx, key):
                await self._audit.append(tx, "token.refused", "anyone", address=address[:64])
        raise BearerRefused


def carried(headers: Sequence[str]) -> list[str]:
    """Those of a request's ``Authorization`` headers that bring a token; other schemes are not ours."""
    return [header for header in headers if header.partition(" ")[0].lower() == "bearer"]
