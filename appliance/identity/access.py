"""Workspace tokens as proof: whose they are, and whether what they were made from still counts (DECIDED 13).

Rule: such a token works exactly as long as the session or the API token behind it, whatever its own time says.
"""

from __future__ import annotations

from appliance.errors import NotFound
from appliance.identity.api_tokens import ApiToken, ApiTokens
from appliance.identity.sessions import Session, Sessions
from appliance.identity.tokens import TokenRefused, WorkspaceTokens


class WorkspaceAccess:
    """Looks behind workspace tokens."""

    def __init__(self, tokens: WorkspaceTokens, sessions: Sessions, api_tokens: ApiTokens) -> None:
        self._tokens, self._sessions, self._api_tokens = tokens, sessions, api_tokens

    def holder(self, text: str) -> Session | ApiToken:
        """What the token was made from. Raises TokenRefused."""
        claims = self._tokens.verify_access(text)
        try:
            holder = self._holder(claims.session)
        except NotFound as error:
            raise TokenRefused("what it was made from is over") from error
        if holder.user.id != claims.subject:
            raise TokenRefused("made for somebody else")
        return holder

    def _holder(self, name: str) -> Session | ApiToken:
        kind, _, token_id = name.partition(":")
        if kind != "token":
            return self._sessions.get(name)
        found = self._api_tokens.get(token_id)
        if not self._api_tokens.alive(found) or "workspace" not in found.scopes:
            raise NotFound("this token does not work any more")
        return found
