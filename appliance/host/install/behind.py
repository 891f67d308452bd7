"""Another web server in front: what to put into its configuration, and whether it works.

Rule: that server's files are the owner's; the installer prints and asks for an answer, it never writes there.
"""

from __future__ import annotations

import http.client
import socket
import ssl

_OWN = b"Caddy Local Authority"  # the name that its certificates carry

_NGINX = """\
# /etc/nginx/conf.d/croft.conf
map $http_upgrade $croft_connection {{ default upgrade; '' close; }}
server {{
    listen 443 ssl;
    server_name {host} *.{host};
    # ssl_certificate and ssl_certificate_key for {host} and *.{host}
    client_max_body_size 0;
    location / {{
        proxy_pass http://127.0.0.1:{port};
        proxy_http_version 1.1;
        proxy_set_header Host $host;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection $croft_connection;
        proxy_set_header X-Forwarded-For $remote_addr;
        proxy_set_header X-Forwarded-Proto https;
        proxy_buffering off;
        proxy_read_timeout 1d;
    }}
}}"""

_APACHE = """\
# /etc/apache2/sites-available/croft.conf; needs: a2enmod ssl proxy proxy_http proxy_wstunnel headers
<VirtualHost *:443>
    ServerName {host}
    ServerAlias *.{host}
    SSLEngine on
    # SSLCertificateFile and SSLCertificateKeyFile for {host} and *.{host}
    ProxyPreserveHost On
    ProxyAddHeaders Off
    RequestHeader set X-Forwarded-For "expr=%{{REMOTE_ADDR}}"
    RequestHeader set X-Forwarded-Proto "https"
    ProxyPass / http://127.0.0.1:{port}/ upgrade=websocket flushpackets=on timeout=86400
</VirtualHost>"""

_CADDY = """\
# in your Caddyfile
{host}, ide.{host} {{
    reverse_proxy 127.0.0.1:{port} {{
        flush_interval -1
    }}
}}"""

_SNIPPETS = {"nginx": _NGINX, "apache": _APACHE, "caddy": _CADDY}


def snippet(kind: str, host: str, port: int) -> str:
    """The lines for a web server of ``kind`` that owns ports 80 and 443. WebSockets must pass: the IDE needs them."""
    return _SNIPPETS[kind].format(host=host, port=port)


def is_own(host: str, port: int = 443, *, address: str = "127.0.0.1") -> bool:
    """Whether what is served for ``host`` comes from Caddy's own authority; no when nothing is served."""
    try:
        with (
            socket.create_connection((address, port), timeout=5) as raw,
            _trusting().wrap_socket(raw, server_hostname=host) as tls,
        ):
            return _OWN in (tls.getpeercert(binary_form=True) or b"")
    except OSError:
        return False


def answers(host: str, port: int = 443, *, address: str = "127.0.0.1", tls: bool = True) -> str:
    """Ask the front door for ``/healthz`` under the name ``host``. Empty when Croft answers, else why not.

    The certificate is not judged here: it may be for a name that is not known to this machine yet.
    """
    try:
        with socket.create_connection((address, port), timeout=5) as raw:
            connection = http.client.HTTPConnection(host, port, timeout=5)
            connection.sock = _trusting().wrap_socket(raw, server_hostname=host) if tls else raw
            connection.request("GET", "/healthz", headers={"Host": host if port in (80, 443) else f"{host}:{port}"})
            answer = connection.getresponse()
            connection.close()
    except OSError as error:
        return f"cannot reach {host} on port {port}: {error}"
    except http.client.HTTPException as error:
        return f"{host} on port {port} does not speak HTTP: {type(error).__name__}"
    return "" if answer.status == 200 else f"{host} answered {answer.status} for /healthz"


def _trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
