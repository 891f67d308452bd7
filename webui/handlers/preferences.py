"""Language and theme, with the person or, before sign-in, in a cookie."""

from __future__ import annotations

from aiohttp import web

from appliance.errors import Invalid
from appliance.identity.verify import relative_path
from webui import cookies, filters, keys
from webui.answers import see
from webui.forms import read_form
from webui.guard import PRINCIPAL
from webui.i18n import LANGUAGES
from webui.render import THEME_COOKIE
from webui.views import LANGUAGE_COOKIE


async def preferences(request: web.Request) -> web.StreamResponse:
    """Remember language and theme: with the person, or in a cookie before sign-in."""
    form = await read_form(request)
    language, theme = form.get("lang") or None, form.get("theme") or None
    if language not in (None, *LANGUAGES) or theme not in (None, *filters.THEMES):
        raise Invalid("that language or theme is not known")
    principal = request.get(PRINCIPAL)
    response = see(relative_path(form.get("next", "")) or "/")
    if principal and principal.user:
        await request.app[keys.USERS].prefer(principal.user, language=language, theme=theme)
    for name, value in ((LANGUAGE_COOKIE, language), (THEME_COOKIE, theme)):
        if value:
            cookies.put(response, name, value, keep=True, seconds=cookies.DEVICE_SECONDS)
    return response
