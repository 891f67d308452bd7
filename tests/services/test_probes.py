"""Probes against real servers: sockets of our own that misbehave, and a real Caddy with its own authority."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.waiting import until

from appliance import daemon
from appliance.services import certificate, health
from appliance.services.health import TcpProbe, TlsProbe, UnixProbe
from appliance.settings import Paths, parse

HOST = "croft.localhost"
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def says(answer: bytes) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    return handle


async def drips(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One byte a moment, for ever (R16)."""
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.01)


async def holds(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Accepts and says nothing until the other side goes."""
    await reader.read()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@asynccontextmanager
async def serving(handler: Handler, path: Path | None = None) -> AsyncIterator[int]:
    """A server on ``path`` or on a free port, which it yields; ends with all its connections."""
    tasks = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the probe has what it wanted
        finally:
            writer.transport.abort()

    start = asyncio.start_unix_server(handle, str(path)) if path else asyncio.start_server(handle, "127.0.0.1", 0)
    server = await start
    yield 0 if path else server.sockets[0].getsockname()[1]
    await asyncio.sleep(0.05)  # a connection that was dropped at once is accepted all the same
    server.close()
    await server.wait_closed()
    await asyncio.gather(*tasks)
    await asyncio.sleep(0)  # transports close in the loop's next turn


@pytest.mark.parametrize(
    ("answer", "healthy", "why"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", True, ""),
        (b"HTTP/1.0 200 OK\r\n\r\n{}", True, ""),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", False, "status 503"),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", False, "status 302"),
        (b"", False, "closed without an answer"),
        (b"SSH-2.0-OpenSSH\r\n", False, "the answer is not HTTP"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", False, "the answer is not HTTP"),
        (b"x" * 100_000, False, "Separator is not found, and chunk exceed the limit"),
    ],
)
async def test_what_counts_as_healthy(tmp_path, answer, healthy, why) -> None:
    async with serving(says(answer), tmp_path / "s"):
        got = await UnixProbe(tmp_path / "s")()
    assert (got.healthy, got.why) == (healthy, why)


@pytest.mark.parametrize("handler", [drips, holds])
async def test_a_probe_ends_in_time_whatever_the_other_side_does(tmp_path, handler) -> None:
    """R16: the limit counts from the start, not from the last byte."""
    async with serving(handler, tmp_path / "s"):
        began = time.monotonic()
        got = await UnixProbe(tmp_path / "s", time_limit=0.3)()
        assert time.monotonic() - began < 2
    assert got.why == "no answer within 0.3 s"


async def test_no_socket_and_nobody_behind_it_are_answers_not_errors(tmp_path) -> None:
    assert not (await UnixProbe(tmp_path / "none")()).healthy
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead"))
    assert not (await UnixProbe(tmp_path / "dead")()).healthy


async def test_another_user_behind_the_ide_s_socket_is_not_healthy(tmp_path) -> None:
    async with serving(says(b"HTTP/1.1 200 OK\r\n\r\n"), tmp_path / "s"):
        assert (await UnixProbe(tmp_path / "s", uid=os.geteuid())()).healthy
        other = await UnixProbe(tmp_path / "s", uid=os.geteuid() + 1)()
    assert other.why == "another user answers on the socket"


async def test_probes_leave_no_descriptor_behind(tmp_path) -> None:
    async with serving(says(b"HTTP/1.1 200 OK\r\n\r\n"), tmp_path / "s"):
        probe = UnixProbe(tmp_path / "s")
        await probe()
        before = descriptors()
        for _ in range(20):
            await probe()
        await until(lambda: descriptors() == before, "both ends of every connection are closed")


async def test_readyz_over_tcp() -> None:
    async with serving(says(b"HTTP/1.1 200 OK\r\n\r\n")) as port:
        assert (await TcpProbe("127.0.0.1", port)()).healthy
    assert not (await TcpProbe("127.0.0.1", port)()).healthy


@pytest.fixture
async def caddy(tmp_path: Path) -> AsyncIterator[tuple[int, Path]]:
    """A real Caddy serving HOST with its own authority; its port and its root certificate."""
    program = shutil.which("caddy")
    assert program, "caddy is not installed (apt-get install caddy)"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "Caddyfile").write_text(
        "{\nadmin off\nlocal_certs\nskip_install_trust\nauto_https disable_redirects\n}\n"
        f"https://{HOST}:{port} {{\nbind 127.0.0.1\nrespond /healthz 200\nrespond 404\n}}\n"
    )
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)}
    process = await asyncio.create_subprocess_exec(
        program,
        "run",
        "--config",
        str(tmp_path / "Caddyfile"),
        "--adapter",
        "caddyfile",
        env=env,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    root = tmp_path / "caddy/pki/authorities/local/root.crt"
    deadline = time.monotonic() + 20
    while not (await TlsProbe("127.0.0.1", port, HOST, own_root=root, public_roots=False)()).healthy:
        assert time.monotonic() < deadline, "Caddy did not come up"
        await asyncio.sleep(0.05)
    yield port, root
    process.terminate()
    await process.wait()


async def test_the_proxy_is_asked_as_a_visitor_would_and_its_certificate_read(caddy) -> None:
    """DECIDED 21, R22."""
    port, root = caddy
    got = await TlsProbe("127.0.0.1", port, HOST, own_root=root, public_roots=False)()
    assert got.healthy
    served = got.certificate
    assert served is not None
    assert served.own
    assert HOST in served.names
    assert served.distrust == ""
    assert served.not_before < time.time() < served.not_after


async def test_a_certificate_that_is_not_trusted_is_reported_not_counted_as_a_miss(caddy, tmp_path) -> None:
    port, root = caddy
    other = tmp_path / "other.crt"
    await asyncio.to_thread(make_root, other)
    got = await TlsProbe("127.0.0.1", port, HOST, own_root=other, public_roots=False)()
    assert got.healthy
    assert got.certificate.distrust
    trusted = (await TlsProbe("127.0.0.1", port, HOST, own_root=root, public_roots=False)()).certificate
    assert replace(got.certificate, distrust="") == trusted  # read in two ways, the same facts
    unreadable = await TlsProbe("127.0.0.1", port, HOST, own_root=tmp_path / "none", public_roots=False)()
    assert unreadable.healthy
    assert unreadable.certificate.distrust == ""  # nothing to judge it by


async def test_the_wrong_page_and_the_wrong_name_are_not_healthy(caddy) -> None:
    port, root = caddy
    page = await TlsProbe("127.0.0.1", port, HOST, own_root=root, public_roots=False, target="/x")()
    assert page.why == "status 404"
    assert not (await TlsProbe("127.0.0.1", port, "other.localhost", own_root=root, public_roots=False)()).healthy


async def test_tls_that_never_answers_ends_in_time() -> None:
    async with serving(holds) as port:
        got = await TlsProbe("127.0.0.1", port, HOST, own_root=None, public_roots=False, time_limit=0.3)()
    assert got.why == "no answer within 0.3 s"


def test_a_certificate_that_is_none_is_a_value_error() -> None:
    with pytest.raises(ValueError):
        certificate.read(b"not a certificate", "")


@pytest.mark.parametrize(
    ("settings", "kind", "where"),
    [
        ({}, TlsProbe, ("127.0.0.1", 443)),
        ({"proxy": {"tls": "off", "http_port": 8080}}, TcpProbe, ("127.0.0.1", 8080)),
        ({"proxy": {"bind": "192.0.2.7, 2001:db8::7"}}, TlsProbe, ("192.0.2.7", 443)),
        ({"proxy": {"bind": "0.0.0.0", "https_port": 8443}}, TlsProbe, ("127.0.0.1", 8443)),
    ],
)
def test_where_the_proxy_is_asked(tmp_path, settings, kind, where) -> None:
    probe = health.probes(parse(settings, Paths.under(tmp_path)), ide_uid=None)["proxy"]
    assert isinstance(probe, kind)
    assert (getattr(probe, "address", None) or probe._address, getattr(probe, "port", None) or probe._port) == where


def make_root(path: Path) -> None:
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Somebody else")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))


def test_a_caddy_that_is_slow_to_name_its_version_does_not_end_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R25: on a machine that is still starting, a program may take longer than anybody waits."""
    slow = tmp_path / "caddy"
    slow.write_text("#!/bin/sh\nexec sleep 30\n")
    slow.chmod(0o755)
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *words, **how: run(*words, **{**how, "timeout": 0.2}))
    settings = dataclasses.replace(parse({}, Paths.under(tmp_path)), paths_caddy=str(slow))
    assert daemon.caddy_version(settings) == ""
