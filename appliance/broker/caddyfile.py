"""The one Caddyfile, for both runtimes and both Caddy generations (2.6.2, and 2.11 and later), from typed settings.

Rule: on the IDE host no byte reaches code-server without forward_auth, whatever the path, query, method or header;
and a path matcher may refuse a request or send it to the daemon, never let it past the check (Caddy matches a cleaned
path but sends the raw one on). Values are put in only after they were matched against a pattern that holds none of
Caddy's own characters.

The order of every ``route`` is the order of the text: refuse, clean, ask, proxy.
"""

from __future__ import annotations

import ipaddress
import re

from appliance.broker import caddyfile_parts as parts
from appliance.broker import catalogue
from appliance.errors import SettingsError
from appliance.settings import Settings

# Seconds. ACME servers bound failed tries per name and hour, so a stand-in certificate of our own authority lives three
# hours: it is renewed, which means ACME is asked again, when a third of its life is left.
FALLBACK_LIFETIME = 3 * 3600
RENEW_INTERVAL = 600

# How long the daemon may take to begin an answer: a page, or a model that must first read a long prompt.
_PAGE_SECONDS = 60
_ANSWER_SECONDS = 900

_PATH = re.compile(r"/[A-Za-z0-9._/@+,:=-]*\Z")
_CONTAINER_RUN = "/run/croft"
_CONTAINER_STORAGE = "/data/caddy"


def render(
    settings: Settings,
    runtime: str,
    *,
    fallback: bool | None = None,
    fallback_lifetime: int = FALLBACK_LIFETIME,
    renew_interval: int = RENEW_INTERVAL,
) -> str:
    """The Caddyfile for ``settings``; ``runtime`` is ``docker`` or ``process``.

    ``fallback`` lets our own authority stand in while ACME fails. By default it ends once ACME has delivered: Caddy
    would replace a good certificate with one of ours at the first renewal that fails. Times are in seconds.
    Raises SettingsError when a value cannot be written safely.
    """
    if runtime not in ("docker", "process"):
        raise SettingsError(f"cannot write the Caddyfile: no runtime is called {runtime!r}")
    if fallback is None:
        fallback = not has_public_certificates(settings)
    values = _values(settings, runtime, fallback, fallback_lifetime, renew_interval)
    text = parts.GLOBAL.substitute(values) + parts.SNIPPETS.substitute(values)
    text += parts.UI.substitute(values, site=_site(settings, settings.host))
    text += parts.IDE.substitute(values, site=_site(settings, settings.ide_host))
    if settings.proxy_tls != "off":
        text += parts.REDIRECT.substitute(values, host=settings.host, origin=settings.ui_origin)
        text += parts.REDIRECT.substitute(values, host=settings.ide_host, origin=settings.ide_origin)
        text += parts.UNKNOWN.substitute(values, scheme="https", port=settings.proxy_https_port)
    text += parts.ALIVE.substitute(values)
    text += parts.UNKNOWN.substitute(values, scheme="http", port=settings.proxy_http_port)
    return _layout(text)


def outdated(settings: Settings, runtime: str) -> bool:
    """Whether the Caddyfile in use is not what would be written now: so it is once ACME has delivered.

    The settings themselves are read once, at the broker's start, so nothing else can make a difference.
    """
    if settings.proxy_tls != "acme":
        return False
    try:
        return catalogue.caddyfile_path(settings).read_text("utf-8") != render(settings, runtime)
    except FileNotFoundError:
        return True


def has_public_certificates(settings: Settings) -> bool:
    """Whether ACME has delivered for both hosts (Caddy keeps a folder per authority; ``local`` is ours)."""
    kept = settings.paths.caddy_data / "caddy/certificates"
    return all(
        any(path.parent.parent.name != "local" for path in kept.glob(f"*/{host}/{host}.crt"))
        for host in (settings.host, settings.ide_host)
    )


def _layout(text: str) -> str:
    """``text`` indented by its blocks, without empty lines."""
    depth, lines = 0, []
    for line in filter(None, map(str.strip, text.splitlines())):
        depth -= line == "}"
        lines.append("\t" * depth + line)
        depth += line.endswith("{")
    return "\n".join(lines) + "\n"


