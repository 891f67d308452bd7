"""The catalogue and what is said of it: which models fit which machine, before anything is downloaded."""

from __future__ import annotations

import re
import struct
import tracemalloc
from pathlib import Path

import pytest
from support.tiny_model import tiny_model

from appliance.assistant import catalogue, choice, fits, gguf
from appliance.assistant.catalogue import Shape
from appliance.assistant.choice import Choice
from appliance.assistant.fits import MIB, Room
from appliance.broker.shares import IDE_ENOUGH_MB, Machine, most_for_the_engine, plan
from appliance.errors import Invalid


def room(memory_mb: int, *, docker: bool = False) -> Room:
    beside = most_for_the_engine(Machine(memory_mb, 2.0), docker=docker) * MIB
    return Room(beside, memory_mb * MIB)


@pytest.mark.parametrize("entry", catalogue.entries(), ids=lambda entry: entry.id)
def test_every_model_of_the_catalogue_is_pinned_and_whole(entry: catalogue.Entry) -> None:
    assert re.fullmatch(r"[0-9a-f]{64}", entry.sha256)
    assert choice.MODEL.match(entry.id)
    assert choice.FILE.match(entry.file)
    assert entry.url.startswith("https://huggingface.co/")
    assert entry.url.endswith("/" + entry.file)
    assert entry.size > 100 * MIB
    assert min(entry.shape.layers, entry.shape.kv_heads, entry.shape.head) > 0
    assert entry.licence


def test_names_and_files_are_each_ones_own() -> None:
    for field in ("id", "file", "sha256"):
        values = [getattr(entry, field) for entry in catalogue.entries()]
        assert len(set(values)) == len(values)


def test_the_three_billion_model_is_the_build_that_was_decided() -> None:
    found = catalogue.entry("llama-3.2-3b-instruct")
    assert found is not None
    assert found.gallery == "llama-3.2-3b-instruct:q4_k_m"
    assert found.sha256 == "c55a83bfb6396799337853ca69918a0b9bbb2917621078c34570bc17d20fd7a1"


def test_the_sum_is_weights_and_cache_and_engine() -> None:
    """28 layers of 8 heads of 128 numbers in 16 bits, keys and values: 0.94 GB at 8192 tokens (FEATURES 11)."""
    shape = Shape(28, 8, 128)
    assert shape.cache_bytes(8192) == 28 * 8 * 128 * 2 * 2 * 8192 == 939_524_096
    assert fits.need(2_000_000_000, shape, 8192) == 2_000_000_000 + 939_524_096 + fits.ENGINE_BYTES


@pytest.mark.parametrize(
    ("memory_mb", "language", "name"),
    [
        (2000, "en", "llama-3.2-1b-instruct"),
        (2000, "ar", "lfm2.5-1.2b-instruct"),
        (4096, "en", "llama-3.2-3b-instruct"),
        (4096, "ar", "lfm2.5-1.2b-instruct"),
        (8192, "ar", "qwen3-4b-instruct"),
        (1024, "ar", None),
    ],
)
def test_the_first_choice_follows_memory_and_language(memory_mb: int, language: str, name: str | None) -> None:
    """The 3B model from 4 GB up, smaller ones on 2 GB; an Arabic reader gets one whose publisher lists Arabic."""
    found = fits.first_choice(room(memory_mb), language)
    assert (found.id if found else None) in ((name,) if name else (None, "gemma-3-270m"))
    if found is not None:
        assert fits.of_entry(found, room(memory_mb)).verdict != "big"


@pytest.mark.parametrize("docker", [True, False])
@pytest.mark.parametrize("memory_mb", [3700, 3800, 3891, 3916])
def test_a_machine_sold_with_four_gigabytes_is_offered_the_three_billion_model(memory_mb: int, docker: bool) -> None:
    """What such machines report is less than 4096. The limits that the services then start with hold the model whole, beside an
    editor that has enough, and leave the rest of the machine what SYS-5 says: nothing is killed for memory."""
    found = fits.first_choice(room(memory_mb, docker=docker), "en")
    assert found is not None
    assert found.id == "llama-3.2-3b-instruct"
    fit = fits.of_entry(found, room(memory_mb, docker=docker))
    assert fit.verdict == "fits"
    need = -(-fit.need // MIB)
    given = plan(Machine(memory_mb, 2.0), docker=docker, model_mb=need).shares
    assert given["ai"].memory_mb >= need
    assert given["ide"].memory_mb >= IDE_ENOUGH_MB
    assert sum(limit.memory_mb for limit in given.values()) <= memory_mb - 256


def test_verdicts() -> None:
    model = catalogue.entry("llama-3.2-3b-instruct")
    assert model is not None
    big = fits.of_entry(model, room(2000))
    assert big.verdict == "big"
    assert big.need > big.have
    roomy = fits.of_entry(model, room(16_000))
    assert (roomy.verdict, roomy.context) == ("fits", 8192)


def test_the_longest_conversation_that_fits_is_chosen_and_never_more_than_was_trained() -> None:
    model = catalogue.entry("llama-3.2-1b-instruct")
    assert model is not None
    need = fits.need(model.size, model.shape, 4096)
    assert fits.of_entry(model, Room(need, need)).context == 4096
    assert fits.fit(10, Shape(1, 1, 1), 512, room(8000)).context == 512


def test_a_model_of_unknown_shape_counts_as_the_heaviest() -> None:
    heaviest = max(entry.shape.cache_bytes(2048) for entry in catalogue.entries())
    assert fits.need(0, None, 2048) == heaviest + fits.ENGINE_BYTES


def test_a_header_is_read(tmp_path: Path) -> None:
    facts = gguf.read(tiny_model(tmp_path, context=4096, name="tiny"))
    assert (facts.name, facts.architecture, facts.context) == ("tiny", "llama", 4096)
    assert facts.shape == Shape(2, 4, 16)
    assert not facts.tools


def header(*keys: bytes, count: int | None = None) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(keys) if count is None else count) + b"".join(keys)


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def number(name: bytes, value: int) -> bytes:
    return text(name) + struct.pack("<II", 4, value)


