"""Merging a list of changes into the workspace, forwards (apply) or backwards (undo): all of it or nothing.

Rules: first everything is checked, then every new content lies on the disk beside the workspace's files, then names move.
Each step asks what is there: done already, still to do, or changed by somebody else. So merging again after a crash goes on
where it stopped, and merging the other way takes back what was half done.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from functools import cached_property

from appliance.broker import kernel
from appliance.broker.changes import STAGING, described, differ, look, opened, version
from appliance.broker.protocol import Object

_PIECE = 1 << 20


class Changed(OSError):
    """Somebody else has changed what lies at a path."""


class Merge:
    """``changes`` are rows of ``path``, ``before`` and ``after``; contents lie in the file ``parcel``."""

    def __init__(self, root: int, parcel: int, run: str, changes: list[Object], *, backwards: bool) -> None:
        self._root, self._parcel, self._run, self._changes = root, parcel, run, changes
        self._have, self._want = ("after", "before") if backwards else ("before", "after")
        self._backwards = backwards

    def run(self) -> tuple[list[str], list[str]]:
        """Paths in conflict (nothing was changed then), and paths that could neither be merged nor taken back."""
        conflicts = self.conflicts()
        if conflicts:
            return conflicts, []
        try:
            self._stage()
            self._move()
        except OSError as error:
            path = str(error.filename) if isinstance(error, Changed) else ""
            other = Merge(self._root, self._parcel, self._run, self._changes, backwards=not self._backwards)
            return [path], other._take_back()
        finally:
            self._clear()
        return [], []

    def conflicts(self) -> list[str]:
        """The paths that are neither as they were nor as they shall be."""
        return [row["path"] for row in self._changes if not self._expected(row)]

    def _take_back(self) -> list[str]:
        """Undo the half that was done. Paths that somebody else has changed meanwhile stay as they are."""
        torn = self.conflicts()
        rest = [row for row in self._changes if row["path"] not in torn]
        merge = Merge(self._root, self._parcel, self._run, rest, backwards=self._backwards)
        try:
            merge._stage()
            merge._move()
        except OSError as error:
            torn.append(str(error.filename or ""))
        return torn

    def _expected(self, row: Object) -> bool:
        have, want = row[self._have], row[self._want]
        try:
            with self._parent(row["path"]) as (folder, name):
                if self._is_done(folder, name, row):
                    return True
                if self._is_untouched(folder, name, row):
                    return want is not None or have["kind"] != "folder" or self._holds_only_ours(folder, name, row)
                return _kind(have) != _kind(want) and look(folder, name) is None
        except OSError as error:
            # Its folder is to be made, or is gone already; what was mounted there since the rehearsal is neither.
            return error.errno != errno.EXDEV and (have is None or want is None)

    def _is_done(self, folder: int, name: str, row: Object) -> bool:
        return self._is(folder, name, self._in_between(row, self._want), exact=False)

    def _is_untouched(self, folder: int, name: str, row: Object) -> bool:
        return self._is(folder, name, self._in_between(row, self._have), exact=True)

    def _in_between(self, row: Object, side: str) -> Object | None:
        """The state wanted there, but for the permissions of a folder that this merge makes or removes: they come last."""
        state: Object | None = row[side]
        if state and state["kind"] == "folder" and _kind(row["before"]) != _kind(row["after"]):
            return {"kind": "folder"}
        return state

    def _is(self, folder: int, name: str, state: Object | None, *, exact: bool) -> bool:
        """Whether ``state`` is what is there. ``exact``: untouched since the rehearsal, where that was recorded."""
        found = look(folder, name)
        if found is None or state is None:
            return found is None and state is None
        if exact and "version" in state and state["kind"] != "folder":
            return bool(state["version"] == version(found))
        here = described(folder, name, found)
        if here["kind"] == "file" == state["kind"]:
            if found.st_size != state["size"]:
                return False
            here |= {"size": found.st_size, "sha256": _digest(folder, name)}
        if state == {"kind": "folder"}:
            return bool(here["kind"] == "folder")
        return not differ(here, state)

    def _holds_only_ours(self, folder: int, name: str, row: Object) -> bool:
        """A folder is removed only when everything in it is on the list."""
        fd = kernel.open_beneath(folder, name, os.O_RDONLY | os.O_DIRECTORY, links=False)
        try:
            return all(f"{row['path']}/{inner}" in self._paths for inner in os.listdir(fd))  # noqa: PTH208
        finally:
            os.close(fd)

    @cached_property
    def _paths(self) -> set[str]:
        return {row["path"] for row in self._changes}

    # Contents first

    def _stage(self) -> None:
        """Every new file and link, complete and on the disk, in a folder of its own."""
        self._clear()
        os.mkdir(self._staging, 0o700, dir_fd=self._root)
        folder = kernel.open_beneath(self._root, self._staging, os.O_RDONLY | os.O_DIRECTORY, links=False)
        try:
            for number, row in enumerate(self._changes):
                want = row[self._want]
                if _kind(want) == "file":
                    self._write(folder, str(number), want)
                elif _kind(want) == "link":
                    os.symlink(want["target"], str(number), dir_fd=folder)
            kernel.sync_files(folder)
        finally:
            os.close(folder)

    def _write(self, folder: int, name: str, want: Object) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        fd = kernel.open_beneath(folder, name, flags, 0o600)
        try:
            digest, at, end = hashlib.sha256(), want["at"], want["at"] + want["size"]
            while at < end:
                piece = os.pread(self._parcel, min(_PIECE, end - at), at)
                if not piece:
                    raise OSError(errno.EIO, "the kept contents end too early")
                digest.update(piece)
                at += len(piece)
                while piece:
                    piece = piece[os.write(fd, piece) :]
            if digest.hexdigest() != want["sha256"]:
                raise OSError(errno.EIO, "the kept contents are not what was shown")
            os.fchmod(fd, want["mode"])
            os.utime(fd, ns=(want["mtime"], want["mtime"]))
        finally:
            os.close(fd)

    # Then names

    def _move(self) -> None:
        for row in self._deepest_first():
            self._remove(row)
        for number, row in sorted(enumerate(self._changes), key=lambda one: _parts(one[1])):
            if row[self._want] is not None:
                self._make(row, number)
        for row in self._deepest_first():
            if _kind(row[self._want]) == "folder":
                self._set_mode(row)
        kernel.sync_files(self._root)

    def _deepest_first(self) -> list[Object]:
        return sorted(self._changes, key=_parts, reverse=True)

    def _remove(self, row: Object) -> None:
        """What shall not be there any more, or makes way for something of another kind."""
        have, want = row[self._have], row[self._want]
        if have is None or _kind(have) == _kind(want):
            return
        try:
            with self._parent(row["path"]) as (folder, name):
                if look(folder, name) is None or self._is_done(folder, name, row):
                    return
                self._check(folder, name, row)
                if have["kind"] == "folder":
                    os.rmdir(name, dir_fd=folder)
                else:
                    os.unlink(name, dir_fd=folder)
        except FileNotFoundError:
            return

    def _make(self, row: Object, number: int) -> None:
        want = row[self._want]
        with self._parent(row["path"]) as (folder, name):
            found = look(folder, name)
            if found is not None and self._is_done(folder, name, row):
                return
            if want["kind"] == "folder":
                if found is None:
                    os.mkdir(name, 0o700, dir_fd=folder)
                return
            if found is not None or _kind(row[self._have]) == want["kind"]:
                self._check(folder, name, row)
            os.rename(f"{self._staging}/{number}", name, src_dir_fd=self._root, dst_dir_fd=folder)

    def _set_mode(self, row: Object) -> None:
        with self._parent(row["path"]) as (folder, name):
            fd = kernel.open_beneath(folder, name, os.O_RDONLY | os.O_DIRECTORY, links=False)
            try:
                if stat.S_IMODE(os.fstat(fd).st_mode) != row[self._want]["mode"]:
                    os.fchmod(fd, row[self._want]["mode"])
            finally:
                os.close(fd)

    def _check(self, folder: int, name: str, row: Object) -> None:
        if not self._is_untouched(folder, name, row):
            raise Changed(errno.ESTALE, "it has changed meanwhile", row["path"])

    @contextlib.contextmanager
    def _parent(self, path: str) -> Iterator[tuple[int, str]]:
        """The folder that ``path`` lies in, reached without links, and the name in it. Raises OSError."""
        parent, _, name = path.rpartition("/")
        if name in ("", ".", ".."):
            raise OSError(errno.EINVAL, "this is no path of a change")
        folder = kernel.open_beneath(self._root, parent or ".", os.O_PATH | os.O_DIRECTORY, links=False, mounts=False)
        try:
            yield folder, name
        finally:
            os.close(folder)

    @property
    def _staging(self) -> str:
        return f"{STAGING}-{self._run}"

    def _clear(self) -> None:
        """Remove the staging folder: its names are ours, and flat."""
        try:
            folder = kernel.open_beneath(self._root, self._staging, os.O_RDONLY | os.O_DIRECTORY, links=False)
        except FileNotFoundError:
            return
        try:
            for name in os.listdir(folder):  # noqa: PTH208 - a descriptor
                os.unlink(name, dir_fd=folder)
        finally:
            os.close(folder)
        os.rmdir(self._staging, dir_fd=self._root)


def _digest(folder: int, name: str) -> str:
    with opened(folder, name) as fd:
        digest = hashlib.sha256()
        while piece := os.read(fd, _PIECE):
            digest.update(piece)
        return digest.hexdigest()


def _kind(state: Object | None) -> str:
    return str(state["kind"]) if state else ""


def _parts(row: Object) -> list[str]:
    return str(row["path"]).split("/")
