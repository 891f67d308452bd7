"""A preview of every page in real Chromium, and who watches what a page may not do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import Browser, BrowserContext, Page, async_playwright
from support.browser import FLAGS
from support.preview import ROOT, Preview, Stage, as_event, plain_settings
from support.screens import SANDBOX_NOTE, axe_source

from webui.i18n import Catalogue


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    """The real catalogue; an unknown key is an error."""
    return Catalogue.load(ROOT / "webui/locale", strict=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(catalogue: Catalogue) -> AsyncIterator[SimpleNamespace]:
    """The preview, listening on a free port; ``stage`` is replaced before each test."""
    runner = web.AppRunner(web.Application())
    holder = SimpleNamespace(stage=Stage())
    first = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = first.sockets[0].getsockname()[1]
    first.close()
    await first.wait_closed()
    settings = plain_settings(port)
    holder.preview = Preview(holder.stage, settings, catalogue)
    runner = web.AppRunner(holder.preview.app(), access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    holder.base, holder.ide = settings.ui_origin, settings.ide_origin
    yield holder
    holder.preview.stage.push("drop", None)
    await runner.cleanup()


@pytest.fixture
def stage(server: SimpleNamespace) -> Stage:
    server.preview.stage = Stage(base=server.base, ide=server.ide)
    return server.preview.stage


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        yield started
        await started.close()


class Watch:
    """Everything a page may not do, as it happens."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.allowed: tuple[str, ...] = ()

    async def context(self, browser: Browser, base: str, ide: str, **options: Any) -> BrowserContext:
        context = await browser.new_context(**options)
        self.allowed = (base, ide)
        await context.add_init_script(
            "addEventListener('securitypolicyviolation', (e) => console.error('CSP', e.violatedDirective, e.sample))"
        )
        context.on(
            "console",
            lambda message: (
                message.type in ("error", "warning")
                and not message.text.startswith(SANDBOX_NOTE)
                and self.faults.append(message.text)
            ),
        )
        context.on("weberror", lambda error: self.faults.append(str(error.error)))
        context.on("request", lambda request: request.url.startswith(self.allowed) or self.faults.append(request.url))
        return context


@pytest_asyncio.fixture(loop_scope="module")
async def watch(stage: Stage) -> AsyncIterator[Watch]:
    """Fails the test that let a page break its policy, log an error or call outside."""
    watched = Watch()
    yield watched
    assert watched.faults == []


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser, stage: Stage, watch: Watch) -> AsyncIterator[Page]:
    context = await watch.context(browser, stage.base, stage.ide, viewport={"width": 1440, "height": 900})
    opened = await context.new_page()
    opened.set_default_timeout(15_000)
    yield opened
    stage.push("drop", None)
    await context.close()


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core, installed once into the checkout's cache."""
    return axe_source()


@pytest.fixture
def services_event(stage: Stage, catalogue: Catalogue) -> Callable[[], dict[str, Any]]:
    return lambda: as_event(stage, catalogue)