def _values(settings: Settings, runtime: str, fallback: bool, lifetime: int, renew_interval: int) -> dict[str, str]:
    inside = runtime == "docker"
    off = settings.proxy_tls == "off"
    values = {
        "http_port": str(settings.proxy_http_port),
        "https_port": str(settings.proxy_https_port),
        "renew_interval": str(renew_interval),
        "storage": _path(_CONTAINER_STORAGE if inside else str(settings.paths.caddy_data / "caddy")),
        "bind": "" if inside else _bind(settings.proxy_bind),
        "tls": _tls(settings, fallback, lifetime),
        "ui_origin": settings.ui_origin,
        "client": _client(off),
        "client_header": parts.FRONTED if off else "",
        "busy_page": parts.BUSY_PAGE,
        "error": parts.ERROR,
        "no_permissions": parts.NO_PERMISSIONS,
        "hops": "keep-alive|close|upgrade|te|http2-settings",
        **{name: _socket(settings, inside, name) for name in ("web", "verify", "ide")},
    }
    return values | {
        "models": parts.DAEMON.substitute(values, matcher="/v1/*", seconds=_ANSWER_SECONDS),
        "pages": parts.DAEMON.substitute(values, matcher="*", seconds=_PAGE_SECONDS),
        "own_pages": parts.DAEMON.substitute(values, matcher="/__croft/*", seconds=_PAGE_SECONDS),
        "relay": parts.DAEMON.substitute(values, matcher="@relayed", seconds=_PAGE_SECONDS),
        "wake": parts.DAEMON.substitute(values, matcher="*", seconds=2),
    }


def _socket(settings: Settings, inside: bool, name: str) -> str:
    path = settings.paths.socket(name)
    return _path(f"{_CONTAINER_RUN}/{path.relative_to(settings.paths.run)}" if inside else str(path))


def _site(settings: Settings, host: str) -> str:
    if settings.proxy_tls == "off":
        return f"http://{host}:{settings.proxy_http_port}"
    return f"https://{host}:{settings.proxy_https_port}"


def _bind(addresses: str) -> str:
    listed = [item.strip() for item in addresses.split(",") if item.strip()]
    try:
        checked = [str(ipaddress.ip_address(item)) for item in listed]
    except ValueError as error:
        raise SettingsError(
            f"proxy.bind must be a list of IP addresses: {error}", hint="Example: 127.0.0.1, ::1"
        ) from error
    return "bind " + " ".join(checked) if checked else ""


def _client(behind_proxy: bool) -> str:
    """Whose address is the client's. Without TLS the web server in front may say so, if it is on this machine."""
    if not behind_proxy:
        return ""
    return """vars client_ip {http.request.remote.host}
	@fronted {
		remote_ip 127.0.0.0/8 ::1
		header_regexp X-Forwarded-For ^[0-9A-Fa-f:.]{2,45}$
	}
	vars @fronted client_ip {http.request.header.X-Forwarded-For}"""


def _tls(settings: Settings, fallback: bool, lifetime: int) -> str:
    if settings.proxy_tls == "off":
        return ""
    if settings.proxy_tls == "internal":
        return "tls internal"
    lines = ["tls {", "issuer acme {"]
    if settings.proxy_acme_directory:
        lines.append(f"dir {settings.proxy_acme_directory}")
    if settings.proxy_email:
        lines.append(f"email {_email(settings.proxy_email)}")
    if settings.proxy_acme_root:
        lines.append(f'trusted_roots "{_path(settings.proxy_acme_root)}"')
    lines.append("}")
    if fallback:
        lines += ["issuer internal {", f"lifetime {lifetime}s", "}"]
    return "\n".join([*lines, "}"])


def _email(address: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9.!&'*+/=?^_~-]+@[A-Za-z0-9.-]+", address):
        raise SettingsError("proxy.email holds a character that cannot be given to the certificate authority")
    return f'"{address}"'


def _path(path: str) -> str:
    if not _PATH.match(path):
        raise SettingsError(
            "cannot write the Caddyfile: a path holds a character that is not allowed",
            hint="Letters, digits and . _ / @ + , : = - are.",
        )
    return path
