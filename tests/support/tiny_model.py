"""A language model small enough to be written in a moment: half a megabyte of random numbers in the shape of a llama.

Its words are noise, its serving is real: llama.cpp loads it, applies its chat template, streams and stops as it does with a model
of gigabytes. The numbers come from a fixed seed, so it says the same noise in every run.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

WIDTH, HEADS, BLOCKS, FORWARD = 64, 4, 2, 128
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
    path = folder / f"{name}.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    _describe(writer, name, context)
    vocabulary = _add_vocabulary(writer)
    _add_weights(writer, vocabulary)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _describe(writer: gguf.GGUFWriter, name: str, context: int) -> None:
    writer.add_name(name)
    writer.add_context_length(context)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(BLOCKS)
    writer.add_feed_forward_length(FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
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


def _add_weights(writer: gguf.GGUFWriter, vocabulary: int) -> None:
    numbers = np.random.default_rng(20)

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(name, numbers.standard_normal(shape, dtype=np.float32) * 0.1)

    def even(name: str) -> None:
        writer.add_tensor(name, np.ones(WIDTH, dtype=np.float32))

    add("token_embd.weight", vocabulary, WIDTH)
    for n in range(BLOCKS):
        for norm in ("attn_norm", "ffn_norm"):
            even(f"blk.{n}.{norm}.weight")
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{n}.{part}.weight", WIDTH, WIDTH)
        add(f"blk.{n}.ffn_gate.weight", FORWARD, WIDTH)
        add(f"blk.{n}.ffn_up.weight", FORWARD, WIDTH)
        add(f"blk.{n}.ffn_down.weight", WIDTH, FORWARD)
    even("output_norm.weight")
    add("output.weight", vocabulary, WIDTH)
