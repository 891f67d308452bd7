"""A real Chromium for the tests: Debian's, headless, quiet, trusting the appliance's own authority and nothing else new."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakKeyDictionary

from playwright.sync_api import Browser, BrowserContext, Frame, Page, sync_playwright
from playwright.sync_api import Error as PlaywrightError

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# What each person's browser met on its way, for whoever reads a failure.
TROUBLE: WeakKeyDictionary[BrowserContext, list[str]] = WeakKeyDictionary()


@contextmanager
def chromium(root_certificate: Path, *flags: str) -> Iterator[Browser]:
    """One browser process that trusts ``root_certificate``. Fails if chromium or certutil is not installed."""
    with tempfile.TemporaryDirectory(prefix="croft-browser-", ignore_cleanup_errors=True) as home:
        store = Path(home, ".pki/nssdb")
        store.mkdir(parents=True)
        subprocess.run(["certutil", "-d", f"sql:{store}", "-N", "--empty-password"], check=True, capture_output=True)
        subprocess.run(
            ["certutil", "-d", f"sql:{store}", "-A", "-t", "C,,", "-n", "croft", "-i", str(root_certificate)],
            check=True,
            capture_output=True,
        )
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path="/usr/bin/chromium", args=[*FLAGS, *flags], env={**os.environ, "HOME": home}
            )
            try:
                yield browser
            finally:
                browser.close()


def person(browser: Browser) -> BrowserContext:
    """A fresh profile, as another person or another machine would have."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(30_000)
    TROUBLE[context] = told = []
    context.on(
        "response", lambda answer: told.append(f"{answer.status} {answer.url}") if answer.status >= 400 else None
    )
    context.on("requestfailed", lambda request: told.append(f"{request.failure} {request.url}"))
    context.on("weberror", lambda error: told.append(f"error {error.error}"))
    context.on("console", lambda said: told.append(f"{said.type} {said.text}") if said.type == "error" else None)
    return context


def sign_in(page: Page, link: str, email: str = "owner@example.org", name: str = "Amal") -> None:
    """Follow a sign-in link to the end."""
    page.goto(link)
    if page.locator("input[name=email]").count():
        page.fill("input[name=email]", email)
        page.fill("input[name=name]", name)
    page.locator("form[action='/sign-in/link'] button").click()
    page.wait_for_url(lambda url: "/sign-in" not in url)


def editor_frame(page: Page, seconds: float = 90) -> Frame:
    """The editor inside the workspace page, once its file tree is there.

    A container that starts adds a network interface to this machine, and Chromium then drops what it was loading
    (ERR_NETWORK_CHANGED), as on a laptop that changes networks. The page is then loaded again, as a person would.
    """
    told = TROUBLE.setdefault(page.context, [])
    deadline = time.monotonic() + seconds
    while True:
        try:
            return _frame_with_tree(page, min(20.0, max(1.0, deadline - time.monotonic())))
        except PlaywrightError as error:
            dropped = any("ERR_NETWORK_CHANGED" in one for one in told)
            if time.monotonic() >= deadline:
                shown = picture(page, "no-file-tree")
                met = "\n".join(one[:300] for one in told[-25:])
                raise AssertionError(f"no file tree; see {shown}. The browser met:\n{met}") from error
            if dropped:
                told.clear()
                page.reload()


def _frame_with_tree(page: Page, seconds: float) -> Frame:
    handle = page.wait_for_selector(".editor iframe")
    frame = handle.content_frame() if handle else None
    assert frame is not None
    frame.wait_for_selector(".explorer-folders-view, .explorer-viewlet", timeout=seconds * 1000)
    return frame


def picture(page: Page, name: str) -> Path:
    """Keep what the page shows, for whoever reads a failure."""
    path = Path(__file__).resolve().parents[1] / ".artifacts" / f"{name}.png"
    page.screenshot(path=path)
    return path
