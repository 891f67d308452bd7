"""Opening the editor in a real browser: awake, asleep, and against code-server behind a plain Caddy."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from measure import Figure, NotRun, interleave, medians, ratio, wait_for
from playwright.sync_api import Browser, BrowserContext, Frame, Page
from stage import BARE_HOST, Caddy, running_appliance, scratch
from support.appliance import Appliance
from support.browser import chromium, person, sign_in
from support.waiting import poll

TREE = ".explorer-folders-view, .explorer-viewlet"
BARE = """
http://%s:%d {
	bind 127.0.0.1
	reverse_proxy unix/%s
}
"""


def opening(rounds: int) -> list[Figure]:
    """Four figures from one appliance and one signed-in person; the browser's cache is warm, as on every later day."""
    with _desk() as (appliance, browser, context):
        page = context.new_page()
        _click(page, appliance)  # fills the browser's cache
        with _bare(appliance) as plain:
            bare = person(browser)
            _open_bare(bare.new_page(), plain)
            found = interleave(
                {
                    "croft": lambda: _click(page, appliance),
                    "plain": lambda: _fresh(bare, lambda p: _open_bare(p, plain)),
                },
                rounds,
            )
        again = _fetched_again(context, appliance)
        shown, awake = _from_sleep(page, appliance, rounds)
    warm = medians(found)
    return [
        Figure("OPEN", "click to file tree, editor awake, seconds", 2.0, 1.5, True, warm["croft"]),
        Figure(
            "OPEN1", "the same / code-server behind a plain Caddy", 1.1, 1.0, True, ratio(found, "croft", "plain"),
            detail={f"{name} s": value for name, value in warm.items()},
        ),
        Figure("AGAIN", "unchanging files fetched again on a second visit", 0, 0, True, again),
        Figure("SLEEP", "click to file tree, editor asleep, seconds", 6.0, 4.0, True, awake),
        Figure("SHOWN", "click to a progress page, editor asleep, seconds", 0.2, 0.1, True, shown),
    ]  # fmt: skip


@contextmanager
def _desk() -> Iterator[tuple[Appliance, Browser, BrowserContext]]:
    with running_appliance(ide=True) as appliance, chromium(appliance.root_certificate) as browser:
        context = person(browser)
        sign_in(context.new_page(), appliance.croft("login-link")["url"])
        appliance.croft("services", "start", "ide")
        wait_for(lambda: appliance.service("ide")["health"] == "healthy", "the IDE", 60)
        yield appliance, browser, context


@contextmanager
def _bare(appliance: Appliance) -> Iterator[str]:
    """A plain Caddy in front of the same code-server. Yields its address (localhost: a secure context, as HTTPS is)."""
    with scratch() as folder:
        port = appliance.http_port + 1
        caddy = Caddy(folder, BARE % (BARE_HOST, port, appliance.paths.socket("ide")))
        try:
            yield f"http://{BARE_HOST}:{port}/?folder={appliance.paths.workspace}"
        finally:
            caddy.close()


def _click(page: Page, appliance: Appliance) -> float:
    """Seconds from asking for the workspace page to the editor's file tree."""
    page.goto(f"{appliance.url}/")
    began = time.monotonic()
    page.goto(f"{appliance.url}/workspace", wait_until="commit")
    _frame(page).wait_for_selector(TREE, timeout=60_000)
    return time.monotonic() - began


def _frame(page: Page) -> Frame:
    handle = page.wait_for_selector(".editor iframe")
    found = handle.content_frame() if handle else None
    if found is None:
        raise NotRun("the workspace page has no frame")
    return found


def _fresh(context: BrowserContext, measure: Callable[[Page], float]) -> float:
    page = context.new_page()
    try:
        return measure(page)
    finally:
        page.close()


def _open_bare(page: Page, address: str) -> float:
    began = time.monotonic()
    page.goto(address, wait_until="commit")
    page.wait_for_selector(TREE, timeout=60_000)
    return time.monotonic() - began


def _fetched_again(context: BrowserContext, appliance: Appliance) -> float:
    """How many of code-server's versioned files a second visit asks the network for."""
    seen: list[str] = []
    page = context.new_page()
    session = context.new_cdp_session(page)
    session.send("Network.enable")

    def note(event: dict[str, object]) -> None:
        response: Any = event["response"]
        if "/stable-" in response["url"] and not response.get("fromDiskCache") and response["status"] == 200:
            seen.append(str(response["url"]))

    session.on("Network.responseReceived", note)
    _click(page, appliance)
    page.close()
    return float(len([url for url in seen if "/static/" in url]))


def _from_sleep(page: Page, appliance: Appliance, rounds: int) -> tuple[float, float]:
    """Medians: seconds to the first sign of progress, and to the file tree."""
    shown, tree = [], []
    for _ in range(min(rounds, 3)):
        page.goto(f"{appliance.url}/")
        appliance.croft("services", "stop", "ide")
        poll(lambda: appliance.service("ide")["state"] == "stopped", "the IDE stops", 30)
        _let_sleep(appliance)
        began = time.monotonic()
        page.goto(f"{appliance.url}/workspace", wait_until="commit")
        page.wait_for_selector(".opening, [data-wake]", timeout=10_000)
        shown.append(time.monotonic() - began)
        _frame(page).wait_for_selector(TREE, timeout=60_000)
        tree.append(time.monotonic() - began)
    middle = len(shown) // 2
    return sorted(shown)[middle], sorted(tree)[middle]


def _let_sleep(appliance: Appliance) -> None:
    """Asleep, not stopped by a person: the wish is taken back without starting it."""
    appliance.stop()
    with sqlite3.connect(appliance.paths.database) as database:
        database.execute("DELETE FROM service_wishes")
    appliance.start()
