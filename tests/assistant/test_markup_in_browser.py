"""Every payload in real Chromium under our policy: as a page that was sent, and as an answer that is being written."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import Page
from support import screens
from support.payloads import payloads
from support.screens import Booth, Screen

from webui import keys
from webui.markup import Streaming, render
from webui.markup.gate import TAGS

# Elements of a block, and whether a script ran. The page's own pieces stand around blocks, never in them.
_LOOK = """() => ({
  pwned: window.pwned ?? null,
  elements: [...new Set([...document.querySelectorAll('.block.prose *, .block.code pre > code *')].map((e) => e.localName))],
  handlers: [...document.querySelectorAll('.blocks *')].flatMap((e) => e.getAttributeNames())
    .filter((n) => n.startsWith('on') || n === 'style'),
  links: [...document.querySelectorAll('.block a[href]')].map((a) => [a.protocol, a.rel]),
  blocks: document.querySelectorAll('.block').length,
})"""
# Writes each list of patches in turn; answers which of them made a script run.
_WRITE = """async ([module, every]) => {
  const { put } = await import(module);
  const ran = [];
  for (const [n, patches] of every.entries()) {
    document.querySelector('#written')?.remove();
    const list = Object.assign(document.createElement('div'), { id: 'written', className: 'blocks' });
    document.querySelector('main').append(list);
    for (const patch of patches) put(list, patch);
    await null;
    if (window.pwned) ran.push(n);
    window.pwned = undefined;
  }
  return ran;
}"""
_MODULE = "() => new URL('blocks.js', document.querySelector('script[src]').src).href"


def written(text: str, step: int) -> list[dict[str, Any]]:
    """The patches of a text that comes ``step`` characters at a time."""
    stream = Streaming()
    patches = [patch for end in range(step, len(text), step) for patch in stream.feed(text[:end])]
    return [patch.data() for patch in [*patches, *stream.finish(text)]]


@pytest.fixture
async def booth() -> AsyncIterator[Booth]:
    async with screens.chromium() as chromium, screens.booth(chromium) as made:
        yield made


async def opened(booth: Booth, texts: list[str]) -> Page:
    """A conversation whose answers are ``texts``, as its owner sees it."""
    page = await booth.visit(Screen("assistant", "/assistant"), "en")
    store = await booth.front.app[keys.CONVERSATIONS].get()
    conversation = await store.create((await screens.member(booth.front, "admin")).id, texts[0][:80])
    parent = None
    for text in texts:
        asked = await store.add(conversation, parent, "user", text)
        parent = (await store.add(conversation, asked.id, "assistant", text)).id
    await page.goto(f"{booth.address}/assistant/{conversation.id}")
    await page.wait_for_selector(".block")
    return page


async def check(page: Page, blocks: int) -> None:
    await touch(page)
    seen = await page.evaluate(_LOOK)
    assert seen["pwned"] is None, "a script ran"
    assert set(seen["elements"]) <= TAGS
    assert seen["handlers"] == []
    assert {protocol for protocol, _ in seen["links"]} <= {"http:", "https:", "mailto:"}
    assert all({"noopener", "noreferrer"} <= set(rel.split()) for _, rel in seen["links"])
    assert seen["blocks"] == blocks


async def touch(page: Page) -> None:
    """What a person does who reads: the pointer goes over it, everything gets the focus once."""
    await page.evaluate("""() => { for (const e of document.querySelectorAll('.block *')) {
      e.dispatchEvent(new MouseEvent('mouseover', { bubbles: true })); e.focus?.(); } }""")


async def test_no_payload_runs_or_asks_the_outside(booth: Booth) -> None:
    """WEB-13, AI-9, PRV-5: as a page the server sent, in several conversations."""
    every = payloads()
    for start in range(0, len(every), 160):
        texts = ["\n\n".join([*every[at : at + 8]]) for at in range(start, min(start + 160, len(every)), 8)]
        page = await opened(booth, [*texts, *every[start : start + 20]])
        await check(page, sum(len(render(text)) for text in [*texts, *every[start : start + 20]]))
    assert booth.told() == []


async def test_no_payload_runs_while_it_is_written(booth: Booth) -> None:
    """WEB-13, WEB-3: the same through the page's own script, without any sink that makes markup out of strings."""
    page = await opened(booth, ["An answer."])
    every = [written(payload, 7) for payload in payloads()]
    every.append(written("\n\n".join(payloads()), 50))
    ran = await page.evaluate(_WRITE, [await page.evaluate(_MODULE), every])
    assert [(payloads()[n : n + 1], "ran") for n in ran] == []
    await check(page, await page.locator(".block").count())
    assert booth.told() == []


async def test_what_is_written_ends_as_what_is_sent(booth: Booth) -> None:
    """An answer that streamed looks as it does after a reload: words, code and its raw text."""
    text = (
        "# عنوان\n\nSee `src/a.py:3` and **bold** words here\n\n- one `x`\n- اثنان\n  ```py\n  x = 1\n  ```\n\n"
        '```python\ndef f(x):  # تعليق\n    return "نص" + x\n```\n\n| a | b |\n|---|--:|\n| 1 | مرحبا |\n'
    )
    page = await opened(booth, [text])
    await page.evaluate(_WRITE, [await page.evaluate(_MODULE), [written(text, 1)]])
    read = """(where) => [...document.querySelectorAll(where + ' .block')].map((e) =>
      [e.querySelector('[data-field=html]')?.innerHTML ?? e.innerHTML, e.dataset.code ?? null, e.dataset.lang ?? null])"""
    sent, streamed = await page.evaluate(read, ".turn.answer"), await page.evaluate(read, "#written")
    assert [[re.sub(r' rel="[^"]*"', "", html), *rest] for html, *rest in streamed] == [
        [re.sub(r' rel="[^"]*"', "", html), *rest] for html, *rest in sent
    ]
    assert booth.told() == []
