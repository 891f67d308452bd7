"""Opening the editor in a real browser: awake, asleep, and against code-server behind a plain Caddy."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from string import Template
from typing import Any
from urllib.parse import urljoin

from measure import Figure, NotRun, cpu_seconds, free_port, interleave, medians, ratio, tree, wait_for
from playwright.sync_api import Browser, BrowserContext, Frame, Page
from stage import BARE_HOST, caddy, running_appliance, scratch
from support.appliance import Appliance
from support.browser import chromium, person, sign_in
from support.waiting import poll

# Visits of each; from then on the browser has every file. It compiles them anew all the same: a Chromium that loads in the
# background (BackgroundResourceFetch) consumes the code it kept of classic scripts, and of modules, as the workbench is, of none.
WARM = 2
TREE = ".explorer-folders-view, .explorer-viewlet"
# The same TLS, the same authority and HTTP/2, so that what differs is what Croft adds. The browser trusts the root.
BARE = Template("""
{
	admin off
	auto_https disable_redirects
	skip_install_trust
	http_port $http
	https_port $https
	storage file_system $folder/storage
	pki {
		ca local {
			root {
				cert $root.crt
				key $root.key
			}
		}
	}
}
https://$host:$https {
	bind 127.0.0.1
	tls internal
	reverse_proxy unix/$socket
}
""")


def opening(rounds: int) -> list[Figure]:
    """Five figures from one appliance and one signed-in person; the browser's caches are warm, as on every later day.

    Both editors are opened from another page of their own site, in a page that stays open: the way a person comes. Never
    while the other still starts: its scripts and its processes would take what the one that is measured needs.
    """
    with _desk() as (appliance, browser, context):
        page = context.new_page()
        with _bare(appliance) as plain:
            bare = person(browser).new_page()
            both = {"croft": lambda: _click(page, appliance), "plain": lambda: _open_bare(bare, plain)}
            interleave(both, WARM)
            found = interleave(both, rounds)
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
    """A plain Caddy with TLS in front of the same code-server. Yields its address."""
    with scratch() as folder:
        https = free_port()
        text = BARE.substitute(
            folder=folder,
            host=BARE_HOST,
            http=free_port(),
            https=https,
            root=appliance.paths.caddy_data / "caddy/pki/authorities/local/root",
            socket=appliance.paths.socket("ide"),
        )
        with caddy(folder, text):
            yield f"https://{BARE_HOST}:{https}/?folder={appliance.paths.workspace}"


def _click(page: Page, appliance: Appliance) -> float:
    """Seconds from asking for the workspace page to the editor's file tree."""
    _settle(page, f"{appliance.url}/")
    began = time.monotonic()
    page.goto(f"{appliance.url}/workspace", wait_until="commit")
    _frame(page).wait_for_selector(TREE, timeout=60_000)
    took = time.monotonic() - began
    page.goto(f"{appliance.url}/")
    return took


def _settle(page: Page, address: str) -> None:
    """Go to ``address`` and wait until the last visit is over: nothing of ours runs for a second (at most 15).

    What it left in the browser's memory is collected. Minutes later it would be gone; seconds later that is luck, and worth
    more than a second, whoever serves.
    """
    page.goto(address)
    page.request_gc()
    quiet, deadline = 0, time.monotonic() + 15
    while quiet < 4 and time.monotonic() < deadline:
        before, began = _busy(), time.monotonic()
        time.sleep(0.25)
        quiet = quiet + 1 if _busy() - before < 0.15 * (time.monotonic() - began) else 0


def _busy() -> float:
    """CPU seconds so far of what was started here: the browser, the appliance, code-server."""
    return cpu_seconds(pid for pid in tree(os.getpid()) if pid != os.getpid())


def _frame(page: Page) -> Frame:
    handle = page.wait_for_selector(".editor iframe")
    found = handle.content_frame() if handle else None
    if found is None:
        raise NotRun("the workspace page has no frame")
    return found


def _open_bare(page: Page, address: str) -> float:
    elsewhere = urljoin(address, "/healthz")
    _settle(page, elsewhere)
    began = time.monotonic()
    page.goto(address, wait_until="commit")
    page.wait_for_selector(TREE, timeout=60_000)
    took = time.monotonic() - began
    page.goto(elsewhere)
    return took


def _fetched_again(context: BrowserContext, appliance: Appliance) -> float:
    """How many of code-server's versioned files that one visit has fetched the next asks the network for again.

    The page of its worker has another address at each visit, whoever serves it, and is therefore none of them.
    """
    first, second = _fetched(context, appliance), _fetched(context, appliance)
    return float(len(second["network"] & (first["network"] | first["cache"])))


def _fetched(context: BrowserContext, appliance: Appliance) -> dict[str, set[str]]:
    """Addresses of the versioned files of one visit, by where they came from."""
    found: dict[str, set[str]] = {"network": set(), "cache": set()}
    page = context.new_page()
    session = context.new_cdp_session(page)
    session.send("Network.enable")

    def note(event: dict[str, object]) -> None:
        response: Any = event["response"]
        if "/stable-" in response["url"] and "/static/" in response["url"] and response["status"] == 200:
            found["cache" if response.get("fromDiskCache") else "network"].add(str(response["url"]))

    session.on("Network.responseReceived", note)
    _click(page, appliance)
    page.close()
    return found


def _from_sleep(page: Page, appliance: Appliance, rounds: int) -> tuple[float, float]:
    """Medians: seconds to the first sign of progress, and to the file tree."""
    shown, tree = [], []
    for _ in range(min(rounds, 3)):
        appliance.croft("services", "stop", "ide")
        poll(lambda: appliance.service("ide")["state"] == "stopped", "the IDE stops", 30)
        _let_sleep(appliance)
        page.goto(f"{appliance.url}/")  # where the click is: a browser that has been here, a daemon that is up
        began = time.monotonic()
        page.goto(f"{appliance.url}/workspace", wait_until="commit")
        shown.append(_first_paint(page))
        _frame(page).wait_for_selector(TREE, timeout=60_000)
        tree.append(time.monotonic() - began)
    middle = len(shown) // 2
    return sorted(shown)[middle], sorted(tree)[middle]


def _first_paint(page: Page) -> float:
    """Seconds from the click to the browser's first paint of content, by its own clock (Paint Timing, W3C).

    The progress is part of the page's first bytes, so it is on that paint.
    """
    if not page.locator(".opening").count():
        raise NotRun("the workspace page shows no progress")
    painted = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0"
    milliseconds: float = page.wait_for_function(painted).json_value()
    return milliseconds / 1000


def _let_sleep(appliance: Appliance) -> None:
    """Asleep, not stopped by a person: the wish is taken back without starting it."""
    appliance.stop()
    with sqlite3.connect(appliance.paths.database) as database:
        database.execute("DELETE FROM service_wishes")
    appliance.start()
