"""The page that shows a token once: settings of other programs that hold as they are, and a test of the token (in Chromium)."""

from __future__ import annotations

import json
import tomllib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from openai import AsyncOpenAI
from playwright.async_api import Page
from support import screens
from support.screens import Booth, Screen
from support.scripted_engine import Fail, Say, ScriptedEngine, scripted_engine

from webui.tool_settings import filled_in

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[ScriptedEngine]:
    async with scripted_engine(model="scripted-7b", key="") as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def booth(engine: ScriptedEngine) -> AsyncIterator[Booth]:
    async with screens.chromium() as browser, screens.booth(browser) as opened:
        await opened.front.use_endpoint(engine.base, "scripted-7b")
        yield opened


async def made(booth: Booth, lang: str, name: str) -> Page:
    """The page of a token that was just made in the form."""
    page = await booth.visit(Screen("new", "/account/tokens/new", role="operator"), lang)
    await page.fill("input[name=name]", name)
    await page.uncheck("input[name=scope_read]")
    await page.check("input[name=scope_ai]")
    await page.click("main form button.main")
    await page.wait_for_selector(".tool-test")
    return page


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("lang", ["en", "ar"])
async def test_the_settings_are_there_and_the_test_says_what_happened(
    booth: Booth, engine: ScriptedEngine, lang: str, tmp_path: Any
) -> None:
    page = await made(booth, lang, f"editor {lang}")
    result = page.locator("[data-field=result]")
    engine.script(Say("Hello <b>there</b>."))
    await page.click("[data-do=test]")
    await page.wait_for_selector("[data-field=result][data-kind=good]")
    text = await result.inner_text()
    assert "Hello <b>there</b>." in text
    assert "scripted-7b" in text
    engine.script(Fail(500, json.dumps({"error": {"message": "out of <i>memory</i>"}})))
    await page.click("[data-do=test]")
    await page.wait_for_selector("[data-field=result][data-kind=bad]")
    assert "out of <i>memory</i>" in await result.inner_text()
    assert await page.locator("details[name=tool]").count() == 5
    await page.click("details[name=tool] >> nth=2 >> summary")
    assert await page.locator("details[name=tool][open]").count() == 1
    token = await page.get_attribute(".tool-test", "data-token") or ""
    assert f"OPENAI_API_KEY={token}" in await page.inner_text("details[open] code")
    faults = [fault for fault in booth.told() if "status of 502" not in fault]
    assert faults + await screens.ask_axe(page, booth.axe) == []
    await page.screenshot(path=tmp_path / f"token.{lang}.png", full_page=True)


@pytest.mark.asyncio(loop_scope="module")
async def test_without_a_model_the_test_says_so(booth: Booth, engine: ScriptedEngine) -> None:
    page = await made(booth, "en", "early")
    await booth.front.desk.change({"ai.engine": "nobody"}, "console")
    try:
        await page.click("[data-do=test]")
        await page.wait_for_selector("[data-field=result][data-kind=bad]")
        assert "no model is in use" in await page.inner_text("[data-field=result]")
    finally:
        await booth.front.desk.change({"ai.engine": "remote"}, "console")
    assert booth.told() == []


def test_every_text_is_what_its_program_reads() -> None:
    """Python compiles, YAML and shell hold the address and the token, and nothing is left to fill in."""
    tools = {tool.key: tool.text for tool in filled_in("https://croft.example", "croft_api_x")}
    compile(tools["python"], "settings", "exec")
    body = tools["curl"].partition("-d '")[2].rstrip("'")
    assert json.loads(body)["model"] == "croft"
    for text in tools.values():
        assert "https://croft.example/v1" in text
        assert "croft_api_x" in text
    assert AsyncOpenAI(base_url="https://croft.example/v1", api_key="croft_api_x").base_url.path == "/v1/"
    # The indented list under "models" is one entry of plain scalars: the same as TOML once its signs are changed.
    entry = tools["continue"].partition("models:\n")[2].partition("    roles:")[0].replace("  - ", "    ")
    plain = "\n".join(f'{line.split(": ")[0].strip()} = "{line.split(": ")[1]}"' for line in entry.splitlines() if line)
    assert tomllib.loads(plain) == {
        "name": "Croft",
        "provider": "openai",
        "model": "croft",
        "apiBase": "https://croft.example/v1",
        "apiKey": "croft_api_x",
    }
