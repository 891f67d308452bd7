"""What the extension consists of, how it is packed, and how it gets into the editor and stays there."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support.appliance import ide_tree

from appliance import __version__
from appliance.broker import editor_extension, ide_settings

ROOT = Path(__file__).parents[2]
HERE = ROOT / "webui/editor"
NAME = f"croft.croft-{__version__}"
SCHEMA = "{http://schemas.microsoft.com/developer/vsx-schema/2011}"


def pack(folder: Path) -> Path:
    """What `make vsix` leaves."""
    done = subprocess.run(
        [sys.executable, ROOT / "tools/vsix.py"], cwd=folder, capture_output=True, text=True, check=True
    )
    return folder / done.stdout.strip()


def prepare(home: Path) -> Path:
    """What happens before each start. Returns the folder of extensions."""
    fd = os.open(home, os.O_PATH | os.O_DIRECTORY)
    try:
        ide_settings.prepare(fd)
    finally:
        os.close(fd)
    return home / editor_extension.EXTENSIONS


def code_server(home: Path, *words: str) -> str:
    """code-server's own command line over this home."""
    ide, data = ide_tree(), home / ".local/share/code-server"
    program = [ide / "node/bin/node", ide / "code/node_modules/code-server"]
    done = subprocess.run(
        [*program, *words, "--user-data-dir", data, "--extensions-dir", data / "extensions"],
        env={"HOME": str(home), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout


def test_two_packings_are_equal_and_the_manifest_says_what_is_inside(tmp_path: Path) -> None:
    """SUP-8"""
    (tmp_path / "again").mkdir()
    packed = pack(tmp_path)
    assert packed.name == f"croft-{__version__}.vsix"
    assert packed.read_bytes() == pack(tmp_path / "again").read_bytes()
    archive = zipfile.ZipFile(io.BytesIO(packed.read_bytes()))
    assert archive.namelist()[:2] == ["[Content_Types].xml", "extension.vsixmanifest"]
    assert {name.removeprefix("extension/") for name in archive.namelist()[2:]} == set(editor_extension.contents())
    manifest, types = (_tree(archive, name) for name in ("extension.vsixmanifest", "[Content_Types].xml"))
    identity = manifest.find(f"{SCHEMA}Metadata/{SCHEMA}Identity")
    assert identity is not None
    assert {key: identity.get(key) for key in ("Id", "Version", "Publisher")} == {
        "Id": "croft",
        "Version": __version__,
        "Publisher": "croft",
    }
    kinds = {row.get("Extension") for row in types}
    assert {Path(name).suffix for name in archive.namelist()[1:]} <= kinds


def _tree(archive: zipfile.ZipFile, name: str) -> ElementTree.Element:
    return ElementTree.fromstring(archive.read(name))  # noqa: S314 - what we have just made ourselves


def test_every_script_can_be_read_and_every_word_is_there_twice() -> None:
    for script in HERE.glob("*.js"):
        subprocess.run([ide_tree() / "node/bin/node", "--check", script], check=True, capture_output=True)
    package = json.loads((HERE / "package.json").read_text())
    used = {part.strip("%") for part in _texts(package) if part.startswith("%")}
    for first, second in (("package.nls.json", "package.nls.ar.json"), ("words/en.json", "words/ar.json")):
        english, arabic = (json.loads((HERE / name).read_text()) for name in (first, second))
        assert english.keys() == arabic.keys()
        assert all(any("\u0600" <= letter <= "\u06ff" for letter in text) for text in arabic.values())
        assert {key: english[key].count("{0}") for key in english} == {key: arabic[key].count("{0}") for key in arabic}
    assert used == set(json.loads((HERE / "package.nls.json").read_text()))


def _texts(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for each in value.values() for text in _texts(each)]
    if isinstance(value, list):
        return [text for each in value for text in _texts(each)]
    return [value] if isinstance(value, str) else []


def test_what_is_put_in_place_is_what_code_server_installs_from_the_vsix(tmp_path: Path) -> None:
    """Our own way in stays true to the editor's: the same files, and a list that it reads alike."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    code_server(theirs, "--install-extension", str(pack(tmp_path)))
    folder, other = prepare(ours), theirs / editor_extension.EXTENSIONS
    for name in editor_extension.contents():
        here, there = (folder / NAME / name).read_bytes(), (other / NAME / name).read_bytes()
        if name == "package.json":  # where it notes how it came by it
            assert json.loads(here) == {key: value for key, value in json.loads(there).items() if key != "__metadata"}
        else:
            assert here == there
    assert code_server(ours, "--list-extensions", "--show-versions").split()[-1] == f"croft.croft@{__version__}"
    (row,) = json.loads((other / "extensions.json").read_text())
    assert {"identifier", "version", "location", "relativeLocation", "metadata"} == row.keys()


def test_other_peoples_extensions_are_left_alone_and_an_older_one_of_ours_goes(tmp_path: Path) -> None:
    folder = prepare(tmp_path)
    assert json.loads((folder / "extensions.json").read_text())[0]["metadata"]["pinned"], "from the first start on"
    other = {"identifier": {"id": "somebody.else"}, "version": "1.0.0", "relativeLocation": "somebody.else-1.0.0"}
    old = {"identifier": {"id": "Croft.croft"}, "version": "0.0.1", "relativeLocation": "croft.croft-0.0.1"}
    (folder / "extensions.json").write_text(json.dumps([old, other]))
    (folder / ".obsolete").write_text(json.dumps({NAME: True, "somebody.else-0.9.0": True}))
    for name in ("croft.croft-0.0.1/words", "somebody.else-1.0.0"):
        (folder / name).mkdir(parents=True)
        (folder / name / "kept.txt").write_text("theirs")
    (folder / NAME / "link.js").write_text("changed by somebody")

    prepare(tmp_path)
    listed = json.loads((folder / "extensions.json").read_text())
    assert listed[0] == other
    assert [(row["identifier"]["id"], row["version"]) for row in listed[1:]] == [("croft.croft", __version__)]
    assert listed[1]["metadata"]["pinned"], "the marketplace's own of this name never replaces it"
    assert json.loads((folder / ".obsolete").read_text()) == {"somebody.else-0.9.0": True}
    assert (folder / "somebody.else-1.0.0/kept.txt").read_text() == "theirs"
    assert not (folder / "croft.croft-0.0.1").exists()
    assert (folder / NAME / "link.js").read_bytes() == (HERE / "link.js").read_bytes()

    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    prepare(tmp_path)
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}, (
        "nothing is written when nothing changed"
    )


@pytest.mark.parametrize("spoiled", ["{}", "[[]]", "null", "\xff", "[" * 5000, '[{"identifier": 1}]'])
def test_the_editor_starts_whatever_lies_there(tmp_path: Path, spoiled: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A list that cannot be read costs the extension at most, and says so in the editor's log."""
    folder = prepare(tmp_path)
    (folder / "extensions.json").write_text(spoiled, encoding="latin-1")
    prepare(tmp_path)
    assert "cannot install the editor's extension" in capfd.readouterr().err
    assert (folder / "extensions.json").read_text(encoding="latin-1") == spoiled


def test_links_lead_nowhere_else(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """CMD-9's sibling: neither a folder nor a file planted there takes a write out of the home."""
    outside = tmp_path / "outside"
    outside.mkdir()
    home = tmp_path / "home"
    data = home / ".local/share/code-server"
    data.mkdir(parents=True)
    (data / "extensions").symlink_to(outside)
    prepare(home)
    assert list(outside.iterdir()) == []
    (data / "extensions").unlink()
    (data / "extensions").mkdir()
    victim = outside / "victim"
    victim.write_text("safe")
    (data / "extensions/.croft-new").symlink_to(outside)
    (data / f"extensions/{NAME}").symlink_to(outside)
    (data / "extensions/extensions.json").symlink_to(victim)
    prepare(home)
    assert victim.read_text() == "safe"
    assert sorted(path.name for path in outside.iterdir()) == ["victim"]
    assert (data / f"extensions/{NAME}").is_dir()
    assert not (data / f"extensions/{NAME}").is_symlink()
