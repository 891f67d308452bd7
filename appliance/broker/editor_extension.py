"""Croft's own extension in the editor: put there before each start, in both runtimes, as code-server itself would install it.

Rule: this runs as the workspace's user, beneath that user's home, and touches nothing there but this one extension. Whatever it
meets, the editor starts: with an older extension or none, never not at all.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from appliance.broker import kernel

SOURCE = Path(__file__).resolve().parents[2] / "webui/editor"
ID = "croft.croft"
EXTENSIONS = ".local/share/code-server/extensions"
_NEW = ".croft-new"
_LIST, _OBSOLETE = "extensions.json", ".obsolete"
_LIST_MAX = 4 * 1024 * 1024


def contents(source: Path = SOURCE) -> dict[str, bytes]:
    """The extension's files by name, in one order; the only places that say what belongs to it."""
    found = (path for path in source.rglob("*") if path.suffix in (".js", ".json") and path.is_file())
    return {path.relative_to(source).as_posix(): path.read_bytes() for path in sorted(found)}


def version(files: dict[str, bytes]) -> str:
    return str(json.loads(files["package.json"])["version"])


def install(home: int) -> None:
    """Have the extension, as it is in this version of Croft, beneath the folder ``home`` describes."""
    try:
        folder = _extensions(home)
        try:
            _install(folder, str(Path(f"/proc/self/fd/{folder}").readlink()))
        finally:
            os.close(folder)
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        sys.stderr.write(f"croft: cannot install the editor's extension: {error}\n")


def _extensions(home: int) -> int:
    try:
        parent = kernel.open_beneath(home, str(Path(EXTENSIONS).parent), os.O_PATH | os.O_DIRECTORY)
        try:
            os.mkdir(Path(EXTENSIONS).name, 0o750, dir_fd=parent)
        finally:
            os.close(parent)
    except FileExistsError:
        pass
    return kernel.open_beneath(home, EXTENSIONS, os.O_RDONLY | os.O_DIRECTORY)


def _install(folder: int, path: str) -> None:
    files = contents()
    name = f"{ID}-{version(files)}"
    if not _is_there(folder, name, files):
        _remove(folder, _NEW)
        _write_all(folder, files)
        _remove(folder, name)
        os.rename(_NEW, name, src_dir_fd=folder, dst_dir_fd=folder)
    for old in os.listdir(folder):
        if old.startswith(f"{ID}-") and old != name:
            _remove(folder, old)
    _enter(folder, path, name, version(files))
    _keep_from_removal(folder)


def _is_there(folder: int, name: str, files: dict[str, bytes]) -> bool:
    """Whether it is whole and unchanged."""
    try:
        return all(_read(folder, f"{name}/{inner}") == data for inner, data in files.items())
    except OSError:  # a link, or a file where a folder should be
        return False


def _enter(folder: int, path: str, name: str, number: str) -> None:
    """In the list of installed extensions. Where others lie without one, the editor makes it itself of what it finds."""
    text = _read(folder, _LIST)
    if text is None:
        if any(not found.startswith((".", f"{ID}-")) for found in os.listdir(folder)):
            return
        text = b"[]"
    listed = json.loads(text)
    if not isinstance(listed, list):
        raise TypeError(f"{_LIST} is not a list")
    others = [row for row in listed if str(row["identifier"]["id"]).lower() != ID]
    # Like what code-server writes for a .vsix. "Application scoped": in every profile that people make. "Pinned": never
    # updated from the marketplace, where anybody may take this name.
    wanted: dict[str, Any] = {
        "identifier": {"id": ID},
        "version": number,
        "location": {"$mid": 1, "path": f"{path}/{name}", "scheme": "file"},
        "relativeLocation": name,
        "metadata": {"isApplicationScoped": True, "pinned": True, "source": "vsix"},
    }
    found = [row for row in listed if row not in others]
    if len(found) != 1 or not _fits(found[0], wanted):
        _replace(folder, _LIST, json.dumps([*others, wanted]).encode())


def _fits(found: Any, wanted: Any) -> bool:
    """Whether ``found`` says all that ``wanted`` does; code-server adds what it likes to know."""
    if not isinstance(wanted, dict):
        return bool(found == wanted)
    return isinstance(found, dict) and all(_fits(found.get(key), value) for key, value in wanted.items())


def _keep_from_removal(folder: int) -> None:
    """Who removed it gets it back; who does not want it disables it."""
    text = _read(folder, _OBSOLETE)
    marked = json.loads(text) if text else {}
    kept = {key: value for key, value in marked.items() if not key.startswith(f"{ID}-")}
    if kept != marked:
        _replace(folder, _OBSOLETE, json.dumps(kept).encode())


def _read(folder: int, name: str) -> bytes | None:
    try:
        fd = kernel.open_beneath(folder, name, os.O_RDONLY | os.O_NONBLOCK, links=False)
    except FileNotFoundError:
        return None
    with os.fdopen(fd, "rb") as file:
        return file.read(_LIST_MAX)


def _write_all(folder: int, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        inner = f"{_NEW}/{name}"
        for parent in reversed(Path(inner).parents[:-1]):
            try:
                os.mkdir(parent, 0o750, dir_fd=folder)
            except FileExistsError:
                continue
        _write(folder, inner, data)


def _write(folder: int, name: str, data: bytes) -> None:
    fd = kernel.open_beneath(folder, name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640, links=False)
    with os.fdopen(fd, "wb") as file:
        file.write(data)


def _replace(folder: int, name: str, data: bytes) -> None:
    _remove(folder, _NEW)
    _write(folder, _NEW, data)
    os.replace(_NEW, name, src_dir_fd=folder, dst_dir_fd=folder)


def _remove(folder: int, name: str) -> None:
    import shutil  # in the child alone: the broker itself does without

    try:
        os.unlink(name, dir_fd=folder)
    except IsADirectoryError:
        shutil.rmtree(name, dir_fd=folder)
    except FileNotFoundError:
        return
