"""A toolchain over a connection that is cut: it goes on where it ended, at once or at the next try, and is checked all the same."""

from __future__ import annotations

import io
import socket
import ssl
import subprocess
import urllib.request
from pathlib import Path

import pytest
from support.wheels import WHEEL, Index

from appliance.host import resuming
from appliance.host.tools import FOLDER, PARTS

pytestmark = pytest.mark.timeout(60)


def says(home: Path) -> str:
    return subprocess.run([home / FOLDER / "bin/deno"], check=True, capture_output=True, text=True).stdout


def test_a_cut_connection_goes_on_where_it_ended(tmp_path: Path, index: Index) -> None:
    index.cuts = [600_000, 700_000]
    assert index.add(tmp_path)["event"] == "done"
    assert index.asked == ["", "bytes=600000-", "bytes=1300000-"]
    assert says(tmp_path) == "deno 2.0.1\n"
    assert not (tmp_path / FOLDER / PARTS).exists()


def test_what_came_before_the_source_was_gone_counts_at_the_next_try(tmp_path: Path, index: Index) -> None:
    index.cuts = [900_000, 0, 0, 0, 0, 0]
    assert index.add(tmp_path)["code"] == "unreachable"
    assert not (tmp_path / FOLDER / "deno").exists()
    index.asked.clear()
    assert index.add(tmp_path)["event"] == "done"
    assert index.asked == ["bytes=900000-"]
    assert says(tmp_path) == "deno 2.0.1\n"


def test_a_source_that_knows_no_parts_gives_the_whole_again(tmp_path: Path, index: Index) -> None:
    index.ranges, index.cuts = False, [900_000]
    assert index.add(tmp_path)["event"] == "done"
    assert index.asked == ["", "bytes=900000-"]


def test_pieces_of_another_file_are_thrown_away(tmp_path: Path, index: Index) -> None:
    """SUP-1: what was pieced together is judged by the digest of the whole."""
    part = tmp_path / FOLDER / PARTS / WHEEL
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 1000)
    assert index.add(tmp_path)["code"] == "altered"
    assert index.asked == ["bytes=1000-"]
    assert not part.exists()
    assert not (tmp_path / FOLDER / "deno").exists()
    assert index.add(tmp_path)["event"] == "done"


def test_nothing_is_sent_where_it_leaves_https(tmp_path: Path, index: Index) -> None:
    """Not one request: what answers without https may be inside the machine's own network."""
    with socket.create_server(("127.0.0.1", 0)) as plain:
        plain.setblocking(False)
        elsewhere = f"http://127.0.0.1:{plain.getsockname()[1]}/{WHEEL}"
        index.leads = elsewhere
        said = index.add(tmp_path)
        assert (said["code"], said["message"]) == ("unreachable", "it leads away from https")
        assert index.asked == [""]
        with pytest.raises(resuming.Broken):
            resuming.fetch(elsewhere, io.BytesIO(), 10, lambda here: None, pause=0)
        with pytest.raises(BlockingIOError):
            plain.accept()


def test_what_a_source_gives_beyond_its_word_is_not_read(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """R10: one that never ends would fill the disk."""
    trusted = urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=index.folder / "ca.pem"))
    monkeypatch.setattr(resuming, "_OPENER", urllib.request.build_opener(trusted))
    seen: list[int] = []
    with pytest.raises(resuming.Broken, match="more than it promised"):
        resuming.fetch(f"https://localhost:{index.port}/{WHEEL}", io.BytesIO(), 1000, seen.append, pause=0)
    assert max(seen) == 1001


def test_an_index_that_promises_more_than_there_is_room_for_is_not_followed(tmp_path: Path, index: Index) -> None:
    """R10, SUP-1: room was looked for by our own figure."""
    page = index.page()
    index.page = lambda: page.replace(f'"size": {len(index.content)}'.encode(), b'"size": 900000000000')  # type: ignore[method-assign]
    assert index.add(tmp_path)["code"] == "altered"
    assert index.asked == []