def test_layers_without_a_cache_do_not_count(tmp_path: Path) -> None:
    heads = text(b"lfm2.attention.head_count_kv") + struct.pack("<IIQ4i", 9, 5, 4, 0, 8, 0, 8)
    path = tmp_path / "m.gguf"
    path.write_bytes(
        header(
            text(b"general.architecture") + struct.pack("<I", 8) + text(b"lfm2"),
            number(b"lfm2.block_count", 4),
            number(b"lfm2.attention.head_count", 32),
            number(b"lfm2.embedding_length", 2048),
            heads,
        )
    )
    assert gguf.read(path).shape == Shape(2, 8, 64)


@pytest.mark.parametrize(
    "heads",
    [
        struct.pack("<I", 8) + text(b"many"),
        struct.pack("<If", 6, float("inf")),
        struct.pack("<If", 6, 1.5),
        struct.pack("<Ii", 5, -5),
        struct.pack("<IQ", 10, 1 << 63),
        struct.pack("<IIQq", 9, 11, 1, 1 << 62),
    ],
)
def test_what_is_no_number_of_heads_is_not_reckoned_with(tmp_path: Path, heads: bytes) -> None:
    """AI-8: a word in its place took the page of models down, and a number below nothing made any model fit."""
    path = tmp_path / "m.gguf"
    path.write_bytes(
        header(
            text(b"general.architecture") + struct.pack("<I", 8) + text(b"x"),
            text(b"general.name") + struct.pack("<I", 8) + text("a\x1b[2J\u202eb".encode()),
            *(number(b"x." + name, 8) for name in (b"block_count", b"attention.head_count", b"attention.key_length")),
            text(b"x.attention.head_count_kv") + heads,
        )
    )
    facts = gguf.read(path)
    assert facts.shape is None
    assert facts.name == "a[2Jb"
    assert fits.fit(1000, facts.shape, facts.context, room(4096)).need > fits.ENGINE_BYTES


def test_a_header_of_long_texts_takes_little_memory(tmp_path: Path) -> None:
    """AI-8: forty megabytes of texts that mean nothing here were 162 MiB in the daemon."""
    long = "\U0001f600".encode() + b"a" * (gguf.TEXT_MOST - 4)
    path = tmp_path / "m.gguf"
    path.write_bytes(header(*(text(b"%d" % n) + struct.pack("<I", 8) + text(long) for n in range(40))))
    tracemalloc.start()
    try:
        assert gguf.read(path).shape is None
        assert tracemalloc.get_traced_memory()[1] < 16 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GGUF",
        b"<!doctype html>",
        header(count=1 << 40),
        header(struct.pack("<Q", 1 << 60) + b"x"),
        header(text(b"a") + struct.pack("<I", 99)),
        header(text(b"a") + struct.pack("<IIQ", 9, 4, 1 << 60)),
        header(text(b"a") + struct.pack("<IIQ", 9, 9, 5)),
        header(text(b"a") + struct.pack("<IIQ", 9, 8, 1 << 50) + text(b"x") * 20),
        header(number(b"a", 1), count=2),
    ],
)
def test_hostile_headers_end_soon_with_a_refusal(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    with pytest.raises(Invalid):
        gguf.read(path)


def test_no_more_words_are_looked_at_than_there_are(tmp_path: Path) -> None:
    """AI-8: each costs a look, and a header has room for eight million empty ones."""
    path = tmp_path / "m.gguf"
    words = [text(b"%d" % n) + struct.pack("<IIQ", 9, 8, 400_000) + bytes(8 * 400_000) for n in range(3)]
    path.write_bytes(header(*words[:2]))
    assert gguf.read(path).shape is None
    path.write_bytes(header(*words))
    with pytest.raises(Invalid):
        gguf.read(path)


def test_a_choice_survives_being_written(tmp_path: Path) -> None:
    made = Choice("tiny", "tiny.gguf", 512, tools=True, need_mb=300)
    choice.write(tmp_path, made)
    assert choice.read(tmp_path) == made
    assert (tmp_path / choice.NAME).stat().st_mode & 0o777 == 0o640
    choice.write(tmp_path, None)
    assert choice.read(tmp_path) is None


@pytest.mark.parametrize(
    "words",
    [
        "",
        "[]",
        '{"model": "m", "file": "../../etc/passwd", "context": 5}',
        '{"model": "m", "file": "-x.gguf", "context": 5}',
        '{"model": "m", "file": "m.gguf", "context": "5"}',
        '{"model": "m", "file": "m.gguf", "context": 0}',
        '{"model": "a b", "file": "m.gguf", "context": 5}',
        '{"model": "m", "file": "m.gguf", "context": 5, "need_mb": -1}',
        '{"model": "m", "file": "m.gguf", "context": 5, "need_mb": "9"}',
        "[" * 4096,
        '{"a":' * 1000,
    ],
)
def test_a_damaged_or_hostile_choice_is_none(tmp_path: Path, words: str) -> None:
    (tmp_path / choice.NAME).write_text(words)
    assert choice.read(tmp_path) is None


def test_a_choice_behind_a_link_is_none(tmp_path: Path) -> None:
    choice.write(tmp_path, Choice("tiny", "tiny.gguf", 512))
    (tmp_path / choice.NAME).rename(tmp_path / "real.json")
    (tmp_path / choice.NAME).symlink_to("real.json")
    assert choice.read(tmp_path) is None
