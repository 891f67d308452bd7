"""The record of a run where things go wrong around it: nothing is missed in silence, and every run comes to its end."""

from __future__ import annotations

import os
from pathlib import Path

from appliance.commands.output import HEAD, STDOUT, Frame, Reader


def test_what_came_since_the_reader_read_ahead_is_told(tmp_path: Path) -> None:
    """The bytes of the last frame are there when the reader passes by, its head is not yet."""
    part = b"x" * 60_000
    frame = HEAD.pack(STDOUT, len(part)) + part
    path = tmp_path / "run"
    path.write_bytes(frame * 5 + bytes(HEAD.size) + part)
    with path.open("r+b", buffering=0) as writer:
        reader = Reader(path)
        try:
            assert len(reader.more()) == 5
            os.pwrite(writer.fileno(), HEAD.pack(STDOUT, len(part)), 5 * len(frame))
            assert reader.more() == [Frame(STDOUT, part, 6 * len(frame))]
            assert reader.more() == []
        finally:
            reader.close()
