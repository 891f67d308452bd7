"""The last gate: whatever made the HTML, only what is on this list leaves it (WEB-13).

Rule: an element or attribute is added here with a reason, or not at all: no handlers, no styles, no ids, no images, no forms.
"""

from __future__ import annotations

import re

import nh3

from webui.markup.highlight import CLASSES

SCHEMES = frozenset({"http", "https", "mailto"})
_ADDRESS = re.compile(r"(?:https?://|mailto:)", re.I)
_WORD = {"dir": frozenset({"auto", "ltr", "rtl"}), "role": frozenset({"link"}), "tabindex": frozenset({"0"})}

TAGS = frozenset(
    {"p", "br", "hr", "ul", "ol", "li", "blockquote", "strong", "em", "del", "code", "pre", "span", "bdi", "div", "a"}
    | {"h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td"}
)
_BLOCK = {"dir", "data-open"}  # data-open: where text that comes next is put meanwhile
ATTRIBUTES = {
    **{tag: _BLOCK for tag in TAGS},
    "a": {"href", "target", "dir", "role", "tabindex", "data-path", "data-line"},
    "ol": {*_BLOCK, "start"},
    "pre": {*_BLOCK, "data-code"},  # which of the block's pieces of code this is
    "span": {"dir", "title"},
}
ALLOWED_CLASSES = {
    "span": {*CLASSES, "sign", "tick"},
    "a": {"file", "image"},
    "div": {"wide"},
    "td": {"start", "middle", "end"},
    "th": {"start", "middle", "end"},
}


def passed(html: str) -> str:
    """``html`` with nothing in it that is not on the list."""
    return nh3.clean(
        html,
        tags=set(TAGS),
        clean_content_tags=set(),
        attributes={tag: set(names) for tag, names in ATTRIBUTES.items()},
        attribute_filter=_attribute,
        strip_comments=True,
        link_rel="noopener noreferrer",
        generic_attribute_prefixes=set(),
        url_schemes=set(SCHEMES),
        allowed_classes={tag: set(names) for tag, names in ALLOWED_CLASSES.items()},
    )


def allowed_address(address: str) -> bool:
    """Whether a link may lead there: somewhere else by http, https or mail, never to a page of ours by its path alone."""
    return _ADDRESS.match(address) is not None


def _attribute(tag: str, name: str, value: str) -> str | None:
    if name == "href":
        return value if allowed_address(value) else None
    if name == "target":
        return "_blank"
    if name in ("start", "data-line", "data-code"):
        return value if value.isascii() and value.isdigit() and len(value) < 10 else None
    if name in _WORD:
        return value if value in _WORD[name] else None
    return value
