"""A token over the whole way: real Caddy, the daemon's own process, forward-auth and code-server."""

from __future__ import annotations

import socket
import ssl
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import pytest
from support.appliance import Appliance
from support.waiting import poll

from appliance import remote
from appliance.errors import CroftError
from webui.guard import COOKIE

pytestmark = pytest.mark.timeout(180)


def owner(appliance: Appliance) -> Any:
    return appliance.control.call(
        "POST", "/api/users", {"email": "owner@example.org", "name": "Owner", "role": "admin"}
    )


def test_from_the_console_to_the_editor_and_back(appliance: Appliance, tmp_path: Path) -> None:
    """DECIDED 9, 13; AUTH-9; TOK-6."""
    owner(appliance)
    made = appliance.croft("tokens", "create", "ci", "--scope", "read", "--scope", "workspace", "--days", "1")
    ca = poll(lambda: appliance.root_certificate.read_text(), "the authority's certificate")
    far = remote.Remote(appliance.url, made["text"], remote.trust(ca))
    assert far.call("GET", "/api/me")["actor"] == f"token:{made['token']['id']}"
    assert far.call("GET", "/api/status")["url"] == appliance.url
    assert remote.fingerprint(remote.authority(appliance.url)) == remote.fingerprint(ca)
    assert appliance.croft("certificate")["fingerprint"] == remote.fingerprint(ca)
    with pytest.raises(remote.Untrusted):
        remote.Remote(appliance.url, made["text"], remote.trust("")).call("GET", "/api/me")

    access = far.call("POST", "/api/workspace-token")
    poll(lambda: editor(appliance, ca, access["token"]) == 200, "the editor answers to the access token", 60, 0.5)
    assert editor(appliance, ca, made["text"]) == 401, "an API token itself is not for the IDE host"
    assert editor(appliance, ca, "") == 401

    appliance.croft("tokens", "revoke", made["token"]["id"])
    with pytest.raises(CroftError) as told:
        far.call("GET", "/api/me")
    assert told.value.code == "token_refused"
    assert editor(appliance, ca, access["token"]) == 401
    written = b"".join(path.read_bytes() for path in appliance.folder.rglob("*.log"))
    assert made["text"].encode() not in written
    assert access["token"].encode() not in written


def editor(appliance: Appliance, ca: str, bearer: str) -> int:
    """Status of the editor's page for a program; asking counts as nothing, so it is woken from the console."""
    appliance.control.call("POST", "/api/services/ide/start")
    host = appliance.settings.ide_host
    context = ssl.create_default_context(cadata=ca)
    connection = HTTPSConnection("127.0.0.1", appliance.https_port, timeout=20, context=context)
    plain = socket.create_connection(("127.0.0.1", appliance.https_port), timeout=20)
    connection.sock = context.wrap_socket(plain, server_hostname=host)
    try:
        sent = {"Host": f"{host}:{appliance.https_port}", "Cookie": f"{COOKIE}-ide=x"}
        connection.request("GET", "/", headers=sent | ({"Authorization": f"Bearer {bearer}"} if bearer else {}))
        status = connection.getresponse().status
    finally:
        connection.close()
    # code-server answers its own root by leading to the folder
    return 200 if status in (200, 302) else status
