"""The texts that make up the Caddyfile, with ``%{name}`` where :mod:`appliance.broker.caddyfile` puts a value.

Rule: nothing here but text. In a ``route`` the order of the lines is the order of events; elsewhere Caddy has its own.
"""

from __future__ import annotations

from string import Template

# Behind another web server, which ends TLS.
FRONTED = """\
header_up X-Forwarded-For {http.vars.client_ip}
header_up X-Forwarded-Proto https"""

# What pages of these hosts may ask of the browser: none of it. Passkeys of our own host could otherwise be made by the editor's.
NO_PERMISSIONS = ", ".join(
    f"{feature}=()"
    for feature in (
        "camera",
        "geolocation",
        "microphone",
        "payment",
        "publickey-credentials-create",
        "publickey-credentials-get",
        "usb",
    )
)


class Text(Template):
    delimiter = "%"


GLOBAL = Text("""\
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

# Headers: nothing in Croft reads an X- header of a client, so all of them go, known or not. A name with "_" or "." is
# another name's spelling in some servers; browsers send none. Connection may only name what is Caddy's to handle:
# naming one of our headers there would have it removed on the way.
SNIPPETS = Text("""\
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
		not vars_regexp {http.request.header.Connection} "(?i)^(%{hops})(\\s*,\\s*(%{hops}))*$"
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
	header Permissions-Policy "%{no_permissions}"
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
		respond `%{error}` {http.error.status_code}
	}
}
""")

UI = Text("""\
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
# The workbench is at / and, with the editor's version before it, at /stable-COMMIT/; only what lies beneath takes any query.
# `allowed` is set only after the check has passed; without it an error is answered here, so that a daemon that does not
# answer the check is not asked a second time (FWD-5).
IDE = Text("""\
%{site} {
	%{bind}
	%{tls}
	route {
		import entry
		@ambiguous vars_regexp {http.request.uri} "(?i)^[^?]*(//|\\\\|%%(00|2f|5c)|/(\\.|%%2e){1,2}([/;?]|$))"
		error @ambiguous 400
		@hidden {
			path /auth/* /healthz /healthz/* /login /login/* /logout /logout/* /update /update/*
			path /proxy /proxy/* /absproxy /absproxy/* /vscode /vscode/*
		}
		error @hidden 404
		%{own_pages}
		@relayed not {
			method GET HEAD POST OPTIONS
			header !Upgrade
		}
		%{relay}
		@query {
			not path /_static/*
			not vars_regexp {http.request.uri} "^/stable-[^/?]*/[^/?]"
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
			header_down Permissions-Policy "%{no_permissions}"
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

DAEMON = Text("""\
reverse_proxy %{matcher} unix/%{web} {
	%{client_header}
	transport http {
		dial_timeout 2s
		response_header_timeout %{seconds}s
		keepalive_idle_conns_per_host 64
	}
}""")

# Shown when the daemon itself does not answer, so it cannot come from the daemon.
BUSY_PAGE = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    '<meta http-equiv="refresh" content="3"><title>Croft</title></head><body>'
    "<p>Croft is starting or busy. This page tries again by itself.</p>"
    '<p lang="ar" dir="rtl">Croft قيد التشغيل أو مشغول. تعيد هذه الصفحة المحاولة من تلقاء نفسها.</p></body></html>'
)

ERROR = '{"error": {"code": "http_{http.error.status_code}", "message": "{http.error.status_text}", "hint": ""}}'

REDIRECT = Text("""\
http://%{host}:%{http_port} {
	%{bind}
	import hygiene
	redir %{origin}{uri} 308
}
""")

UNKNOWN = Text("""\
%{scheme}://:%{port} {
	%{bind}
	import hygiene
	respond 421
}
""")

ALIVE = Text("""\
http://127.0.0.1:%{http_port} {
	%{bind}
	respond /healthz 200
	respond 421
}
""")
