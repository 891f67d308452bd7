"""Writes a tiny random model to the path given: two blocks, 64 wide, half a megabyte. Its words are noise."""

from __future__ import annotations

import sys

import gguf
import numpy

WIDTH, BLOCKS, HEADS, FEED, CONTEXT = 64, 2, 4, 128, 512
SPECIAL, BYTES = ["<unk>", "<s>", "</s>"], [f"<0x{n:02X}>" for n in range(256)]
WORDS = ["▁the", "▁a", "▁is", "▁of", "▁to"]


def main(path: str) -> None:
    tokens = SPECIAL + BYTES + WORDS
    random = numpy.random.default_rng(1)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(BLOCKS)
    writer.add_feed_forward_length(FEED)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([2, 3, 3] + [6] * len(BYTES) + [1] * len(WORDS))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{% for m in messages %}{{ m['content'] }}\n{% endfor %}")

    def tensor(name: str, *shape: int) -> None:
        values = random.standard_normal(shape).astype(numpy.float32) * 0.05
        writer.add_tensor(name, values if len(shape) > 1 else numpy.ones(shape, numpy.float32))

    tensor("token_embd.weight", len(tokens), WIDTH)
    tensor("output.weight", len(tokens), WIDTH)
    tensor("output_norm.weight", WIDTH)
    for block in range(BLOCKS):
        for name in ("attn_norm", "ffn_norm"):
            tensor(f"blk.{block}.{name}.weight", WIDTH)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensor(f"blk.{block}.{name}.weight", WIDTH, WIDTH)
        tensor(f"blk.{block}.ffn_gate.weight", FEED, WIDTH)
        tensor(f"blk.{block}.ffn_up.weight", FEED, WIDTH)
        tensor(f"blk.{block}.ffn_down.weight", WIDTH, FEED)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(sys.argv[1])
