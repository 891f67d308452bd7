"""Fetching one large file: over HTTPS only, resumable, checked, and never the last of the disk.

Rules: redirects lead to https or nowhere, and never to an address inside the machine's own network unless root named that mirror. The
file gets its name only with the expected sha256; what does not match is removed and said. Cut connections are taken up again where
they ended, with the same content or from the start.
"""

from __future__ import annotations

import asyncio
import random
import re
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from appliance.assistant import endpoint
from appliance.assistant.gguf import MAGIC
from appliance.assistant.partial import Partial
from appliance.errors import CroftError

BLOCK = 1 << 20
FREE_LEAST = 1 << 30  # bytes of disk that a download leaves to everybody else
LARGEST = 256 << 30  # bytes; a source that says more, or never ends, is not one for us
REDIRECTS = 5
ADDRESS_MOST = 2000  # characters
TRIES = 6  # in a row without a single new byte
STALL_SECONDS = 45.0  # without a byte
WAIT_LEAST, WAIT_MOST = 1.0, 60.0
LOOK_EVERY = 64 << 20  # bytes after which the free disk is looked at again
HOME = "https://huggingface.co/"

_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_RANGE = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15})\Z")
_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})

Report = Callable[[str, int, int], None]
"""Called with a phase (connecting, downloading, waiting, checking), bytes so far and in all (0: unknown)."""


class DownloadFailed(CroftError):
    """It cannot be had. ``code`` is one that the catalogue has words for under ``job.why``."""

    status = 409


class _Cut(Exception):
    """The connection ended early, or the source is busy: try again. ``after`` is what the source asks to wait, in seconds."""

    def __init__(self, cause: str, after: float = 0.0) -> None:
        super().__init__(cause)
        self.after = after


@dataclass(frozen=True)
class Wanted:
    """``file`` is the name it gets. ``sha256`` '' and ``size`` 0 where nobody has said them."""

    url: str
    file: str
    sha256: str = ""
    size: int = 0


@dataclass(frozen=True)
class Offer:
    """What the source says of the content: ``mark`` names this very content, '' where it cannot be asked for in parts."""

    total: int
    mark: str
    linked_sha256: str


