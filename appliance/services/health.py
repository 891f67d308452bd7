"""Probes: does a service really answer, not merely run?

Rule: a probe ends within its time limit counted from the start, whatever the other side sends or withholds,
and keeps nothing open afterwards.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import struct
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from appliance.services import certificate
from appliance.services.certificate import Certificate
from appliance.services.model import ServiceName
from appliance.settings import Settings

TIME_LIMIT = 5.0
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})(?: |\r)")
_LONGEST_LINE = 4096


class Answer(Struct, frozen=True):
    """How a probe went; ``why`` (for the log) is empty when it passed."""

    healthy: bool
    why: str = ""
    certificate: Certificate | None = None
    timed_out: bool = False


class Probe(Protocol):
    """One way to ask one service."""

    async def __call__(self) -> Answer: ...


class UnixProbe(Struct, frozen=True):
    """GET ``target`` over a unix socket; 200 is healthy. With ``uid``, only that user may be at the other
    end."""

    path: Path
    target: str = "/healthz"
    uid: int | None = None
    time_limit: float = TIME_LIMIT

    async def __call__(self) -> Answer:
        return await _bounded(self._ask(), self.time_limit)

    async def _ask(self) -> Answer:
        reader, writer = await asyncio.open_unix_connection(str(self.path), limit=_LONGEST_LINE)
        try:
            if self.uid is not None and _peer_uid(writer) != self.uid:
                return Answer(False, "another user answers on the socket")
            return await _get(reader, writer, "localhost", self.target)
        finally:
            writer.transport.abort()


class TcpProbe(Struct, frozen=True):
    """GET ``target`` over plain TCP."""

    address: str
    port: int
    host: str = "localhost"
    target: str = "/readyz"
    time_limit: float = TIME_LIMIT

    async def __call__(self) -> Answer:
        return await _bounded(self._ask(), self.time_limit)

    async def _ask(self) -> Answer:
        reader, writer = await asyncio.open_connection(self.address, self.port, limit=_LONGEST_LINE)
        try:
            return await _get(reader, writer, self.host, self.target)
        finally:
            writer.transport.abort()


class TlsProbe:
    """GET ``target`` over TLS from this machine, as a visitor of ``host`` would, and look at the certificate.

    The connection goes to ``address`` because the C library need not resolve the name. A certificate this
    machine does not trust is reported, not counted as a miss: a restart would not mend it.
    """

    def __init__(
        self,
        address: str,
        port: int,
        host: str,
        *,
        own_root: Path | None,
        public_roots: bool,
        target: str = "/healthz",
        time_limit: float = TIME_LIMIT,
    ) -> None:
        self._address = address
        self._port = port
        self._host = host
        self._own_root = own_root
        self._public_roots = public_roots
        self._target = target
        self._time_limit = time_limit
        self._context: tuple[float, ssl.SSLContext] | None = None

    async def __call__(self) -> Answer:
        return await _bounded(self._ask(), self._time_limit)

    async def _ask(self) -> Answer:
        try:
            return await self._ask_with(await asyncio.to_thread(self._trusting), "")
        except ssl.SSLCertVerificationError as error:
            return await self._ask_with(_blind(), error.verify_message or "not trusted")

    async def _ask_with(self, context: ssl.SSLContext, distrust: str) -> Answer:
        reader, writer = await asyncio.open_connection(
            self._address, self._port, ssl=context, server_hostname=self._host, limit=_LONGEST_LINE
        )
        try:
            served = self._certificate(writer.get_extra_info("ssl_object"), distrust)
            answer = await _get(reader, writer, self._host, self._target)
            return Answer(answer.healthy, answer.why, served)
        finally:
            writer.transport.abort()

    def _certificate(self, tls: ssl.SSLObject, distrust: str) -> Certificate:
        if not distrust:
            return certificate.verified(tls.getpeercert() or {})
        served = certificate.read(tls.getpeercert(binary_form=True) or b"", distrust)
        # Where the root of the proxy's own authority is not ours to read there is nothing to judge by.
        return replace(served, distrust="") if served.own and not _modified(self._own_root) else served

    def _trusting(self) -> ssl.SSLContext:
        """Kept between probes: reading the machine's roots costs some 20 ms. Read anew when the own root
        changes."""
        stamp = _modified(self._own_root)
        if self._context is None or self._context[0] != stamp:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            if self._public_roots:
                context.load_default_certs(ssl.Purpose.SERVER_AUTH)
            if self._own_root is not None and stamp:
                context.load_verify_locations(self._own_root)
            self._context = (stamp, context)
        return self._context[1]


def _blind() -> ssl.SSLContext:
    """Trusts anything: for looking at a certificate that was not trusted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def own_root(settings: Settings) -> Path:
    """Where Caddy keeps the root certificate of its own authority."""
    return settings.paths.caddy_data / "caddy/pki/authorities/local/root.crt"


def probes(
    settings: Settings,
    *,
    ide_uid: int | None,
    root: Path | None = None,
    ai: Probe | None = None,
) -> Mapping[ServiceName, Probe]:
    """The probes of one appliance. ``root`` overrides where the proxy's own root certificate is read."""
    address = settings.proxy_bind.split(",")[0].strip() or "127.0.0.1"
    if address in {"0.0.0.0", "::"}:  # noqa: S104 - compared, not bound
        address = "127.0.0.1"
    proxy: Probe
    if settings.proxy_tls == "off":
        proxy = TcpProbe(address, settings.proxy_http_port, settings.host, "/healthz")
    else:
        proxy = TlsProbe(
            address,
            settings.proxy_https_port,
            settings.host,
            own_root=root or own_root(settings),
            public_roots=settings.proxy_tls == "acme",
        )
    table: dict[ServiceName, Probe] = {"proxy": proxy, "ide": UnixProbe(settings.paths.socket("ide"), uid=ide_uid)}
    if ai is not None:
        table["ai"] = ai
    return table


async def _bounded(asking: Coroutine[None, None, Answer], limit: float) -> Answer:
    try:
        async with asyncio.timeout(limit):
            return await asking
    except TimeoutError:
        return Answer(False, f"no answer within {limit:g} s", timed_out=True)
    except (OSError, ValueError, asyncio.IncompleteReadError) as error:
        # OSError: refused, reset, TLS. ValueError: a line without end, or a certificate that is none.
        return Answer(False, str(error) or type(error).__name__)


async def _get(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, target: str) -> Answer:
    writer.write(f"GET {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: croft\r\nConnection: close\r\n\r\n".encode())
    await writer.drain()
    line = await reader.readline()
    found = _STATUS.match(line)
    if found is None:
        return Answer(False, "the answer is not HTTP" if line else "closed without an answer")
    status = int(found[1])
    return Answer(True) if status == 200 else Answer(False, f"status {status}")


def _peer_uid(writer: asyncio.StreamWriter) -> int:
    sock: socket.socket = writer.get_extra_info("socket")
    _pid, uid, _gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)


def _modified(path: Path | None) -> float:
    """Modification time, or 0.0 where there is no such file for us."""
    try:
        return path.stat().st_mtime if path else 0.0
    except OSError:
        return 0.0
