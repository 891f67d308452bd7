"""A token over the whole way: real Caddy, the daemon's own process, forward-auth and code-server."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import pytest
from support.accounts import throwaway_accounts
from support.appliance import Appliance
from support.waiting import poll

from appliance import remote
from appliance.errors import CroftError
from webui.guard import COOKIE

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def whole() -> Iterator[Appliance]:
    with throwaway_accounts("tok") as accounts:
        running = Appliance(accounts)
        try:
            running.start()
            yield running
        finally:
            running.close()


def owner(whole: Appliance) -> Any:
    return whole.control.call("POST", "/api/users", {"email": "owner@example.org", "name": "Owner", "role": "admin"})


def test_from_the_console_to_the_editor_and_back(whole: Appliance, tmp_path: Path) -> None:
    """DECIDED 9, 13; AUTH-9; TOK-6."""
    owner(whole)
    made = whole.croft("tokens", "create", "ci", "--scope", "read", "--scope", "workspace", "--days", "1")
    ca = poll(lambda: whole.root_certificate.read_text(), "the authority's certificate")
    far = remote.Remote(whole.url, made["text"], remote.trust(ca))
    assert far.call("GET", "/api/me")["actor"] == f"token:{made['token']['id']}"
    assert far.call("GET", "/api/status")["url"] == whole.url
    assert remote.fingerprint(remote.authority(whole.url)) == remote.fingerprint(ca)
    assert whole.croft("certificate")["fingerprint"] == remote.fingerprint(ca)
    with pytest.raises(remote.Untrusted):
        remote.Remote(whole.url, made["text"], remote.trust("")).call("GET", "/api/me")

    access = far.call("POST", "/api/workspace-token")
    poll(lambda: editor(whole, ca, access["token"]) == 200, "the editor answers to the access token", 60, 0.5)
    assert editor(whole, ca, made["text"]) == 401, "an API token itself is not for the IDE host"
    assert editor(whole, ca, "") == 401

    whole.croft("tokens", "revoke", made["token"]["id"])
    with pytest.raises(CroftError) as told:
        far.call("GET", "/api/me")
    assert told.value.code == "token_refused"
    assert editor(whole, ca, access["token"]) == 401
    written = b"".join(path.read_bytes() for path in whole.folder.rglob("*.log"))
    assert made["text"].encode() not in written
    assert access["token"].encode() not in written


def editor(whole: Appliance, ca: str, bearer: str) -> int:
    """Status of the editor's page for a program; asking counts as nothing, so it is woken from the console."""
    whole.control.call("POST", "/api/services/ide/start")
    host = whole.settings.ide_host
    context = ssl.create_default_context(cadata=ca)
    connection = HTTPSConnection("127.0.0.1", whole.https_port, timeout=20, context=context)
    plain = socket.create_connection(("127.0.0.1", whole.https_port), timeout=20)
    connection.sock = context.wrap_socket(plain, server_hostname=host)
    try:
        sent = {"Host": f"{host}:{whole.https_port}", "Cookie": f"{COOKIE}-ide=x"}
        connection.request("GET", "/", headers=sent | ({"Authorization": f"Bearer {bearer}"} if bearer else {}))
        status = connection.getresponse().status
    finally:
        connection.close()
    # code-server answers its own root by leading to the folder
    return 200 if status in (200, 302) else status
