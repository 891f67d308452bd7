"""What a rehearsal changed: its merged view compared with the workspace, wherever the run wrote.

Rule: only folders that the upper layer holds are looked into, and what is there is taken from the merged view: whiteouts
and opaque folders need no reading, so marks that a run forges mean nothing. Names are opened one step at a time without
links; what cannot be carried over exactly is named as a problem instead of being left out.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from appliance.broker import kernel
from appliance.broker.protocol import Object

MOST_CHANGES = 10_000
MOST_BYTES = 512 << 20  # of contents, before and after
MOST_DEPTH = 100
STAGING = ".croft-rehearsal"
_PIECE = 1 << 20
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


class TooMuchError(Exception):
    """The result is larger than what can be shown and applied; the argument is ``too_many``, ``too_large`` or ``too_deep``."""


@dataclass(frozen=True)
class Trees:
    """The same folder in the workspace, in the upper layer and in the merged view; None where it is not a folder."""

    lower: int | None
    upper: int | None
    merged: int | None

    @contextlib.contextmanager
    def inner(self, name: str) -> Iterator[Trees]:
        """The folder ``name`` of each. Raises OSError for one that may not be read."""
        with contextlib.ExitStack() as held:
            yield Trees(*(_folder(held, fd, name) for fd in (self.lower, self.upper, self.merged)))


class Collector:
    """Writes contents into the file ``parcel`` (a descriptor), then the list of changes.

    ``since`` is when the view was made (ns, the clock that dates files): what changed in the workspace later is ``stale``.
    """

    def __init__(self, parcel: int, since: int) -> None:
        self._parcel, self._since = parcel, since
        self._end = 0
        self._changes: list[Object] = []
        self._problems: list[Object] = []

    def collect(self, trees: Trees) -> Object:
        """``{at, length, changes, problems, cause}``: where the list lies in the parcel, and how long it is."""
        cause = ""
        try:
            self._compare(trees, "", 0)
        except TooMuchError as error:
            cause = str(error)
        listed = {"version": 1, "cause": cause, "changes": self._changes, "problems": self._problems}
        text = json.dumps(listed, sort_keys=True, separators=(",", ":")).encode("ascii")
        os.ftruncate(self._parcel, self._end)
        _write(self._parcel, text, self._end)
        os.fsync(self._parcel)
        counts = {"changes": len(self._changes), "problems": len(self._problems)}
        return {"at": self._end, "length": len(text), "cause": cause, **counts}

    def _compare(self, trees: Trees, path: str, depth: int) -> None:
        if depth > MOST_DEPTH:
            raise TooMuchError("too_deep")
        for name in sorted(_names(trees.upper) | (_names(trees.lower) - _names(trees.merged))):
            inner = f"{path}/{name}" if path else name
            cause = _unfit(name, inner)
            if cause:
                self._problem(inner, cause)
                continue
            try:
                self._entry(trees, name, inner, depth)
            except PermissionError:
                self._problem(inner, "unreadable")

    def _entry(self, trees: Trees, name: str, path: str, depth: int) -> None:
        start, kept = self._end, len(self._changes)
        if is_mounted(trees.lower, name):  # a view has only what lies beneath it
            self._problem(path, "special")
            return
        before, after = self._state(trees.lower, name), self._state(trees.merged, name)
        for one in filter(None, (before, after)):
            if one["kind"] == "other" or (one["kind"] == "file" and one["mode"] & 0o6000):
                self._problem(path, "special")
                self._end = start
                return
        if differ(before, after):
            changed = before.pop("changed") if before else 0
            self._changes.append(
                {"path": path, "before": before, "after": _dated(after), "stale": changed >= self._since}
            )
            if len(self._changes) > MOST_CHANGES:
                del self._changes[kept:]
                raise TooMuchError("too_many")
        else:
            self._end = start
        if "folder" in (before or {}).values() or "folder" in (after or {}).values():
            with trees.inner(name) as folders:
                self._compare(folders, path, depth + 1)

    def _state(self, folder: int | None, name: str) -> Object | None:
        """What ``name`` is there; the contents of a file go into the parcel."""
        found = look(folder, name)
        if found is None or folder is None:
            return None
        state = described(folder, name, found) | {"version": version(found), "changed": found.st_ctime_ns}
        if state["kind"] == "file":
            with opened(folder, name) as fd:
                state |= {"at": self._end, **self._keep(fd)}
        return state

    def _keep(self, fd: int) -> Object:
        digest, size = hashlib.sha256(), 0
        while piece := os.read(fd, _PIECE):
            if self._end + len(piece) > MOST_BYTES:
                raise TooMuchError("too_large")
            _write(self._parcel, piece, self._end)
            digest.update(piece)
            size += len(piece)
            self._end += len(piece)
        return {"sha256": digest.hexdigest(), "size": size}

    def _problem(self, path: str, cause: str) -> None:
        if len(self._problems) < 100:
            self._problems.append({"path": path.encode("utf-8", "replace").decode()[:4096], "cause": cause})


def differ(one: Object | None, other: Object | None) -> bool:
    """Whether two states are not the same; when a file was written does not count."""
    if one is None or other is None:
        return one is not other
    return any(one.get(key) != other.get(key) for key in ("kind", "mode", "size", "sha256", "target"))


def look(folder: int | None, name: str) -> os.stat_result | None:
    """``name`` itself, never what a link leads to; None where there is nothing."""
    if folder is None:
        return None
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def is_mounted(folder: int | None, name: str) -> bool:
    """Whether something of another disk stands there."""
    if folder is None:
        return False
    try:
        os.close(kernel.open_beneath(folder, name, os.O_PATH | os.O_NOFOLLOW, links=False, mounts=False))
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return True
    return False


def described(folder: int, name: str, found: os.stat_result) -> Object:
    """``kind`` and what belongs to it; a file's contents are the caller's to add."""
    mode, kind = stat.S_IMODE(found.st_mode), stat.S_IFMT(found.st_mode)
    if kind == stat.S_IFDIR:
        return {"kind": "folder", "mode": mode}
    if kind == stat.S_IFLNK:
        target = os.readlink(name, dir_fd=folder)
        return {"kind": "link" if _fits(target) else "other", "target": target if _fits(target) else ""}
    if kind == stat.S_IFREG:
        return {"kind": "file", "mode": mode, "mtime": found.st_mtime_ns}
    return {"kind": "other"}


def version(found: os.stat_result) -> str:
    """Changes whenever the thing was replaced, written or given other permissions: the kernel alone sets the last part."""
    return f"{found.st_dev:x}-{found.st_ino:x}-{found.st_ctime_ns:x}"


@contextlib.contextmanager
def opened(folder: int, name: str) -> Iterator[int]:
    """A regular file for reading. Raises OSError."""
    fd = kernel.open_beneath(folder, name, _FILE, links=False)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise PermissionError
        yield fd
    finally:
        os.close(fd)


def _folder(held: contextlib.ExitStack, parent: int | None, name: str) -> int | None:
    if parent is None:
        return None
    try:
        fd = kernel.open_beneath(parent, name, _FOLDER, links=False)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        found = look(parent, name)
        if found is None or not stat.S_ISDIR(found.st_mode):
            return None
        raise
    held.callback(os.close, fd)
    return fd


def _dated(after: Object | None) -> Object | None:
    """A state of the view: how its file is numbered there says nothing."""
    return {key: value for key, value in after.items() if key not in ("version", "changed")} if after else None


def _names(folder: int | None) -> set[str]:
    return set(os.listdir(folder)) if folder is not None else set()  # noqa: PTH208 - a descriptor


def _unfit(name: str, path: str) -> str:
    if not _fits(name):
        return "name"
    if path.split("/", 1)[0].startswith(STAGING) or len(path.encode()) > 4000:
        return "name"
    return ""


def _fits(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _write(fd: int, data: bytes, at: int) -> None:
    while data:
        done = os.pwrite(fd, data, at)
        data, at = data[done:], at + done
