"""What the pages cost: bytes, time to make and to load them, many open dashboards, and one look at the machine.

Rule: pages are those of a running appliance, signed in, with a day of figures behind the charts.
"""

from __future__ import annotations

import asyncio
import http.client
import re
import socket
import sqlite3
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from measure import Figure, NotRun, cpu_seconds, interleave, medians, pss_mb, ratio
from stage import HOST, Appliance, Visitor, running_appliance

if TYPE_CHECKING:
    from playwright.async_api import CDPSession

PAGES = (
    "/",
    "/machine",
    "/machine?span=month",
    "/machine/logs/proxy",
    "/sessions",
    "/audit",
    "/people",
    "/settings",
    "/account",
)
OPEN = 50
WINDOW = 20.0  # seconds of watching
FIRST_LOAD_MS, PAGE_KB, SERVER_MS = 300.0, 100.0, 15.0


class _Socket(http.client.HTTPConnection):
    """HTTP over the daemon's own socket: what is measured is the daemon, not the proxy before it."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(str(self._path))


def pages(rounds: int) -> list[Figure]:
    """PAGE, SERVER and LOAD: the worst page of each."""
    with _with_a_day() as (appliance, visitor):
        cookie = "; ".join(f"{name}={value}" for name, value in visitor.cookies[HOST].items())
        sizes, times = {}, {}
        for path in PAGES:
            status, body, _ = _get(appliance, path, cookie)
            if status == 404:
                continue
            if status != 200:
                raise RuntimeError(f"{path} answers {status}")
            sizes[path] = _weight(appliance, body, cookie)
            times[path] = statistics.median(_get(appliance, path, cookie)[2] for _ in range(max(20, rounds * 5)))
        loads = asyncio.run(_first_loads(appliance, visitor, list(sizes), rounds))
    return [
        Figure(
            "PAGE",
            "heaviest page with its assets, compressed, kB",
            PAGE_KB,
            80,
            True,
            max(sizes.values()),
            detail=sizes,
        ),
        Figure("SERVER", "slowest page, server time, median ms", SERVER_MS, 8, True, max(times.values()), detail=times),
        Figure(
            "LOAD",
            "slowest page, first load in Chromium on loopback, ms",
            FIRST_LOAD_MS,
            200,
            True,
            max(loads.values()),
            detail=loads,
        ),
    ]


def dashboards(rounds: int) -> list[Figure]:
    """DASH: fifty event streams as fifty open Home pages hold them; CPU and memory against none."""
    with _with_a_day() as (appliance, visitor):
        cookie = "; ".join(f"{name}={value}" for name, value in visitor.cookies[HOST].items())
        daemon = [appliance.daemon_pid()]
        alone = (_busy(daemon), pss_mb(daemon))
        cookies = [cookie, *(_another(appliance) for _ in range(1 + OPEN // 30))]
        streams = [_stream(appliance, cookies[n % len(cookies)]) for n in range(OPEN)]
        try:
            time.sleep(5)
            with_them = (_busy(daemon), pss_mb(daemon))
            for stream in streams:
                if stream.fp is None or stream.isclosed():
                    raise RuntimeError("a stream ended by itself")
        finally:
            for stream in streams:
                stream.close()
        time.sleep(5)
        # What starting left behind goes by and by: the smaller of before and after is what it weighs without them.
        without = min(alone[1], pss_mb(daemon))
    detail = {
        "CPU % alone": alone[0],
        "CPU % with them": with_them[0],
        "MB without": without,
        "MB with them": with_them[1],
    }
    return [
        Figure(
            "DASH", f"{OPEN} open dashboards, CPU of the daemon, % of a core", 5, 2, True, with_them[0], detail=detail
        ),
        Figure("DASHMB", f"{OPEN} open dashboards, memory they add, MB", 20, 10, True, with_them[1] - without),
    ]


def sample(rounds: int) -> list[Figure]:
    """S2: one look at the machine / what psutil takes for the same."""
    import psutil

    from appliance.telemetry import proc

    readings = proc.Readings()
    before = readings.look()

    def ours() -> float:
        began = time.process_time()
        for _ in range(500):
            proc.between(before, readings.look(), 1.0)
        return (time.process_time() - began) / 500 * 1e6

    calls = (
        psutil.cpu_times, psutil.virtual_memory, psutil.swap_memory, psutil.disk_io_counters,
        psutil.net_io_counters, psutil.getloadavg, psutil.cpu_stats,
    )  # fmt: skip

    def theirs() -> float:
        began = time.process_time()
        for _ in range(100):
            for call in calls:
                call()
        return (time.process_time() - began) / 100 * 1e6

    found = interleave({"ours": ours, "psutil": theirs}, rounds)
    readings.close()
    detail = {f"{name} us": value for name, value in medians(found).items()}
    return [
        Figure(
            "S2",
            "one look at the machine / psutil's seven calls",
            0.20,
            0.13,
            True,
            ratio(found, "ours", "psutil"),
            detail=detail,
        )
    ]


@contextmanager
def _with_a_day() -> Iterator[tuple[Appliance, Visitor]]:
    """A running appliance with somebody signed in; its charts have a day behind them."""
    with running_appliance(ide=True) as appliance:
        visitor = Visitor(appliance)
        visitor.sign_in(appliance.croft("login-link")["url"])
        _a_day(appliance.paths.database)
        yield appliance, visitor


def _a_day(database: Path) -> None:
    """Rows as the daemon writes them; it goes on with its own after these."""
    begin = int(time.time()) - 8640 * 10
    columns = (
        "cpu",
        "load",
        "memory",
        "swap",
        "disk",
        "net_in",
        "net_out",
        "disk_read",
        "disk_write",
        "cpu_ide",
        "memory_ide",
    )
    rows = [(begin + n * 10, *(float((n * 37 + m * 911) % 9973) for m in range(len(columns)))) for n in range(8640)]
    with sqlite3.connect(database, timeout=10) as connection:
        connection.executemany(
            f"INSERT INTO telemetry_fine (at, {', '.join(columns)}) VALUES ({', '.join('?' * (len(columns) + 1))})",  # noqa: S608
            rows,
        )
    connection.close()


def _get(appliance: Appliance, path: str, cookie: str) -> tuple[int, bytes, float]:
    """Status, body and milliseconds."""
    connection = _Socket(appliance.paths.socket("web"))
    began = time.perf_counter()
    connection.request("GET", path, headers=_headers(appliance, cookie))
    answer = connection.getresponse()
    body = answer.read()
    took = (time.perf_counter() - began) * 1000
    connection.close()
    return answer.status, body, took


def _headers(appliance: Appliance, cookie: str) -> dict[str, str]:
    return {
        "Host": f"{HOST}:{appliance.https_port}", "Cookie": cookie, "Accept": "text/html", "Accept-Encoding": "gzip",
        "Sec-Fetch-Site": "same-origin", "X-Forwarded-For": "127.0.0.1",
    }  # fmt: skip


def _weight(appliance: Appliance, body: bytes, cookie: str) -> float:
    """Kilobytes of a page and everything it names, as compressed by the daemon or by gzip."""
    import gzip

    seen: dict[str, int] = {"": len(gzip.compress(body, 6))}
    waiting = sorted(set(re.findall(r'(?:href|src|data-icons)="(/static/[^"#]+\.(?:js|css|svg))', body.decode())))
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        _, content, _ = _get(appliance, path, cookie)
        packed = content[:2] == b"\x1f\x8b"
        seen[path] = len(content if packed else gzip.compress(content, 6))
        if path.endswith(".js"):
            text = (gzip.decompress(content) if packed else content).decode()
            waiting += [f"{path.rsplit('/', 1)[0]}/{name}" for name in re.findall(r'from "\./([\w.-]+\.js)"', text)]
    return sum(seen.values()) / 1000


async def _first_loads(appliance: Appliance, visitor: Visitor, paths: list[str], rounds: int) -> dict[str, float]:
    """Milliseconds from navigation to the load event in a browser that has seen nothing before, through the real proxy.

    That is what a person waits for on a first visit: connection and TLS, a fresh renderer, the page, its styles, scripts and icons.
    What is fetched only after the load event (the live stream, the charts' numbers) is not in it, nor, being the median of
    rounds, what only the first visitor after a start of the daemon waits for: imports and the compiling of templates.
    Nor is the opening of the browser's window, which each visitor here has anew: it is waited for before the page is asked for.
    """
    try:
        from playwright.async_api import async_playwright
    except ImportError as error:
        raise NotRun("playwright is not installed") from error
    from support.browser import FLAGS

    base = f"https://{HOST}:{appliance.https_port}"
    cookies = [
        {"name": name, "value": value, "url": base, "secure": True, "httpOnly": True, "sameSite": "Strict"}
        for name, value in visitor.cookies[HOST].items()
    ]
    found: dict[str, list[float]] = {path: [] for path in paths}
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        about = await browser.new_browser_cdp_session()
        for _ in range(max(3, rounds // 2)):
            for path in paths:
                context = await browser.new_context(ignore_https_errors=True)
                await context.add_cookies(cookies)
                page = await context.new_page()
                await _at_rest(about)
                await page.goto(base + path, wait_until="load")
                found[path].append(await page.evaluate("performance.getEntriesByType('navigation')[0].loadEventStart"))
                await context.close()
        await browser.close()
    return {path: statistics.median(values) for path, values in found.items()}


async def _at_rest(about: CDPSession) -> None:
    """Wait until the browser's processes do nothing. A new window's own parts (the field for addresses alone is a page of 140
    scripts) take more than a second of CPU after it is there, which no person's first look at a page competes with."""
    spent, quiet = 0.0, 0
    for _ in range(200):
        processes = (await about.send("SystemInfo.getProcessInfo"))["processInfo"]
        now = sum(process["cpuTime"] for process in processes)  # seconds, in steps of 10 ms
        quiet = quiet + 1 if now - spent < 0.011 else 0
        if quiet == 3:
            return
        spent = now
        await asyncio.sleep(0.1)
    raise RuntimeError("the browser does not come to rest")


def _another(appliance: Appliance) -> str:
    """The cookie of one more session: each may hold only so many streams."""
    visitor = Visitor(appliance)
    visitor.sign_in(appliance.croft("login-link")["url"])
    return "; ".join(f"{name}={value}" for name, value in visitor.cookies[HOST].items())


def _stream(appliance: Appliance, cookie: str) -> http.client.HTTPResponse:
    connection = _Socket(appliance.paths.socket("web"))
    connection.request("GET", "/api/events?topics=services,telemetry", headers=_headers(appliance, cookie))
    answer = connection.getresponse()
    if answer.status != 200:
        raise RuntimeError(f"the event stream answers {answer.status}")
    return answer


def _busy(pids: list[int]) -> float:
    """Percent of a core over a while."""
    before = cpu_seconds(pids)
    time.sleep(WINDOW)
    return (cpu_seconds(pids) - before) / WINDOW * 100
