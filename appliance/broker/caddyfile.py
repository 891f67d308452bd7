"""The one Caddyfile, for both runtimes and both Caddy generations (2.6.2, and 2.11 and later), made from typed settings.

Rule: on the IDE host no byte reaches code-server without forward_auth, whatever the path, query, method or header; and a path
matcher may refuse a request or send it to the daemon, never let it past the check (Caddy matches a cleaned path but sends the
raw one on). Values are put in only after they were matched against a pattern that holds none of Caddy's own characters.

The order of every ``route`` is the order of the text: refuse, clean, ask, proxy.
"""

from __future__ import annotations

import ipaddress
import re
from string import Template

from appliance.errors import SettingsError
from appliance.settings import Settings

# Seconds. ACME allows five failed tries per name and hour, so a stand-in certificate of our own authority lives three hours: it
# is renewed, which means ACME is asked again, when a third of its life is left.
FALLBACK_LIFETIME = 3 * 3600
RENEW_INTERVAL = 600


# How long the daemon may take to begin an answer: a page, or a model that must first read a long prompt.
_PAGE_SECONDS = 60
_ANSWER_SECONDS = 900

_PATH = re.compile(r"/[A-Za-z0-9._/@+,:=-]*\Z")
_CONTAINER_RUN = "/run/croft"
_CONTAINER_STORAGE = "/data/caddy"


# Behind another web server, which ends TLS.
_FRONTED = """\
header_up X-Forwarded-For {http.vars.client_ip}
header_up X-Forwarded-Proto https"""


class _Text(Template):
    delimiter = "%"


_GLOBAL = _Text("""\
{
	admin off
	auto_https disable_redirects
	http_port %{http_port}
	https_port %{https_port}
	skip_install_trust
	grace_period 3s
	renew_interval %{renew_interval}s
	storage file_system "%{storage}"
	log {
		output stderr
		format json
	}
	servers {
		protocols h1 h2
		strict_sni_host on
		max_header_size 16KB
		timeouts {
			read_header 10s
			idle 5m
		}
	}
}
""")

# Headers: nothing in Croft reads an X- header of a client, so all of them go, known or not. A name with "_" or "." becomes
# another name's spelling in some servers; browsers send none. Connection may only name what is Caddy's to handle: naming one of
# our headers there would have it removed on the way.
_SNIPPETS = _Text("""\
(entry) {
	@method not method GET HEAD POST PUT PATCH DELETE OPTIONS CONNECT
	error @method 405
	@tunnel {
		method CONNECT
		not header :protocol websocket
	}
	error @tunnel 405
	@connection {
		header Connection *
		not vars_regexp {http.request.header.Connection} "(?i)^(keep-alive|close|upgrade|te|http2-settings)(\\s*,\\s*(keep-alive|close|upgrade|te|http2-settings))*$"
	}
	error @connection 400
	@upgrade_with_body {
		header Upgrade *
		header Content-Length *
		not header Content-Length 0
	}
	error @upgrade_with_body 400
	%{client}
	request_header -X-*
	request_header -*_*
	request_header -*.*
	request_header -Forwarded*
	request_header -Remote*
	request_header -Proxy*
	request_header -Client-*
	request_header -Ssl-*
	request_header -Cf-*
	request_header -Fastly-*
	request_header -True-Client-Ip
}
(hygiene) {
	header Cross-Origin-Opener-Policy same-origin
	header Cross-Origin-Resource-Policy same-origin
	header Permissions-Policy "camera=(), geolocation=(), microphone=(), payment=(), usb=()"
	header Referrer-Policy same-origin
	header Strict-Transport-Security "max-age=63072000"
	header X-Content-Type-Options nosniff
}
(failure) {
	route {
		import hygiene
		header Cache-Control no-store
		header Content-Security-Policy "default-src 'none'; frame-ancestors 'self' %{ui_origin}"
		@navigation {
			vars {http.error.status_code} 502 503 504
			header Accept *text/html*
		}
		handle @navigation {
			header Content-Type "text/html; charset=utf-8"
			respond `%{busy_page}` {http.error.status_code}
		}
		header Content-Type application/json
		respond `{"error": {"code": "http_{http.error.status_code}", "message": "{http.error.status_text}", "hint": ""}}` {http.error.status_code}
	}
}
""")

_UI = _Text("""\
%{site} {
	%{bind}
	%{tls}
	route {
		import entry
		error /auth/verify* 404
		request_body {
			max_size 32MB
		}
		%{models}
		%{pages}
	}
	handle_errors {
		import failure
	}
}
""")

