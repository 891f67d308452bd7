"""The command line against a real daemon's socket, a dead one, and one that goes away in the middle."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.folders import short_folder
from support.front import front

from appliance import cli
from appliance.control import Control, NotRunning, Refused
from appliance.errors import SettingsError, Unavailable
from appliance.notify import Notifier
from appliance.settings import Paths
from appliance.sockets import listen


@pytest.fixture
def home() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


async def croft(home: Path, *words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, Any, str]:
    """Run the command as `croft ... --json --home`; exit code, answer, and what it said on standard error."""
    code = await asyncio.to_thread(cli.main, [*words, "--json", "--home", str(home)])
    said = capsys.readouterr()
    try:
        return code, json.loads(said.out), said.err
    except ValueError:
        return code, said.out, said.err


async def test_people_sessions_and_services_from_the_console(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with front(home) as life:
        code, link, _ = await croft(home, "login-link", capsys=capsys)
        assert (code, link["kind"]) == (0, "setup")
        for role in ("admin", "viewer"):
            code, made, _ = await croft(home, "users", "add", f"{role}@example.org", "--role", role, capsys=capsys)
            assert (code, made["user"]["role"]) == (0, role)
        code, made, _ = await croft(home, "users", "role", "viewer@example.org", "operator", capsys=capsys)
        assert made["user"]["role"] == "operator"
        session, cookie = await life.sign_in_as("viewer")
        _, listed, _ = await croft(home, "sessions", "list", capsys=capsys)
        assert [row["id"] for row in listed["sessions"]] == [session.id]
        assert (await croft(home, "sessions", "revoke", session.id, capsys=capsys))[0] == 0
        assert life.sessions.check(cookie) is None
        code, _, said = await croft(home, "sessions", "revoke", "../../users", capsys=capsys)
        assert (code, json.loads(said)["error"]["code"]) == (1, "not_found")
        code, _, said = await croft(home, "users", "remove", "admin@example.org", capsys=capsys)
        assert (code, json.loads(said)["error"]["code"]) == (1, "last_admin")
        assert (await croft(home, "services", "restart", "ide", capsys=capsys))[0] == 0
        _, lines, _ = await croft(home, "services", "logs", "ide", capsys=capsys)
        assert [line["text"] for line in lines["lines"]] == ["hello", "red </script>"]
        code, checked, _ = await croft(home, "audit", "verify", capsys=capsys)
        assert (code, checked["ok"]) == (0, True)
        _, exported, _ = await croft(home, "audit", "export", capsys=capsys)
        numbers = [json.loads(line)["seq"] for line in exported.splitlines()]
        assert numbers == list(range(1, numbers[-1] + 1))
        _, table, _ = await croft(home, "audit", "export", "--format", "csv", "--from", "2100-01-01", capsys=capsys)
        assert table.splitlines() == ["\ufeffseq,time,event,actor,name,intent,detail"]


async def test_invitations_are_listed_and_withdrawn(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with front(home) as life:
        await life.sign_in_as("admin")
        code, made, _ = await croft(home, "users", "invite", "New@example.org", "--role", "operator", capsys=capsys)
        assert code == 0
        _, listed, _ = await croft(home, "users", "invitations", capsys=capsys)
        assert [(one["email"].lower(), one["role"]) for one in listed["invitations"]] == [
            ("new@example.org", "operator")
        ]
        code, gone, _ = await croft(home, "users", "uninvite", "new@example.org", capsys=capsys)
        assert (code, gone["withdrawn"]) == (0, [made["invitation"]["id"]])
        code, _, said = await croft(home, "users", "uninvite", "new@example.org", capsys=capsys)
        assert (code, json.loads(said)["error"]["code"]) == (1, "not_found")
        await asyncio.to_thread(cli.main, ["users", "invitations", "--home", str(home)])
        assert "new@example.org" in capsys.readouterr().out.lower()


async def test_text_for_people(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with front(home) as life:
        await life.sign_in_as("viewer")
        for words in (
            ["status"],
            ["users", "list"],
            ["sessions", "list"],
            ["services", "list"],
            ["audit", "verify"],
            ["login-link", "viewer@example.org"],
        ):
            assert await asyncio.to_thread(cli.main, [*words, "--home", str(home)]) == 0
            said = capsys.readouterr().out
            assert said.strip()
            assert "\x1b" not in said


async def test_with_the_daemon_down(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """DECIDED 9: a link and the audit check work; everything else says that Croft is not running."""
    monkeypatch.setattr("appliance.offline.become_daemon_user", lambda settings: None)
    (home / "etc").mkdir()
    code, link, _ = await croft(home, "login-link", capsys=capsys)
    assert (code, link["kind"]) == (0, "setup")
    assert (await croft(home, "audit", "verify", capsys=capsys))[1]["ok"]
    code, _, said = await croft(home, "status", capsys=capsys)
    assert (code, json.loads(said)["error"]["code"]) == (1, "not_running")


def serve_once(path: Path, answer: bytes) -> threading.Thread:
    path.parent.mkdir(parents=True, exist_ok=True)
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()

    def run() -> None:
        with server, server.accept()[0] as connection:
            connection.recv(65536)
            connection.sendall(answer)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"junk\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nnot json",
        b"HTTP/1.1 500 x\r\n\r\n[1]",
        b'HTTP/1.1 404 x\r\n\r\n{"error": "Not Found"}',
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    ],
)
def test_a_daemon_that_goes_away_in_the_middle(home: Path, answer: bytes) -> None:
    path = Paths.under(home).socket("control")
    thread = serve_once(path, answer)
    with pytest.raises((Unavailable, Refused)) as caught:
        Control(path).call("GET", "/api/status")
    assert caught.value.message
    thread.join(5)


def test_no_daemon(home: Path) -> None:
    with pytest.raises(NotRunning):
        Control(home / "nothing.sock").call("GET", "/")
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(home / "stale.sock"))
    stale.close()
    with pytest.raises(NotRunning):
        Control(home / "stale.sock").call("GET", "/")


def test_listening_sockets_are_never_wider_than_asked(home: Path) -> None:
    for mode in (0o600, 0o660):
        with listen(home / "a.sock", mode):
            assert (home / "a.sock").stat().st_mode & 0o777 == mode
    with pytest.raises(SettingsError, match=r"cannot listen on a\.sock: No such file"):
        listen(home / "nowhere/a.sock", 0o600)
    before = os.umask(0o022)
    os.umask(before)
    with listen(home / "b.sock", 0o600):
        assert os.umask(before) == before, "the umask is put back"


@pytest.mark.parametrize("address", ["{home}/n.sock", "@croft-test-{pid}"])
def test_systemd_is_told(home: Path, address: str) -> None:
    """SYS-6."""
    address = address.format(home=home, pid=os.getpid())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address.replace("@", "\0", 1))
        systemd.settimeout(5)
        notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "30000000"})
        notifier.send("READY=1")
        assert systemd.recv(100) == b"READY=1"
        assert notifier.interval == 10
    notifier.send("WATCHDOG=1")  # nobody listens any more: not an error


@pytest.mark.parametrize("usec", ["", "0", "x", "-5", "²"])
def test_an_odd_watchdog_is_none(usec: str) -> None:
    assert Notifier({"WATCHDOG_USEC": usec}).interval is None


@pytest.mark.parametrize("status", [b"200 OK", b"403 Forbidden"])
def test_a_daemon_that_was_taken_over_cannot_drive_the_terminal(
    home: Path, capsys: pytest.CaptureFixture[str], status: bytes
) -> None:
    """WEB-15: what it says is shown, control characters by their numbers."""
    evil = "\x1b]52;c;ZXZpbA==\x07\x9b2J"
    user = {"email": evil, "name": evil, "role": evil, "suspended": False}
    body = json.dumps({"users": [user], "error": {"code": "x", "message": evil, "hint": evil}}).encode()
    path = Paths.under(home).socket("control")
    path.parent.mkdir(parents=True)
    server = serve_once(path, b"HTTP/1.1 " + status + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert cli.main(["users", "list", "--home", str(home)]) == (0 if b"200" in status else 1)
    server.join(10)
    said = "".join(capsys.readouterr())
    assert r"\x1b]52" in said
    assert not {"\x1b", "\x07", "\x9b"} & set(said)