class Downloader:
    """``mirror`` stands in for huggingface.co, and may lie in the own network: root has named it."""

    def __init__(
        self,
        folder: Path,
        *,
        mirror: str = "",
        free_least: int = FREE_LEAST,
        stall: float = STALL_SECONDS,
        wait: float = WAIT_LEAST,
    ) -> None:
        self._folder, self._mirror = folder, mirror.rstrip("/")
        self._free_least, self._stall, self._wait = free_least, stall, wait
        self._trusted = URL(mirror).host or ""

    def check(self, url: str) -> None:
        """Raises DownloadFailed for an address that nothing is fetched from."""
        try:
            found = URL(url[: ADDRESS_MOST + 1])
        except ValueError as error:
            raise _unsafe("it is no address") from error
        if len(url) > ADDRESS_MOST:
            raise _unsafe("it is too long")
        self._safe(found)

    async def fetch(self, wanted: Wanted, report: Report) -> str:
        """Have the file under its name; returns its sha256. Raises DownloadFailed. Cancelling keeps what came so far."""
        part = Partial(self._folder, wanted.file, wanted.url)
        try:
            report("checking", 0, wanted.size)
            await asyncio.to_thread(part.open)
            report("connecting", part.size, wanted.size)
            async with self._session() as session:
                return await self._whole(session, wanted, part, report)
        except OSError as error:
            raise DownloadFailed(
                f"cannot write the file: {error.strerror}", hint="Free disk space, then resume.", code="disk"
            ) from error
        finally:
            await asyncio.to_thread(part.close)

    async def discard(self, wanted: Wanted) -> None:
        """Remove what a download that was given up left."""
        await asyncio.to_thread(Partial(self._folder, wanted.file, wanted.url).remove)

    async def _whole(self, session: aiohttp.ClientSession, wanted: Wanted, part: Partial, report: Report) -> str:
        """Transfer until the content is the expected one. Parts that do not fit together get one more chance from the start."""
        while True:
            expected = await self._transferred(session, wanted, part, report)
            report("checking", part.size, part.size)
            if part.first != MAGIC:
                await asyncio.to_thread(part.remove)
                raise DownloadFailed("what came is not a model", hint="Check the address.", code="not_a_model")
            if not expected or part.sha256 == expected:
                await asyncio.to_thread(part.place)
                return part.sha256
            if not part.pieced or part.restarts:
                await asyncio.to_thread(part.remove)
                raise DownloadFailed(
                    "the file has another sha256 than expected, so it was removed",
                    hint="Check the address and the sha256.",
                    code="wrong_hash",
                )
            await asyncio.to_thread(part.restart)

    async def _transferred(self, session: aiohttp.ClientSession, wanted: Wanted, part: Partial, report: Report) -> str:
        """Until the source has given everything; returns the sha256 it has to have, '' where nobody knows."""
        failures = 0
        while True:
            before = part.size
            try:
                return await self._attempt(session, wanted, part, report)
            except (_Cut, aiohttp.ClientError, TimeoutError) as error:
                if isinstance(error, aiohttp.ClientSSLError):
                    raise _unreachable("its certificate is not trusted") from error
                failures = 0 if part.size > before else failures + 1
                if failures >= TRIES:
                    raise _unreachable(str(error) or "it does not answer") from error
                report("waiting", part.size, wanted.size)
                asked = error.after if isinstance(error, _Cut) else 0.0
                grown = min(WAIT_MOST, self._wait * 2**failures) * (0.5 + random.random() / 2)  # noqa: S311 - jitter
                await asyncio.sleep(min(WAIT_MOST, max(asked, grown)))

    async def _attempt(self, session: aiohttp.ClientSession, wanted: Wanted, part: Partial, report: Report) -> str:
        if part.size and not part.mark:
            await asyncio.to_thread(part.forget)  # nobody can say that the rest would be of the same content
        async with self._asked(session, wanted, part) as (response, linked):
            offer = _offer(response, linked, part.size)
            expected = wanted.sha256 or offer.linked_sha256
            _check_offer(wanted, offer)
            if response.status == 200 and part.size:
                await asyncio.to_thread(part.forget)  # another content by now, or a source that knows no parts
            elif response.status == 206 and offer.mark != part.mark:
                await asyncio.to_thread(part.forget)
                raise _Cut("the source sends a part of another content")
            part.pieced = part.pieced or response.status == 206
            if offer.mark and offer.mark != part.mark:
                await asyncio.to_thread(part.belongs_to, offer.mark)
            await self._received(response, part, offer.total or wanted.size, report)
        return expected

    async def _received(self, response: aiohttp.ClientResponse, part: Partial, total: int, report: Report) -> None:
        looked = -LOOK_EVERY
        async for block in response.content.iter_chunked(BLOCK):
            if part.size + len(block) > (total or LARGEST):
                raise DownloadFailed("the source sends more than it said", hint="Try again later.", code="changed")
            if part.size - looked >= LOOK_EVERY:
                looked = part.size
                await asyncio.to_thread(self._check_disk, max(total - part.size, len(block)))
            await asyncio.to_thread(part.add, block)
            report("downloading", part.size, total)
        if part.size < total:
            raise _Cut("the connection ended early")

    @asynccontextmanager
    async def _asked(
        self, session: aiohttp.ClientSession, wanted: Wanted, part: Partial
    ) -> AsyncIterator[tuple[aiohttp.ClientResponse, tuple[str, str]]]:
        """The answer at the end of all redirects, and what the hops said of the file behind them (its sha256 and size)."""
        headers = {"Accept-Encoding": "identity", "User-Agent": "croft"}
        if part.size:
            headers |= {"Range": f"bytes={part.size}-", "If-Range": part.mark}
        url, linked = URL(self._from_mirror(wanted.url)), ("", "")
        for _ in range(REDIRECTS + 1):
            self._safe(url)
            async with session.get(url, headers=headers, allow_redirects=False) as response:
                linked = (
                    response.headers.get("x-linked-etag", linked[0]),
                    response.headers.get("x-linked-size", linked[1]),
                )
                if response.status not in (301, 302, 303, 307, 308):
                    try:
                        await _check_status(response, part)
                        yield response, linked
                    except BaseException:
                        _hang_up(response)
                        raise
                    return
                try:
                    url = url.join(URL(response.headers.get("Location", "")))
                except ValueError as error:
                    raise _unreachable("it leads to no address") from error
        raise _unreachable("it leads from one address to another without end")

    def _from_mirror(self, url: str) -> str:
        return f"{self._mirror}/{url.removeprefix(HOME)}" if self._mirror and url.startswith(HOME) else url

    def _safe(self, url: URL) -> None:
        if url.scheme != "https" or not url.host or url.user or url.password:
            raise _unsafe("only plain https addresses are fetched from")
        try:
            inside = not endpoint.is_public(url.host)
        except ValueError:
            # 127.1 and 2130706433 lead to this machine, and are connected to without being looked up.
            inside = ":" in url.host or url.host.replace(".", "").isdigit()
        if inside and url.host != self._trusted:
            raise _unsafe("this address lies inside the network")

    def _session(self) -> aiohttp.ClientSession:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=20, sock_read=self._stall)
        connector = aiohttp.TCPConnector(
            resolver=_Outside(self._trusted), ssl=ssl.create_default_context(), use_dns_cache=False
        )
        return aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )

    def _check_disk(self, coming: int) -> None:
        free = shutil.disk_usage(self._folder).free
        if free - coming < self._free_least:
            short = (self._free_least + coming - free) >> 20
            raise DownloadFailed(
                f"the disk has {free >> 20} MiB free: {short} MiB too few for this file and what must stay free",
                hint="Remove something, then resume.",
                code="disk_full",
            )


