"""Rendering while a text is being written: the same in the end as rendered whole, and never more work than the text is long."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from webui.markup import Add, Block, Patch, Streaming, render
from webui.markup import streaming as module

# Pieces that begin, end and interrupt each other's structures.
PIECES = (
    "word ", "كلمة ", "\n", "\n\n", "# ", "## t\n", "---\n", "===\n", "- ", "* ", "1. ", "12) ", "> ", "    ", "\t", "```", "```py\n",
    "~~~\n", "````\n", "``", "`", "| a | b |\n", "|--|--|\n", "|-", "**", "_", "~~", "[x](https://a.b)", "![i](https://a.b/c.png)",
    "[ ] ", "[x] ", "\\", "&amp;", "<b>", "<!--", "-->", "</p>", "src/a.py:3 ", "`src/a.py`", "def f():\n", "# تعليق\n", "\u202e",
    "\r\n", "\r", "\0", "\ud800", "[r]: https://a.b\n", "[r]", "+ ", "  \n", "* * *", "-", "=", "  ",
)  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES), max_size=24).map("".join)


class Page:
    """What a reader sees who applies every patch, each once."""

    def __init__(self) -> None:
        self.blocks: dict[int, Block] = {}
        self.added: dict[int, str] = {}

    def take(self, patches: list[Patch]) -> None:
        for patch in patches:
            if isinstance(patch, Add):
                shown = self.blocks[patch.n]
                assert not shown.done, "a finished block never changes"
                assert shown.kind == "code" or "data-open" in shown.html, "there is no place for these words"
                self.added[patch.n] = self.added.get(patch.n, "") + patch.add
            else:
                before = self.blocks.get(patch.n)
                assert before is None or not before.done, "a finished block never changes"
                self.blocks[patch.n] = patch
                self.added.pop(patch.n, None)


@settings(max_examples=400, deadline=None)
@given(TEXTS, st.lists(st.integers(1, 40), max_size=40))
def test_the_end_is_what_rendering_it_whole_gives(text: str, cuts: list[int]) -> None:
    """For every text and however it comes: whatever was fed is a prefix, and ending there gives that prefix rendered whole."""
    page, stream, at = Page(), Streaming(), 0
    for cut in cuts:
        at += cut
        page.take(stream.feed(text[:at]))
    page.take(stream.finish(text))
    wanted = render(text)
    seen = [page.blocks[n] for n in sorted(page.blocks) if page.blocks[n] != Block(n, "prose", "", done=False)]
    assert seen == wanted
    assert stream.blocks == wanted


@settings(max_examples=60, deadline=None)
@given(TEXTS)
def test_every_prefix_can_be_the_end(text: str) -> None:
    """Stopping is possible after each character."""
    for end in range(0, len(text), 3):
        stream = Streaming()
        for at in range(1, end + 1):
            stream.feed(text[:at])
        stream.finish(text[:end])
        assert stream.blocks == render(text[:end])


def test_words_are_seen_at_once() -> None:
    """The first token is shown, and each one after it."""
    stream = Streaming()
    (first,) = stream.feed("Hel")
    assert isinstance(first, Block)
    assert not first.done
    assert "Hel" in first.html
    assert stream.feed("Hello") == [Add(0, "lo")]
    assert stream.feed("Hello the") == [Add(0, " the")]


def test_code_is_code_before_its_fence_is_closed() -> None:
    stream = Streaming()
    stream.feed("So:\n\n```python\nx = 1\n")
    prose, code = stream.blocks
    assert prose.done
    assert (code.kind, code.lang, code.code, code.done) == ("code", "python", "x = 1", False)
    stream.feed("So:\n\n```python\nx = 1\ny")
    assert stream.feed("So:\n\n```python\nx = 1\nyes") == [Add(1, "es")]
    (closed,) = stream.feed("So:\n\n```python\nx = 1\nyes\n```\n")
    assert isinstance(closed, Block)
    assert (closed.code, closed.done) == ("x = 1\nyes", True)


def test_half_a_fence_is_not_shown_as_words() -> None:
    """A line that may still become something else waits for its next character."""
    stream = Streaming()
    stream.feed("A line\n")
    shown = [patch for end in range(1, 4) for patch in stream.feed("A line\n" + "```"[:end])]
    assert not any("`" in (patch.add if isinstance(patch, Add) else patch.html) for patch in shown)
    stream.feed("A line\n-")
    assert "<h" not in stream.blocks[0].html


def test_who_comes_later_sees_what_the_others_see() -> None:
    stream, page = Streaming(), Page()
    text = "One *two* three\n\n1. four\n2. five `six` seven"
    for end in range(1, len(text) + 1):
        page.take(stream.feed(text[:end]))
    words = "".join(block.html for block in stream.blocks)
    assert "seven" in words
    assert len(stream.blocks) == len(page.blocks)


TEXT_KINDS = {
    "paragraphs": "The quick *brown* fox, see `src/a.py:3`.\n\n",
    "one paragraph": "The quick *brown* fox and `code` here. ",
    "one list": "1. The quick **brown** fox `x`\n   and more\n",
    "one block of code": "def f(x):  # what it does\n    return 'text' + str(x)\n",
    "a list with code": "- item\n  ```py\n  x = 1\n  y = [2]\n  ```\n",
    "quotes": "> quoted *text* here\n> > and deeper\n",
    "a table": "| a `x` | b |\n",
    "one word": "a",
    "stars": "*a **b ",
    "backticks": "`a ``b ",
    "brackets": "[a](",
}


@pytest.mark.parametrize("kind", TEXT_KINDS)
def test_work_grows_with_the_text_and_not_with_its_square(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """10,000 tokens as they come: characters read, and characters sent, are counted, so that the machine's mood does not matter."""
    start = {"one block of code": "```python\n", "a table": "| a | b |\n|--|--|\n"}.get(kind, "")
    text = start + TEXT_KINDS[kind] * (40_000 // len(TEXT_KINDS[kind]))
    read = 0
    whole = module.groups

    def counted(text: str, *, breaks: bool = False) -> object:
        nonlocal read
        read += len(text)
        return whole(text, breaks=breaks)

    monkeypatch.setattr(module, "groups", counted)
    stream, sent, began = Streaming(), 0, time.process_time()
    for end in range(4, len(text) + 1, 4):
        for patch in stream.feed(text[:end]):
            sent += len(patch.add if isinstance(patch, Add) else patch.html + patch.code)
    stream.finish(text)
    spent = time.process_time() - began
    assert read < 2 * (module.CREDIT + 2) * len(text)
    assert sent < 12 * module.CREDIT * len(text)
    assert spent < 30, "10,000 tokens take a few seconds at most"
