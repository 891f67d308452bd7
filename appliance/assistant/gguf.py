"""What the header of a model's file says of it: name, shape, context, whether its chat template knows tools.

Layout: the GGUF specification, version 2 and 3 (ggml, docs/gguf.md). Rule: the file is somebody's; whatever it holds, reading ends
soon, in little memory, with facts or with Invalid.
"""

from __future__ import annotations

import io
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.assistant.catalogue import Shape
from appliance.errors import Invalid

MAGIC = b"GGUF"
KEYS_MOST = 2048
TEXT_MOST = 1 << 20  # a chat template is the longest text there is
HEADER_MOST = 64 << 20  # vocabularies lie in the header
_FIXED = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9
_ARCHITECTURE = "general.architecture"
_NAMES = ("general.name", "tokenizer.chat_template")
_NUMBERS = (
    "context_length", "block_count", "embedding_length",
    "attention.head_count", "attention.head_count_kv", "attention.key_length",
)  # fmt: skip
_KEPT_ITEMS = 1024  # of an array of numbers: layers
_TEXTS_MOST = (
    1_000_000  # in all arrays together: words of a vocabulary and their merges, half a million where there are many
)


@dataclass(frozen=True)
class Facts:
    """``shape`` is None where the header does not say enough; ``context`` is 0 then."""

    name: str
    architecture: str
    context: int
    shape: Shape | None
    tools: bool


def read(path: Path) -> Facts:
    """Raises Invalid for a file that is no model of this format, OSError when it cannot be read."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with _Header(io.FileIO(fd)) as file:
        try:
            architecture = str(_keys(file, (_ARCHITECTURE,)).get(_ARCHITECTURE, ""))
            return _facts(architecture, _keys(file, (*_NAMES, *(f"{architecture}.{name}" for name in _NUMBERS))))
        except (struct.error, ValueError, TypeError) as error:
            raise _not_a_model() from error


class _Header(io.BufferedReader):
    """The file, and how many texts in arrays it may still have: each costs a look, however short it is."""

    texts = _TEXTS_MOST


def _not_a_model() -> Invalid:
    return Invalid(
        "cannot use the file: it is not a model in GGUF format", hint="Choose a file whose name ends in .gguf.",
        code="not_a_model",
    )  # fmt: skip


def _facts(architecture: str, keys: dict[str, Any]) -> Facts:
    def number(name: str) -> int:
        return _count(keys.get(f"{architecture}.{name}"))

    return Facts(
        name="".join(filter(str.isprintable, str(keys.get("general.name", ""))[:100])),
        architecture=architecture[:40],
        context=number("context_length"),
        shape=_shape(keys.get(f"{architecture}.attention.head_count_kv", number("attention.head_count")), number),
        tools="tools" in str(keys.get("tokenizer.chat_template", "")),
    )


def _shape(kv_heads: Any, number: Any) -> Shape | None:
    layers, heads = number("block_count"), number("attention.head_count")
    head = number("attention.key_length") or (number("embedding_length") // heads if heads else 0)
    if isinstance(kv_heads, list):  # one for each layer; 0 for those that keep no cache
        with_cache = [count for count in map(_count, kv_heads) if count]
        layers, kv_heads = len(with_cache), max(with_cache, default=0)
    kv_heads = _count(kv_heads)
    return Shape(layers, kv_heads, head) if layers and kv_heads and head else None


def _count(found: Any) -> int:
    """A number that can be reckoned with; 0 for anything else that stands in its place."""
    return found if isinstance(found, int) and 0 <= found < 1 << 31 else 0


def _keys(file: _Header, wanted: tuple[str, ...]) -> dict[str, Any]:
    """The values of ``wanted``, from the beginning of the file. Only they are kept: a header may hold 64 MiB of others."""
    file.seek(0)
    file.texts = _TEXTS_MOST
    if file.read(4) != MAGIC:
        raise ValueError("no magic")
    version, _tensors, count = struct.unpack("<IQQ", file.read(20))
    if version not in (2, 3) or count > KEYS_MOST:
        raise ValueError("not a version we know")
    found = {}
    for _ in range(count):
        name = _text(file)
        value = _value(file, _number(file, "I"))
        if file.tell() > HEADER_MOST:
            raise ValueError("the header does not end")
        if name in wanted:
            found[name] = value
            if len(found) == len(wanted):
                break
    return found


def _number(file: _Header, form: str) -> Any:
    return struct.unpack("<" + form, file.read(struct.calcsize("<" + form)))[0]


def _text(file: _Header) -> str:
    length = _number(file, "Q")
    if length > TEXT_MOST:
        raise ValueError("a text that is too long")
    data = file.read(length)
    if len(data) != length:
        raise ValueError("it ends too early")
    return data.decode("utf-8", "replace")


def _value(file: _Header, kind: int) -> Any:
    if kind == _TEXT:
        return _text(file)
    if kind == _ARRAY:
        return _array(file)
    return _number(file, _FIXED[kind]) if kind in _FIXED else _unknown()


def _array(file: _Header) -> list[Any]:
    kind, count = _number(file, "I"), _number(file, "Q")
    if kind in _FIXED:
        size = struct.calcsize("<" + _FIXED[kind])
        if count <= _KEPT_ITEMS:
            return list(struct.unpack(f"<{count}{_FIXED[kind]}", file.read(count * size)))
        _skip(file, count * size)
    elif kind == _TEXT:  # a vocabulary: its length is all that would matter
        file.texts -= count
        if file.texts < 0:
            raise ValueError("more words than there are")
        for _ in range(count):
            _skip(file, _number(file, "Q"))
    else:
        _unknown()
    return []


def _skip(file: _Header, count: int) -> None:
    if file.tell() + count > HEADER_MOST:
        raise ValueError("the header does not end")
    file.seek(count, os.SEEK_CUR)


def _unknown() -> Any:
    raise ValueError("a kind of value that is not known")