class _Outside(AbstractResolver):
    """Names, but for ``trusted``, that lead to public addresses only; the connection goes to the very address that was checked."""

    def __init__(self, trusted: str) -> None:
        self._trusted, self._inner = trusted, ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        if host != self._trusted and not all(endpoint.is_public(one["host"]) for one in found):
            raise _unsafe("this name leads inside the network")
        return found

    async def close(self) -> None:
        await self._inner.close()


def _hang_up(response: aiohttp.ClientResponse) -> None:
    """End the connection at once: a polite end to TLS waits for a source that may say nothing any more."""
    if response.connection is not None and response.connection.transport is not None:
        response.connection.transport.abort()


async def _check_status(response: aiohttp.ClientResponse, part: Partial) -> None:
    status = response.status
    if status in (200, 206):
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise DownloadFailed("the source sends it packed", hint="Use another source.", code="refused")
        return
    if status == 416:  # no such part: the content is another, or already here to the last byte
        await asyncio.to_thread(part.forget)
        raise _Cut("the source does not have the rest")
    if status in _RETRIED:
        asked = response.headers.get("Retry-After", "")
        raise _Cut(f"the source answers {status}", float(asked) if asked.isdigit() else 0.0)
    if status in (404, 410):
        raise DownloadFailed("the source does not have the file any more", hint="Use another source.", code="gone")
    raise DownloadFailed(
        f"the source refuses to give the file (status {status})",
        hint="It may want an account, or terms to be accepted; use another source.",
        code="refused",
    )


def _offer(response: aiohttp.ClientResponse, linked: tuple[str, str], have: int) -> Offer:
    """Raises _Cut for a part that is not the one that was asked for."""
    length = response.headers.get("Content-Length", "")
    total = int(length) if length.isdigit() else 0
    if response.status == 206:
        span = _RANGE.match(response.headers.get("Content-Range", ""))
        if span is None or int(span[1]) != have:
            raise _Cut("the source sends another part")
        total = int(span[3])
    if not total and linked[1].isdigit():
        total = int(linked[1])
    tag = response.headers.get("ETag", "")
    # A weak tag does not promise the same bytes (RFC 9110, 13.1.5), so nothing is pieced together by it.
    mark = tag if tag.startswith('"') else "" if tag else response.headers.get("Last-Modified", "")
    sha256 = linked[0].strip('"')
    return Offer(total, mark, sha256 if _SHA256.match(sha256) else "")


def _check_offer(wanted: Wanted, offer: Offer) -> None:
    """Before a byte is taken: is it what was asked for?"""
    other_size = wanted.size and offer.total and offer.total != wanted.size
    other_hash = wanted.sha256 and offer.linked_sha256 and offer.linked_sha256 != wanted.sha256
    if other_size or other_hash or offer.total > LARGEST:
        raise DownloadFailed(
            "the source offers another file than the expected one", hint="Use another source.", code="changed"
        )


def _unreachable(cause: str) -> DownloadFailed:
    return DownloadFailed(
        f"cannot reach the source: {cause[:200]}",
        hint="Check this machine's connection, then resume.",
        code="unreachable",
    )


def _unsafe(cause: str) -> DownloadFailed:
    return DownloadFailed(f"cannot fetch from there: {cause}", hint="Use a public https address.", code="unsafe_url")
