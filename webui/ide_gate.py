"""What the forward-auth endpoint asks: sessions, tokens and the IDE's state, all from memory; and the pages it answers with."""

from __future__ import annotations

from collections.abc import Callable

import jinja2

from appliance.errors import NotFound
from appliance.identity.sessions import Session, Sessions
from appliance.identity.tokens import TokenRefused, WorkspaceTokens
from appliance.identity.users import Role
from appliance.identity.verify import NOBODY, Access, PageName, Verdict
from appliance.services.manager import Services
from appliance.settings import Settings
from webui.i18n import Catalogue, Translator
from webui.views import preferred, wake_event


class IdeGate:
    """The Gate of :mod:`appliance.identity.verify`."""

    def __init__(self, sessions: Sessions, tokens: WorkspaceTokens, services: Services,
                 pages: Callable[[PageName, str, str], bytes]) -> None:
        self._sessions = sessions
        self._tokens = tokens
        self._services = services
        self._pages = pages

    def check(self, cookie: str, host: str) -> Verdict:
        session = self._sessions.check_ide(cookie)
        return NOBODY if session is None else _verdict(session)

    def check_bearer(self, token: str, host: str) -> Verdict:
        try:
            claims = self._tokens.verify_access(token)
            session = self._sessions.get(claims.session)
        except (TokenRefused, NotFound):
            return NOBODY
        return _verdict(session) if session.user.id == claims.subject else NOBODY

    def slide(self, session: object) -> None:
        if isinstance(session, Session):
            self._sessions.slide(session)

    def ready(self) -> bool:
        return self._services.is_ready("ide")

    def wake(self) -> None:
        self._services.wake("ide")

    def page(self, name: PageName, path: str, accept_language: str) -> bytes:
        return self._pages(name, path, accept_language)


def _verdict(session: Session) -> Verdict:
    allowed = session.user.role >= Role.operator
    return Verdict(Access.allowed if allowed else Access.forbidden, session)


class IdePages:
    """Renders the pages shown in the IDE's place. They stand alone: no person, no frame."""

    def __init__(self, environment: jinja2.Environment, catalogue: Catalogue, settings: Settings, services: Services) -> None:
        self._environment = environment
        self._catalogue = catalogue
        self._settings = settings
        self._services = services

    def __call__(self, name: PageName, path: str, accept_language: str) -> bytes:
        t = Translator(self._catalogue, preferred(accept_language, self._settings.language))
        template = self._environment.get_template("wake.html" if name == "waking" else "ide_refused.html")
        return template.render(t=t, name=name, next=path, progress=wake_event(self._services), theme="auto",
                               origin_ui=self._settings.ui_origin).encode()
