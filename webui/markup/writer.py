"""Markdown as tokens, and tokens as HTML: headings lowered, directions said, images as links, code left to right.

Rule: no HTML of the text's own is read, nothing defined in one place changes another (no reference links), so a block reads the same
alone and among others; that is what lets finished blocks stay while the rest is still being written.
"""

from __future__ import annotations

import re
from collections.abc import MutableMapping, Sequence
from html import escape
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

from webui.markup import places
from webui.markup.gate import allowed_address
from webui.markup.highlight import coloured
from webui.markup.unseen import direction, in_code, in_prose

_LANG = re.compile(r"[\w+#.-]{1,24}")
_TASK = re.compile(r"\[([ xX])\](?=\s)")
_SPOKEN = ("text", "link_open")
_DIRECTED = {"paragraph_open", "heading_open", "list_item_open", "th_open", "td_open"}
_CONTAINERS = {"bullet_list_open", "ordered_list_open", "blockquote_open", "table_open"}
DEEPEST = 20


def language(info: str) -> str:
    """What a fence says it holds, as one word in small letters."""
    words = info.split(None, 1)
    found = _LANG.match(words[0]) if words else None
    return found[0].lower() if found else ""


class Writer(RendererHTML):
    """Renders the tokens of one block. ``env["codes"]`` collects (language, text) of code inside prose."""

    def code_inline(self, tokens: Sequence[Token], at: int, options: Any, env: MutableMapping[str, Any]) -> str:
        text = tokens[at].content
        place = places.in_span(text)
        html = f'<code dir="ltr">{in_code(text)}</code>'
        return f"{places.opening(place)}{html}</a>" if place and not env.get("linked") else html

    def fence(self, tokens: Sequence[Token], at: int, options: Any, env: MutableMapping[str, Any]) -> str:
        token = tokens[at]
        codes = env.setdefault("codes", [])
        codes.append((language(token.info), token.content.removesuffix("\n")))
        lang, text = codes[-1]
        mark = f' data-code="{len(codes) - 1}"' if token.level else ""
        return f'<pre dir="ltr"{mark}><code{_open(token)}>{coloured(text, lang)}</code></pre>'

    def code_block(self, tokens: Sequence[Token], at: int, options: Any, env: MutableMapping[str, Any]) -> str:
        return self.fence(tokens, at, options, env)

    def text(self, tokens: Sequence[Token], at: int, options: Any, env: MutableMapping[str, Any]) -> str:
        text = tokens[at].content
        if env.get("linked"):
            return in_prose(text)
        parts, after = [], 0
        for begin, end, place in places.in_text(text):
            parts += [in_prose(text[after:begin]), places.opening(place), in_prose(place.text), "</a>"]
            after = end
        return "".join([*parts, in_prose(text[after:])])

    def image(self, tokens: Sequence[Token], at: int, options: Any, env: MutableMapping[str, Any]) -> str:
        """Never fetched: what it shows and where it lies, as a link."""
        token, address = tokens[at], str(tokens[at].attrGet("src") or "")
        said = f"{token.content.strip()} " if token.content.strip() else ""
        shown = f'{in_prose(said)}<bdi dir="ltr">({in_prose(address)})</bdi>'
        if env.get("linked") or not allowed_address(address):
            return shown
        return f'<a class="image" target="_blank" href="{escape(address)}">{shown}</a>'

    def link_open(self, tokens: Sequence[Token], at: int, options: Any, env: MutableMapping[str, Any]) -> str:
        env["linked"] = True
        address = str(tokens[at].attrGet("href") or "")
        place = None if allowed_address(address) else places.of_link(address)
        return places.opening(place) if place else f'<a target="_blank" href="{escape(address)}">'

    def link_close(self, tokens: Sequence[Token], at: int, options: Any, env: MutableMapping[str, Any]) -> str:
        env["linked"] = False
        return "</a>"

    def softbreak(self, tokens: Sequence[Token], at: int, options: Any, env: MutableMapping[str, Any]) -> str:
        return "<br>\n" if options["breaks"] else "\n"

    def hardbreak(self, tokens: Sequence[Token], at: int, options: Any, env: MutableMapping[str, Any]) -> str:
        return "<br>\n"

    def table_open(self, tokens: Sequence[Token], at: int, options: Any, env: MutableMapping[str, Any]) -> str:
        return f'<div class="wide"><table{_attributes(tokens[at])}>\n'

    def table_close(self, tokens: Sequence[Token], at: int, options: Any, env: MutableMapping[str, Any]) -> str:
        return "</table></div>\n"

    @staticmethod
    def renderAttrs(token: Token) -> str:
        """Only what :func:`prepare` put there."""
        return _attributes(token)