# A path that two programs could read in two ways is refused: browsers never send one.
# `allowed` is set only after the check has passed; without it an error is answered here, so that a daemon that does not answer
# the check is not asked a second time (FWD-5).
_IDE = _Text("""\
%{site} {
	%{bind}
	%{tls}
	route {
		import entry
		@ambiguous vars_regexp {http.request.uri} "(?i)^[^?]*(//|\\\\|%%(00|2f|5c)|/(\\.|%%2e){1,2}([/;?]|$))"
		error @ambiguous 400
		@hidden path /auth/* /login /login/* /logout /logout/* /update /update/* /healthz /healthz/* /proxy /proxy/* /absproxy /absproxy/* /vscode /vscode/*
		error @hidden 404
		%{own_pages}
		@relayed not {
			method GET HEAD POST OPTIONS
			header !Upgrade
		}
		%{relay}
		@query {
			not path /stable-* /_static/*
			not vars_regexp {http.request.uri.query} "^((folder|workspace|ew)=[^&;]*(&(folder|workspace|ew)=[^&;]*)*)?$"
		}
		error @query 400
		request_body {
			max_size 1MB
		}
		request_header -Upgrade
		request_header -Connection
		forward_auth unix/%{verify} {
			uri /auth/verify?
			%{client_header}
			header_up -Accept-Encoding
			transport http {
				dial_timeout 2s
				response_header_timeout 2s
				keepalive_idle_conns_per_host 64
			}
		}
		vars allowed yes
		reverse_proxy unix/%{ide} {
			header_up -Cookie
			header_up -Authorization
			%{client_header}
			header_down -Set-Cookie
			header_down -Clear-Site-Data
			header_down -Service-Worker-Allowed
			header_down -X-Frame-Options
			header_down -Server
			header_down Cross-Origin-Opener-Policy same-origin
			header_down Cross-Origin-Resource-Policy same-origin
			header_down Permissions-Policy "camera=(), geolocation=(), microphone=(), payment=(), usb=()"
			header_down Referrer-Policy same-origin
			header_down Strict-Transport-Security "max-age=63072000"
			header_down X-Content-Type-Options nosniff
			header_down Content-Security-Policy "(?i)frame-ancestors[^;]*" "frame-ancestors 'self' %{ui_origin}"
			header_down +Content-Security-Policy "frame-ancestors 'self' %{ui_origin}"
			transport http {
				dial_timeout 2s
				response_header_timeout 60s
				keepalive_idle_conns_per_host 64
			}
		}
	}
	handle_errors {
		@wake {
			vars allowed yes
			expression {http.error.status_code} in [502, 503, 504]
			method GET
		}
		route @wake {
			rewrite * /__croft/wake
			request_header X-Forwarded-Uri {http.request.orig_uri}
			%{wake}
		}
		import failure
	}
}
""")

_DAEMON = _Text("""\
reverse_proxy %{matcher} unix/%{web} {
	%{client_header}
	transport http {
		dial_timeout 2s
		response_header_timeout %{seconds}s
		keepalive_idle_conns_per_host 64
	}
}""")

# Shown when the daemon itself does not answer, so it cannot come from the daemon.
_BUSY_PAGE = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    '<meta http-equiv="refresh" content="3"><title>Croft</title></head><body>'
    "<p>Croft is starting or busy. This page tries again by itself.</p>"
    '<p lang="ar" dir="rtl">Croft قيد التشغيل أو مشغول. تعيد هذه الصفحة المحاولة من تلقاء نفسها.</p></body></html>'
)

_REDIRECT = _Text("""\
http://%{host}:%{http_port} {
	%{bind}
	import hygiene
	redir %{origin}{uri} 308
}
""")

_UNKNOWN = _Text("""\
%{scheme}://:%{port} {
	%{bind}
	import hygiene
	respond 421
}
""")

_ALIVE = _Text("""\
http://127.0.0.1:%{http_port} {
	%{bind}
	respond /healthz 200
	respond 421
}
""")


def render(settings: Settings, runtime: str, *, fallback: bool = True, fallback_lifetime: int = FALLBACK_LIFETIME,
           renew_interval: int = RENEW_INTERVAL) -> str:
    """The Caddyfile for ``settings``; ``runtime`` is ``docker`` or ``process``.

    ``fallback`` lets our own authority stand in while ACME fails; it belongs off once ACME has delivered, because Caddy would
    replace a good certificate with one of ours at the first renewal that fails. Times are in seconds.
    Raises SettingsError when a value cannot be written safely.
    """
    if runtime not in ("docker", "process"):
        raise SettingsError(f"cannot write the Caddyfile: no runtime is called {runtime!r}")
    values = _values(settings, runtime, fallback, fallback_lifetime, renew_interval)
    parts = [_GLOBAL, _SNIPPETS]
    text = "".join(part.substitute(values) for part in parts)
    text += _UI.substitute(values, site=_site(settings, settings.host))
    text += _IDE.substitute(values, site=_site(settings, settings.ide_host))
    if settings.proxy_tls != "off":
        text += _REDIRECT.substitute(values, host=settings.host, origin=settings.ui_origin)
        text += _REDIRECT.substitute(values, host=settings.ide_host, origin=settings.ide_origin)
        text += _UNKNOWN.substitute(values, scheme="https", port=settings.proxy_https_port)
    text += _ALIVE.substitute(values)
    text += _UNKNOWN.substitute(values, scheme="http", port=settings.proxy_http_port)
    return _layout(text)


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
        "client_header": _FRONTED if off else "",
        "busy_page": _BUSY_PAGE,
        **{name: _socket(settings, inside, name) for name in ("web", "verify", "ide")},
    }
    return values | {
        "models": _DAEMON.substitute(values, matcher="/v1/*", seconds=_ANSWER_SECONDS),
        "pages": _DAEMON.substitute(values, matcher="*", seconds=_PAGE_SECONDS),
        "own_pages": _DAEMON.substitute(values, matcher="/__croft/*", seconds=_PAGE_SECONDS),
        "relay": _DAEMON.substitute(values, matcher="@relayed", seconds=_PAGE_SECONDS),
        "wake": _DAEMON.substitute(values, matcher="*", seconds=2),
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
        raise SettingsError(f"proxy.bind must be a list of IP addresses: {error}", hint="Example: 127.0.0.1, ::1") from error
    return "bind " + " ".join(checked) if checked else ""


def _client(behind_proxy: bool) -> str:
    """Whose address is the client's. Without TLS the web server in front is trusted to say so, if it is on this machine."""
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
        raise SettingsError("cannot write the Caddyfile: a path holds a character outside letters, digits and . _ / @ + , : = -")
    return path
