"""What the IDE relay adds to a WebSocket message: Caddy and the daemon's relay, against Caddy alone."""

from __future__ import annotations

import os
import pwd
import socket
import statistics
import subprocess
import sys
import time

from measure import Figure, interleave, medians, wait_for
from stage import IDE, Caddy, scratch, signed_in

COUNT = 400

# Speaks just enough of RFC 6455: accepts any upgrade, returns each short text frame unmasked. argv: the socket's path.
ECHO = """
import asyncio, base64, hashlib, os, sys

async def handle(reader, writer):
    head = await reader.readuntil(b"\\r\\n\\r\\n")
    lines = head.split(b"\\r\\n")
    key = next(line.split(b":")[1].strip() for line in lines if line.lower().startswith(b"sec-websocket-key"))
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    writer.write(b"HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n")
    writer.write(b"Sec-WebSocket-Accept: " + accept + b"\\r\\n\\r\\n")
    try:
        while True:
            first, size = await reader.readexactly(2)
            mask, data = await reader.readexactly(4), await reader.readexactly(size & 127)
            plain = bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))
            writer.write(bytes([first, len(plain)]) + plain)
    except asyncio.IncompleteReadError:
        writer.close()

async def main(path):
    await asyncio.start_unix_server(handle, path)
    os.chmod(path, 0o666)
    await asyncio.Event().wait()

asyncio.run(main(sys.argv[1]))
"""
BARE = """
http://127.0.0.1:%d {
	reverse_proxy unix/%s
}
"""


def echo(rounds: int) -> list[Figure]:
    """An echo server takes code-server's place, as the workspace user, since the relay asks the kernel who listens."""
    with signed_in() as ready, scratch() as folder:
        path, appliance = ready.appliance.paths.socket("ide"), ready.appliance
        appliance.croft("services", "stop", "ide")
        path.unlink(missing_ok=True)
        account = pwd.getpwnam(appliance.settings.users_workspace)
        switch = {"user": account.pw_uid, "group": account.pw_gid} if os.geteuid() == 0 else {}
        server = subprocess.Popen([sys.executable, "-c", ECHO, str(path)], **switch)
        guarded, bare = Caddy(folder / "g"), None
        try:
            wait_for(path.exists, "the echo server", 10)
            port = guarded.port + 1
            bare = Caddy(folder / "b", BARE % (port, path))
            guarded.settings.paths.socket("web").symlink_to(appliance.paths.socket("web"))
            found = interleave(
                {
                    "relay": lambda: _round_trips(guarded.port, IDE, appliance.settings.ide_origin, ready.cookie),
                    "caddy": lambda: _round_trips(port, "127.0.0.1", "http://127.0.0.1", ""),
                },
                rounds,
            )
        finally:
            server.kill()
            server.wait()
            guarded.close()
            if bare is not None:
                bare.close()
    added = statistics.median(
        with_relay - alone for with_relay, alone in zip(found["relay"], found["caddy"], strict=True)
    )
    detail = {f"{name}, ms": value for name, value in medians(found).items()}
    return [
        Figure("RELAY", "WebSocket echo through Caddy and relay, added ms, p50", 1.0, 0.5, True, added, detail=detail)
    ]


def _round_trips(port: int, host: str, origin: str, cookie: str) -> float:
    """Median milliseconds of one message there and back."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(
            (
                f"GET /x HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\nCookie: {cookie}\r\nConnection: Upgrade\r\n"
                "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            ).encode()
        )
        head = b""
        while b"\r\n\r\n" not in head:
            chunk = sock.recv(4096)
            if not chunk:
                break
            head += chunk
        if not head.startswith(b"HTTP/1.1 101"):
            raise RuntimeError(f"no upgrade: {head[:200]!r}")
        spent = []
        for _ in range(COUNT):
            began = time.perf_counter()
            sock.sendall(b"\x81\x90" + b"\x00" * 4 + b"x" * 16)
            got = b""
            while len(got) < 18:
                got += sock.recv(64)
            spent.append(time.perf_counter() - began)
    return statistics.median(spent) * 1000