def prepare(tokens: Sequence[Token]) -> None:
    """Everything the text could have said about attributes goes, and what we say comes in."""
    for at, token in enumerate(tokens):
        if token.nesting < 1:
            continue
        if token.type == "heading_open":
            _lower(tokens, at)
        kept: dict[str, str] = {}
        if token.type == "ordered_list_open" and token.attrGet("start") is not None:
            kept["start"] = str(token.attrGet("start"))
        if token.type in ("th_open", "td_open") and (style := str(token.attrGet("style") or "")):
            kept["class"] = {"text-align:left": "start", "text-align:center": "middle", "text-align:right": "end"}[
                style
            ]
        if token.type in _DIRECTED:
            kept["dir"] = "auto"
        elif token.type in _CONTAINERS:
            kept["dir"] = direction(_first_words(tokens, at))
        if token.type == "list_item_open":
            _tick(tokens, at)
        token.attrs = dict(kept)


def mark_open(tokens: Sequence[Token]) -> None:
    """Mark the innermost element that the next words belong to."""
    for at in range(len(tokens) - 1, -1, -1):
        if tokens[at].type in ("fence", "code_block"):
            tokens[at].meta["open"] = True
            return
        if tokens[at].type == "inline":
            above = next(each for each in reversed(tokens[:at]) if each.nesting == 1 and not each.hidden)
            above.attrs["data-open"] = ""
            return


def _open(token: Token) -> str:
    return ' data-open=""' if token.meta.get("open") else ""


def _attributes(token: Token) -> str:
    return "".join(f' {name}="{escape(str(value))}"' for name, value in token.attrs.items())


def _lower(tokens: Sequence[Token], at: int) -> None:
    """The page has h1 and h2 of its own; many models begin with a second one."""
    tag = f"h{min(max(int(tokens[at].tag[1]) + 1, 3), 6)}"
    tokens[at].tag = tag
    closing = next(each for each in tokens[at:] if each.type == "heading_close" and each.level == tokens[at].level)
    closing.tag = tag


def _tick(tokens: Sequence[Token], at: int) -> None:
    """``[ ]`` and ``[x]`` at the start of an item become a box, which is a character and no field."""
    inline = next((each for each in tokens[at + 1 : at + 3] if each.type == "inline"), None)
    if inline is None or not inline.children or inline.children[0].type != "text":
        return
    first = inline.children[0]
    if found := _TASK.match(first.content + (" " if len(inline.children) == 1 else "")):
        box = Token("tick", "", 0, content="\u2610" if found[1] == " " else "\u2611")
        first.content = first.content[3:]
        inline.children.insert(0, box)


def _first_words(tokens: Sequence[Token], at: int) -> str:
    """The first text in a container, code left out: an Arabic list may begin with the name of a command."""
    for token in tokens[at + 1 :]:
        if token.level <= tokens[at].level:
            break
        if token.type == "inline" and token.children:
            said = "".join(child.content for child in token.children if child.type in _SPOKEN)
            if direction(said) != "auto":
                return said
    return ""


def _write_tick(self: Any, tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    return f'<span class="tick">{tokens[at].content}</span>'


def _may_link(url: str) -> bool:
    return allowed_address(url) or places.of_link(url) is not None


def parser(*, breaks: bool, tables: bool) -> MarkdownIt:
    """A parser of our own settings; ``breaks``: a new line in the text is one on the page; ``tables``: there may be tables."""
    made = MarkdownIt("commonmark", {"html": False, "breaks": breaks, "maxNesting": DEEPEST}, renderer_cls=Writer)
    made.enable(["table", "strikethrough"] if tables else ["strikethrough"]).disable(
        ["reference", "html_block", "html_inline"]
    )
    made.validateLink = _may_link  # type: ignore[method-assign]
    made.add_render_rule("tick", _write_tick)
    made.add_render_rule("s_open", lambda self, tokens, at, options, env: "<del>")
    made.add_render_rule("s_close", lambda self, tokens, at, options, env: "</del>")
    return made
