"""WEB-15, LOG-5: what is shown, where it is cut, and what never reaches the log."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import re
import resource
import string
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.waiting import until

from appliance.commands import redact
from appliance.commands.display import complete, render
from appliance.commands.output import STDERR, STDOUT, frames_at, saved
from appliance.commands.recording import Output

BAD = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]|\x1b(?!\[[0-9;:]*m)")


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m"),
        (b"\x1b[38;5;196mx", "\x1b[38;5;196mx"),
        (b"\x1b]0;title\x07x", "x"),
        (b"\x1b]52;c;aGk=\x1b\\x", "x"),
        (b"\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        (b"\x1b[2J\x1b[1;1Hx\x1b[?25l\x1b[6n", "x"),
        (b"\x1bPdevice\x1b\\x\x1b_app\x1b\\", "x"),
        (b"\x1bcx\x1b(0", "x"),
        (b"\xc2\x9b31mx\xc2\x9d0;t\x07", "x"),
        (b"a\x08b\x00\x7f\x85", "a\u2408b\u2400\u2421\ufffd"),
        (b"50%\rdone\n\tx", "50%\rdone\n\tx"),
        ("سلام \u202eevil".encode(), "سلام \ufffdevil"),
        (b"\xff\xfe", "\ufffd\ufffd"),
    ],
)
def test_only_colours_pass(data, shown):
    assert render(data) == shown


@given(st.binary(max_size=400))
def test_no_bytes_make_a_control_sequence(data):
    assert not BAD.search(render(data))


@given(st.text(max_size=80), st.lists(st.integers(1, 40), max_size=12))
def test_text_is_whole_however_it_arrives(text, sizes):
    """Cut anywhere, each part that is kept can be decoded by itself, and together they are the text."""
    data, parts, rest = text.encode("utf-8", "replace"), [], b""
    for size in [*sizes, len(data)]:
        rest, data = rest + data[:size], data[size:]
        cut = complete(rest)
        parts.append(rest[:cut])
        rest = rest[cut:]
    parts.append(rest)
    assert b"".join(parts).decode() == text.encode("utf-8", "replace").decode()
    for part in parts[:-1]:
        part.decode()


@settings(deadline=None, max_examples=50)  # files and a thread for each example
@given(
    st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), st.binary(min_size=1, max_size=3000)), max_size=20),
    st.integers(0, 9000),
)
def test_what_is_kept_is_what_was_written_up_to_the_cap(pieces, cap):
    async def write(folder: Path) -> None:
        output = Output(folder / "run", cap)
        for stream, data in pieces:
            output.feed(stream, data)
        output.end()
        await output.ended()
        frames = [frame async for some in saved(output.path, 0) for frame in some]
        live = [frame async for some in output.follow(0) for frame in some]
        assert frames == live
        total = sum(len(data) for _, data in pieces)
        assert sum(len(frame.data) for frame in frames) == min(cap, total)
        assert output.truncated == (total > cap)
        if total <= cap:
            for stream in (STDOUT, STDERR):
                assert b"".join(f.data for f in frames if f.stream == stream) == b"".join(
                    d for s, d in pieces if s == stream
                )
        for frame in frames:
            rest = [one async for some in saved(output.path, frame.end) for one in some]
            assert rest == frames[frames.index(frame) + 1 :]

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(write(Path(folder)))


def test_a_file_that_was_cut_off_is_read_as_far_as_it_goes(tmp_path):
    async def write() -> None:
        output = Output(tmp_path / "run", 1 << 20)
        for number in range(10):
            output.feed(STDOUT, b"%d" % number * 100)
        output.end()
        await output.ended()

    asyncio.run(write())
    path = tmp_path / "run"
    assert path.stat().st_mode & 0o777 == 0o600
    whole = frames_at(path, 0)
    path.write_bytes(path.read_bytes()[:-50])
    assert frames_at(path, 0) == whole[:-1]
    assert frames_at(tmp_path / "none", 0) == []


@pytest.fixture(params=[False, True], ids=["moved", "copied"])
def copied(request, monkeypatch):
    """Whether the file system takes no pages from a pipe, as none of those here; at the end, that it was asked."""
    splice, asked = os.splice, []

    def counted(source, target, count, **how):
        if "offset_dst" in how:
            asked.append(count)
            if request.param:
                raise OSError(errno.EINVAL, "cannot splice")
        return splice(source, target, count, **how)

    monkeypatch.setattr(os, "splice", counted)
    yield
    assert sum(asked) > 1 << 20


async def test_much_output_is_whole_and_cut_where_it_can_be_shown(tmp_path, copied):
    """Both streams, more than goes through memory: each frame shows by itself, and any of their ids is a place to come back to."""
    out = ("سلام عليكم 🌍 \x1b[38;5;196mred\x1b[0m\n" * 60_000).encode()
    err = b"plain and short\n" * 30_000 + b"\xff\xfe\x1b[31"
    output = Output(tmp_path / "run", 1 << 30)
    live = [frame async for some in written(output, out, err) for frame in some]
    kept = [frame async for some in saved(output.path, 0) for frame in some]
    assert max(len(frame.data) for frame in kept) <= 70_000
    for frames in (live, kept):
        assert b"".join(frame.data for frame in frames if frame.stream == STDOUT) == out
        assert b"".join(frame.data for frame in frames if frame.stream == STDERR) == err
    for frame in kept:
        if frame.stream == STDOUT:
            assert complete(frame.data) == len(frame.data)
            frame.data.decode()
    assert (output.written, output.truncated) == ({STDOUT: len(out), STDERR: len(err)}, False)
    for number in range(0, len(kept), 17):
        back = [one async for some in saved(output.path, kept[number].end) for one in some]
        assert back == kept[number + 1 :]
        assert frames_at(output.path, kept[number].end - 1)[0] == kept[number]


@pytest.mark.parametrize("cap", [0, 1, 100_000, 3_000_000])
async def test_the_cap_is_exact_however_much_comes(tmp_path, cap):
    output = Output(tmp_path / "run", cap)
    live = [frame async for some in written(output, b"x" * 5_000_000, b"") for frame in some]
    kept = [frame async for some in saved(output.path, 0) for frame in some]
    assert sum(len(frame.data) for frame in live) == sum(len(frame.data) for frame in kept) == cap
    assert (output.written[STDOUT], output.truncated) == (5_000_000, True)


@pytest.mark.parametrize("most", [10_000, 3_000_000])
async def test_a_disk_that_takes_no_more_costs_the_output_only(tmp_path, most):
    """What was kept before can still be read, and the run is read to its end."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        output = Output(tmp_path / "run", 1 << 30)
        async for _ in written(output, b"x" * 5_000_000, b""):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    kept = [frame async for some in saved(output.path, 0) for frame in some]
    assert (output.written[STDOUT], output.truncated) == (5_000_000, True)
    assert output.path.stat().st_size == (kept[-1].end if kept else 0) <= most


