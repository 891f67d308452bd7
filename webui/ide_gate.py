"""What the forward-auth endpoint asks: sessions, tokens and the IDE's state, all from memory; and the pages it answers with."""

from __future__ import annotations

import time
from collections.abc import Callable

from appliance.identity.access import WorkspaceAccess
from appliance.identity.api_tokens import ApiToken
from appliance.identity.sessions import Session, Sessions
from appliance.identity.tokens import TokenRefused
from appliance.identity.users import Role
from appliance.identity.verify import NOBODY, Access, PageName, Verdict
from appliance.services.manager import Services
from appliance.settings import Settings
from webui.assets import Assets
from webui.i18n import Catalogue, Translator, preferred
from webui.jinja import Templates


class IdeGate:
    """The Gate of :mod:`appliance.identity.verify`."""

    def __init__(
        self,
        sessions: Sessions,
        access: WorkspaceAccess,
        services: Services,
        pages: Callable[[PageName, str, str], bytes],
    ) -> None:
        self._sessions = sessions
        self._access = access
        self._services = services
        self._pages = pages

    def check(self, cookie: str, host: str) -> Verdict:
        session = self._sessions.check_ide(cookie)
        return NOBODY if session is None else _verdict(session)

    def check_bearer(self, token: str, host: str) -> Verdict:
        try:
            return _verdict(self._access.holder(token))
        except TokenRefused:
            return NOBODY

    def slide(self, session: object) -> None:
        if isinstance(session, Session):
            self._sessions.slide(session)

    def ready(self) -> bool:
        return self._services.serves("ide")

    def wake(self) -> None:
        self._services.wake("ide")

    def page(self, name: PageName, path: str, accept_language: str) -> bytes:
        return self._pages(name, path, accept_language)


def _verdict(holder: Session | ApiToken) -> Verdict:
    role = holder.role if isinstance(holder, ApiToken) else holder.user.role
    return Verdict(Access.allowed if role >= Role.operator else Access.forbidden, holder)


class IdePages:
    """Renders the pages shown in the IDE's place. They stand alone: no person, no frame, assets of the IDE host."""

    def __init__(
        self,
        templates: Templates,
        catalogue: Catalogue,
        assets: Assets,
        settings: Settings,
        services: Services,
    ) -> None:
        self._templates = templates
        self._catalogue = catalogue
        self._asset = assets.at("/__croft/static")
        self._settings = settings
        self._services = services

    def __call__(self, name: PageName, path: str, accept_language: str) -> bytes:
        t = Translator(self._catalogue, preferred(accept_language, self._settings.language))
        template = self._templates.get_template("wake.html" if name == "waking" else "ide_refused.html")
        page = template.render(
            t=t,
            asset=self._asset,
            theme="auto",
            page="",
            user=None,
            now=time.time(),
            name=name,
            target=path,
            service=self._services.view("ide"),
            origin_ui=self._settings.ui_origin,
        )
        return page.encode()
