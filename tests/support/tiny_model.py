"""Language models written in a moment: random numbers in the shape of a llama, half a megabyte or as many as a real one has.

Its words are noise, its serving is real: llama.cpp loads it, applies its chat template, streams and stops as it does with a model
of gigabytes. The numbers come from a fixed seed, so it says the same noise in every run.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np


@dataclass(frozen=True)
class Shape:
    """Of the network: numbers a token is, attention heads, blocks, and numbers in the middle of each."""

    width: int = 64
    heads: int = 4
    blocks: int = 2
    forward: int = 128


TINY = Shape()
# 705 MiB in half precision: as many bytes as the default model of a machine with 2 GB has, and as much work for each of them.
REAL = Shape(width=1024, heads=16, blocks=28, forward=3072)

WORDS = (
    "\u2581the",
    "\u2581a",
    "\u2581is",
    "\u2581to",
    "\u2581run",
    "\u2581file",
    "\u2581yes",
    "\u2581no",
    "\u2581and",
)
WORDS += ("\u2581python", "\u2581print", "\u2581hello")
TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}<assistant>"
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6  # token types of the format


def tiny_model(folder: Path, context: int = 512, name: str = "tiny") -> Path:
    """Write ``folder/NAME.gguf``, a model that was trained (so it says) on ``context`` tokens; 4096 does for chats."""
    return _write(folder / f"{name}.gguf", TINY, context, np.float32)


def real_sized_model(folder: Path, context: int = 4096, name: str = "real-sized") -> Path:
    """The same as large as a real one. Nothing of it is left in the memory of whoever wrote it."""
    path = _write(folder / f"{name}.gguf", REAL, context, np.float16)
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return path


def _write(path: Path, shape: Shape, context: int, number: type[np.floating[Any]]) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    _describe(writer, shape, path.stem, context)
    vocabulary = _add_vocabulary(writer)
    _add_weights(writer, shape, vocabulary, number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _describe(writer: gguf.GGUFWriter, shape: Shape, name: str, context: int) -> None:
    writer.add_name(name)
    writer.add_context_length(context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.blocks)
    writer.add_feed_forward_length(shape.forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_chat_template(TEMPLATE)


def _add_vocabulary(writer: gguf.GGUFWriter) -> int:
    specials = [("<unk>", _UNKNOWN), ("<s>", _CONTROL), ("</s>", _CONTROL)]
    rows = [*specials, *((f"<0x{n:02X}>", _BYTE) for n in range(256)), *((word, _NORMAL) for word in WORDS)]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([word for word, _ in rows])
    writer.add_token_scores([0.0] * len(rows))
    writer.add_token_types([kind for _, kind in rows])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    return len(rows)


def _add_weights(writer: gguf.GGUFWriter, shape: Shape, vocabulary: int, number: type[np.floating[Any]]) -> None:
    random = np.random.default_rng(20)
    made: dict[tuple[int, ...], np.ndarray[Any, Any]] = {}

    def add(name: str, *dimensions: int) -> None:
        if shape is TINY or dimensions not in made:  # a large one says its noise over and over: it is made sooner
            made[dimensions] = (random.standard_normal(dimensions, dtype=np.float32) * 0.1).astype(number)
        writer.add_tensor(name, made[dimensions])

    def even(name: str) -> None:
        writer.add_tensor(name, np.ones(shape.width, dtype=np.float32))

    add("token_embd.weight", vocabulary, shape.width)
    for n in range(shape.blocks):
        for norm in ("attn_norm", "ffn_norm"):
            even(f"blk.{n}.{norm}.weight")
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{n}.{part}.weight", shape.width, shape.width)
        add(f"blk.{n}.ffn_gate.weight", shape.forward, shape.width)
        add(f"blk.{n}.ffn_up.weight", shape.forward, shape.width)
        add(f"blk.{n}.ffn_down.weight", shape.width, shape.forward)
    even("output_norm.weight")
    add("output.weight", vocabulary, shape.width)