async def test_closing_ends_what_is_being_moved(tmp_path):
    """A writer that never ends holds nobody up once its output is let go."""
    output = Output(tmp_path / "run", 1 << 20)
    read, write = os.pipe2(os.O_CLOEXEC)
    output.read_from({read: STDOUT})
    writing = asyncio.create_task(asyncio.to_thread(fill, write, b"x" * (64 << 20)))
    await until(lambda: output.written[STDOUT] > 2 << 20, "much has come")
    output.close()
    await asyncio.wait_for(output.ended(), 10)
    await writing
    assert sum([len(one.data) async for some in saved(output.path, 0) for one in some]) == 1 << 20


async def written(output, out: bytes, err: bytes):
    """What a reader is told while ``out`` and ``err`` are written into pipes, until both were read."""
    ends = [os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)]
    output.read_from({ends[0][0]: STDOUT, ends[1][0]: STDERR})
    writing = [
        asyncio.create_task(asyncio.to_thread(fill, end, data)) for (_, end), data in zip(ends, (out, err), strict=True)
    ]
    ending = asyncio.create_task(output.ended())
    async for frames in output.follow(0):
        yield frames
    await asyncio.gather(*writing, ending)


def fill(end: int, data: bytes) -> None:
    """Write it all and close; a reader that goes away is no error."""
    rest = memoryview(data)
    with contextlib.suppress(BrokenPipeError):
        while rest:
            rest = rest[os.write(end, rest[:99_991]) :]
    os.close(end)


def test_a_thousand_secrets_do_not_reach_the_log():
    """LOG-5: as flags, assignments, in addresses and headers, alone; and no plain word is lost."""
    dice, leaks = random.Random(7), []  # noqa: S311
    letters = string.ascii_letters + string.digits
    for number in range(1000):
        secret = "".join(dice.choices(letters, k=dice.randint(24, 48)))
        if not (any(map(str.isdigit, secret)) and any(map(str.isalpha, secret))):
            continue
        words = [
            ["tool", "--token", secret],
            ["tool", f"--api-key={secret}"],
            ["curl", "-H", f"Authorization: Bearer {secret}", "https://x.example"],
            ["git", "clone", f"https://user:{secret}@host.example/x.git"],
            ["env", f"GITHUB_TOKEN={secret}", "make"],
            ["tool", f"ghp_{secret}"],
            ["tool", secret],
            ["sh", "-c", f"export PASSWORD={secret}; run"],
        ][number % 8]
        if secret in " ".join(redact.argv(words)):
            leaks.append(words)
    assert leaks == []
    plain = [
        "git",
        "log",
        "--oneline",
        "-n",
        "20",
        "src/components/Header/index.tsx",
        "9fceb02d0ae598e95dc970b74767f19372d61af8",
    ]
    plain += [
        "npm",
        "run",
        "build:production",
        "tests/test_sign_in.py::test_a_person",
        "2026-11-22T13:00:00",
        "--max-line-length=120",
    ]
    assert redact.argv(plain) == plain
