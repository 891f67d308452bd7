"""Headers every response carries (WEB-3, WEB-12). Rule: a page that needs less strict ones does not get them; it is changed."""

from __future__ import annotations

from aiohttp import web

from appliance.settings import Settings

PERMISSIONS = ", ".join(
    f"{name}=()"
    for name in (
        "accelerometer",
        "autoplay",
        "camera",
        "display-capture",
        "geolocation",
        "gyroscope",
        "magnetometer",
        "microphone",
        "midi",
        "payment",
        "screen-wake-lock",
        "serial",
        "usb",
        "xr-spatial-tracking",
    )
)
# Passkeys are made and asked for by our own pages, and by nothing on the IDE host, which could otherwise overwrite them.
PASSKEYS = "publickey-credentials-create=({0}), publickey-credentials-get=({0})"


def policy(settings: Settings) -> str:
    """The Content-Security-Policy of every page."""
    return "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self'",
            "connect-src 'self'",
            "manifest-src 'self'",
            f"frame-src {settings.ide_origin}",
            "base-uri 'none'",
            f"form-action 'self' {settings.ide_origin}",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )


def common(settings: Settings) -> dict[str, str]:
    """Headers of the UI host."""
    return {
        "Content-Security-Policy": policy(settings),
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "same-origin",
        "Strict-Transport-Security": "max-age=63072000",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": f"{PERMISSIONS}, {PASSKEYS.format('self')}",
    }


def for_ide_host(settings: Settings) -> dict[str, str]:
    """The same for our few pages on the IDE host, which the UI frames."""
    ancestors = policy(settings).replace("frame-ancestors 'none'", f"frame-ancestors {settings.ui_origin}")
    headers = common(settings) | {
        "Content-Security-Policy": ancestors,
        "Cross-Origin-Resource-Policy": "same-site",
        "Permissions-Policy": f"{PERMISSIONS}, {PASSKEYS.format('')}",
    }
    del headers["X-Frame-Options"]
    return headers


def attach(app: web.Application, settings: Settings) -> None:
    """Put the headers on every response of an application, errors and streams included."""
    ui, ide = common(settings), for_ide_host(settings)

    async def add(request: web.Request, response: web.StreamResponse) -> None:
        on_ide = request.headers.get("Host", "").partition(":")[0].lower() == settings.ide_host
        for name, value in (ide if on_ide else ui).items():
            response.headers.setdefault(name, value)
        response.headers["Server"] = "croft"

    app.on_response_prepare.append(add)
