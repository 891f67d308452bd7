"""Downloads against a real HTTPS server that misbehaves: nothing wrong ever gets a model's name, nothing is fetched twice for nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.source import Source, Way, file_of, source
from support.waiting import until

from appliance.assistant.download import Downloader, DownloadFailed, Wanted
from appliance.assistant.partial import Partial

MIB = 1 << 20


class Said:
    """What a download reports."""

    def __init__(self) -> None:
        self.all: list[tuple[str, int, int]] = []

    def __call__(self, phase: str, current: int, total: int) -> None:
        self.all.append((phase, current, total))

    @property
    def bytes(self) -> int:
        return self.all[-1][1] if self.all else 0


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Source]:
    with source(tmp_path_factory.mktemp("source"), file_of(3 * MIB)) as made:
        yield made


@pytest.fixture
def models(served: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SSL_CERT_FILE", served.authority)
    served.ways.clear()
    served.asked.clear()
    served.usual = Way()
    return tmp_path


def downloader(models: Path, served: Source, **how: int) -> Downloader:
    return Downloader(models, mirror=served.base, wait=0.01, stall=2, free_least=how.get("free_least", 0))


def wanted(served: Source, **other: str) -> Wanted:
    return Wanted(served.url, "model.gguf", other.get("sha256", served.sha256), len(served.content))


async def failing(models: Path, served: Source, asked: Wanted, **how: int) -> str:
    with pytest.raises(DownloadFailed) as told:
        await downloader(models, served, **how).fetch(asked, Said())
    assert told.value.hint
    return told.value.code


def left(models: Path) -> list[str]:
    return sorted(path.name for path in models.iterdir())


async def test_a_file_arrives_checked_readable_for_its_group_and_with_nothing_beside_it(
    models: Path, served: Source
) -> None:
    said = Said()
    digest = await downloader(models, served).fetch(wanted(served), said)
    assert digest == served.sha256
    assert (models / "model.gguf").read_bytes() == served.content
    assert (models / "model.gguf").stat().st_mode & 0o777 == 0o640
    assert left(models) == ["model.gguf"]
    phases = [phase for phase, _, _ in said.all]
    assert phases[-1] == "checking"
    assert ("downloading", len(served.content), len(served.content)) in said.all


async def test_a_connection_cut_again_and_again_is_taken_up_where_it_ended(models: Path, served: Source) -> None:
    served.ways = [Way(cut=MIB), Way(cut=MIB // 2), Way(status=503), Way(cut=MIB // 2)]
    before = served.sent
    await downloader(models, served).fetch(wanted(served), Said())
    assert (models / "model.gguf").read_bytes() == served.content
    begun = [asked for _, asked in served.asked]
    assert begun[0] == ""
    assert all(asked.startswith("bytes=") for asked in begun[1:])
    assert served.sent - before <= len(served.content) + MIB, "what was here already came again"


async def test_a_source_that_ignores_ranges_is_read_from_the_start(models: Path, served: Source) -> None:
    served.ways = [Way(cut=MIB), Way(ranges=False)]
    await downloader(models, served).fetch(wanted(served), Said())
    assert (models / "model.gguf").read_bytes() == served.content


async def test_a_file_that_changed_meanwhile_is_not_pieced_together(models: Path, served: Source) -> None:
    served.ways = [Way(cut=MIB, tag='"old"')]
    await downloader(models, served).fetch(wanted(served), Said())
    assert served.asked[1][1].startswith("bytes="), "it was asked for the rest, if the same"
    assert (models / "model.gguf").read_bytes() == served.content


async def test_a_part_of_another_content_is_refused_even_from_a_source_that_ignores_if_range(
    models: Path, served: Source
) -> None:
    served.ways = [Way(cut=MIB, tag='"old"'), Way(careless=True)]
    asked = Wanted(served.url, "model.gguf")  # no sha256 would tell
    await downloader(models, served).fetch(asked, Said())
    first, second, third = (part for _, part in served.asked)
    assert (first, second.startswith("bytes="), third) == ("", True, "")
    assert (models / "model.gguf").read_bytes() == served.content


@pytest.mark.parametrize("tag", ["", 'W/"old"'])
async def test_what_nothing_names_is_never_asked_for_in_parts(models: Path, served: Source, tag: str) -> None:
    """Without a strong mark nobody can say that the rest is of the same content; a careless source gives it all the same."""
    whole, served.content = served.content, b"GGUF" + b"o" * (len(served.content) - 4)
    served.ways = [Way(cut=MIB, tag=tag, rate=MIB), Way(careless=True, tag=tag)]
    task = asyncio.create_task(downloader(models, served).fetch(Wanted(served.url, "model.gguf"), Said()))
    await until(lambda: served.sent > 0, "the first part is under way")
    served.content = whole
    await task
    assert (models / "model.gguf").read_bytes() == whole


async def test_what_has_the_wrong_sha256_is_removed_and_said(models: Path, served: Source) -> None:
    assert await failing(models, served, wanted(served, sha256="0" * 64)) == "wrong_hash"
    assert left(models) == []


async def test_parts_that_do_not_fit_together_are_fetched_once_more(models: Path, served: Source) -> None:
    """What an earlier process left is digested again; when the disk has spoilt it, the whole comes anew."""
    load = downloader(models, served)
    served.ways = [Way(cut=MIB), *[Way(status=500)] * 6]
    with pytest.raises(DownloadFailed):
        await load.fetch(wanted(served), Said())
    part = models / ".model.gguf.part"
    spoilt = bytearray(part.read_bytes())
    spoilt[1000] ^= 1
    part.write_bytes(spoilt)
    await load.fetch(wanted(served), Said())
    assert (models / "model.gguf").read_bytes() == served.content


async def test_cancelling_keeps_what_came_and_the_next_time_goes_on_from_there(models: Path, served: Source) -> None:
    said = Said()
    served.usual = Way(rate=4 * MIB)
    task = asyncio.create_task(downloader(models, served).fetch(wanted(served), said))
    await until(lambda: said.bytes > MIB, "the first megabyte")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    kept = (models / ".model.gguf.part").stat().st_size
    assert kept >= MIB
    assert not (models / "model.gguf").exists()
    served.usual = Way()
    await downloader(models, served).fetch(wanted(served), Said())
    assert served.asked[-1][1] == f"bytes={kept}-"
    assert (models / "model.gguf").read_bytes() == served.content


async def test_discarding_leaves_nothing(models: Path, served: Source) -> None:
    served.ways = [Way(cut=MIB), *[Way(status=500)] * 6]
    assert await failing(models, served, wanted(served)) == "unreachable"
    await downloader(models, served).discard(wanted(served))
    assert left(models) == []


@pytest.mark.parametrize(
    ("way", "code"),
    [
        (Way(status=401), "refused"),
        (Way(status=404), "gone"),
        (Way(headers={"Content-Encoding": "gzip"}), "refused"),
        (Way(headers={"x-linked-etag": '"' + "1" * 64 + '"'}), "changed"),
        (Way(status=302, location="http://localhost/x"), "unsafe_url"),
        (Way(status=302, location="https://127.0.0.1/x"), "unsafe_url"),
        (Way(status=302, location="https://169.254.169.254/latest/meta-data"), "unsafe_url"),
        (Way(status=302, location="https://[::1]/x"), "unsafe_url"),
        (Way(status=302, location="file:///etc/passwd"), "unsafe_url"),
    ],
)
async def test_refusals(models: Path, served: Source, way: Way, code: str) -> None:
    """Redirects lead to https on public addresses or nowhere (AI-10's rule for addresses, applied to downloads)."""
    served.usual = way
    assert await failing(models, served, wanted(served)) == code
    assert "model.gguf" not in left(models)


async def test_a_redirect_that_never_ends_is_given_up(models: Path, served: Source) -> None:
    served.usual = Way(status=302, location="/again")
    assert await failing(models, served, wanted(served)) == "unreachable"


async def test_redirects_are_followed_and_their_digest_is_held(models: Path, served: Source) -> None:
    linked = {"x-linked-etag": f'"{served.sha256}"', "x-linked-size": str(len(served.content))}
    served.ways = [Way(status=302, location="/elsewhere", headers=linked)]
    said = Said()
    assert await downloader(models, served).fetch(Wanted(served.url, "model.gguf"), said) == served.sha256
    served.ways = [Way(status=302, location="/elsewhere", headers=linked | {"x-linked-etag": f'"{"2" * 64}"'})]
    (models / "model.gguf").unlink()
    assert await failing(models, served, Wanted(served.url, "model.gguf")) == "wrong_hash"


async def test_a_source_of_another_size_is_refused_before_a_byte(models: Path, served: Source) -> None:
    before = served.sent
    assert await failing(models, served, Wanted(served.url, "model.gguf", served.sha256, 5)) == "changed"
    assert left(models) in ([], [".model.gguf.part"])
    assert served.sent - before <= 4 * MIB


async def test_a_page_instead_of_a_model_is_told(models: Path, served: Source, tmp_path: Path) -> None:
    page, kept = b"<!doctype html>" * 100, served.content
    served.content = page
    try:
        assert await failing(models, served, Wanted(served.url, "model.gguf")) == "not_a_model"
    finally:
        served.content = kept
    assert left(models) == []


async def test_the_disk_is_never_filled(models: Path, served: Source) -> None:
    assert await failing(models, served, wanted(served), free_least=1 << 60) == "disk_full"
    assert (models / ".model.gguf.part").stat().st_size == 0


async def test_a_source_that_stalls_is_given_up_after_a_while(models: Path, served: Source) -> None:
    served.usual = Way(hold=threading.Event())
    load = Downloader(models, mirror=served.base, wait=0.01, stall=0.2, free_least=0)
    with pytest.raises(DownloadFailed) as told:
        await load.fetch(wanted(served), Said())
    assert told.value.code == "unreachable"
    assert served.usual.hold is not None
    served.usual.hold.set()


async def test_a_certificate_nobody_trusts_ends_it(
    models: Path, served: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TLS trust is the machine's own."""
    monkeypatch.delenv("SSL_CERT_FILE")
    assert await failing(models, served, wanted(served)) == "unreachable"


async def test_names_inside_the_network_are_not_fetched_from(models: Path, served: Source) -> None:
    load = Downloader(models, wait=0.01)
    with pytest.raises(DownloadFailed) as told:
        await load.fetch(wanted(served), Said())
    assert told.value.code == "unsafe_url"


@pytest.mark.parametrize(
    "url", ["http://example.org/m", "ftp://example.org/m", "https://", "https://a:b@example.org/m"]
)
def test_other_addresses_are_refused_before_anything_is_asked(tmp_path: Path, url: str) -> None:
    with pytest.raises(DownloadFailed):
        Downloader(tmp_path).check(url)


@pytest.mark.parametrize(
    "host",
    [
        "127.1",
        "2130706433",
        "0177.0.0.1",
        "127.0.0.1.",
        "169.254.43518",
        "[::1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::a9fe:a9fe]",
        "[ff02::1]",
        "192.0.0.192",
    ],
)
async def test_an_address_inside_the_network_is_refused_however_it_is_spelt(
    models: Path, served: Source, host: str
) -> None:
    """NET-8: also where a source leads there. Some spellings are no address to Python, and no name to what connects."""
    url = f"https://{host}/model.gguf"
    with pytest.raises(DownloadFailed) as told:
        Downloader(models).check(url)
    assert told.value.code == "unsafe_url"
    served.ways.append(Way(status=302, location=url))
    assert await failing(models, served, wanted(served)) == "unsafe_url"


async def test_a_link_in_the_place_of_the_file_is_not_followed(models: Path, served: Source) -> None:
    (models / ".model.gguf.part").symlink_to(models / "elsewhere")
    assert await failing(models, served, wanted(served)) == "disk"
    assert not (models / "elsewhere").exists()


async def test_giving_up_does_not_wait_for_gigabytes_to_be_read_again(models: Path) -> None:
    """The daemon has seconds to stop; a part of gigabytes takes longer to digest."""
    part = Partial(models, "model.gguf", "https://example.org/x")
    part.open()
    part.belongs_to('"one"')
    part.close()
    with (models / ".model.gguf.part").open("wb") as file:
        file.truncate(64 << 30)  # zeros without blocks
    again = Partial(models, "model.gguf", "https://example.org/x")
    reading = asyncio.get_running_loop().run_in_executor(None, again.open)
    await until(lambda: again.size > MIB, "it is being read")
    async with asyncio.timeout(5):
        await asyncio.to_thread(again.close)
        await reading
    assert again.size < 64 << 30


@pytest.mark.parametrize("name", [".model.gguf.part", ".model.gguf.part.json"])
def test_a_pipe_in_a_files_place_holds_nobody_up(tmp_path: Path, name: str) -> None:
    """SYS-5: whatever reads models writes in their folder; a thread of the daemon would wait there for ever."""
    kept = Partial(tmp_path, "model.gguf", "https://example.org/x")
    kept.open()
    kept.belongs_to("mark")
    kept.close()
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    part = Partial(tmp_path, "model.gguf", "https://example.org/x")
    opening = threading.Thread(target=_refused, args=(part,), daemon=True)
    opening.start()
    opening.join(10)
    assert not opening.is_alive()
    part.close()


def _refused(part: Partial) -> None:
    with contextlib.suppress(FileExistsError):
        part.open()
