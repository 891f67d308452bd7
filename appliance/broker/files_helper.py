"""The file helper: opens the workspace's files as the workspace's user, for a daemon that never does.

Rule: every path goes through openat2 beneath the workspace's descriptor; nothing is opened that is not a regular file
or a folder, and nothing blocks on one. Standard input is the socket; the process has no network and can start
nothing.
"""

from __future__ import annotations

import base64
import errno
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path, PurePath

from appliance.broker import kernel, protocol
from appliance.broker.protocol import Field, Object, Verb, flag, one_of, text, whole, words
from appliance.errors import Conflict, CroftError, Forbidden, Invalid, NotFound

MOST_READ = 40_000  # bytes in one answer: as base64 with its frame they fit one packet
MOST_FILE = 64 << 20
MOST_LIST = 60_000  # bytes of names in one answer
_PATH = Field(text(longest=4096))
_REGULAR = "only regular files can be opened"


class Helper:
    """The verbs of one helper, rooted at the descriptor ``root``."""

    def __init__(self, root: int) -> None:
        self._root = root

    def verbs(self) -> dict[str, Verb]:
        size = Field(whole(0, 1 << 62), False)
        return {
            "list": Verb(self.entries, {"path": _PATH, "after": Field(text(longest=255), False)}),
            "stat": Verb(self.stat, {"path": _PATH}),
            "resolve": Verb(self.resolve, {"paths": Field(words(256))}),
            "read": Verb(self.read, {"path": _PATH, "offset": size, "length": Field(whole(1, MOST_READ), False)}),
            "write": Verb(
                self.write,
                {
                    "path": _PATH,
                    "data": Field(text(r"[A-Za-z0-9+/]*={0,2}", protocol.MAX_PACKET), False),
                    "mode": Field(one_of(("new", "replace")), False),
                    "version": Field(text(longest=100), False),
                    "folders": Field(flag, False),
                },
            ),
        }

    def entries(self, fds: list[int], path: str, after: str = "") -> Object:
        """Names after ``after`` in order of bytes, as many as fit one packet; ``more`` says whether to ask again."""
        folder = self._open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            names = sorted(
                name
                for name in os.listdir(folder)  # noqa: PTH208 - a descriptor, not a path
                if _sendable(name) and name > after
            )
            rows: list[Object] = []
            size = 0
            for row in filter(None, (_row_at(folder, name) for name in names)):
                size += len(protocol.encode(row)) + 1
                if size > MOST_LIST:
                    return {"entries": rows, "more": True}
                rows.append(row)
            return {"entries": rows, "more": False}
        finally:
            os.close(folder)

    def stat(self, fds: list[int], path: str) -> Object:
        """The row of what ``path`` names, links followed inside the workspace."""
        fd = self._open(path, os.O_PATH)
        try:
            return _row(PurePath(path).name, os.fstat(fd))
        finally:
            os.close(fd)

    def resolve(self, fds: list[int], paths: list[str]) -> Object:
        """Where each path leads now, links followed: ``{path, kind}``, or ``{code}`` where it leads nowhere we go.

        ``kind`` is ``missing`` for what could be made at ``path``.
        """
        return {"paths": [self._resolved(path) for path in paths]}

    def _resolved(self, path: str) -> Object:
        try:
            return self._led(path)
        except FileNotFoundError:
            return {"code": "not_found"}
        except PermissionError:
            return {"code": "forbidden"}
        except OSError as error:
            return {"code": "outside" if error.errno in (errno.EXDEV, errno.ELOOP) else "invalid"}

    def _led(self, path: str) -> Object:
        """Step by step towards the workspace until something is there; ``rest`` is what was cut off. Raises OSError."""
        rest = ""
        while (fd := self._open_or_cut(path, bool(rest))) is None:
            path, _, name = path.rstrip("/").rpartition("/")
            rest = f"{name}/{rest}" if rest else name
        try:
            place = os.path.relpath(_place(fd), _place(self._root))
            kind = "missing" if rest else str(_row("", os.fstat(fd))["kind"])
        finally:
            os.close(fd)
        return {"path": os.path.normpath(f"{place}/{rest}"), "kind": kind}

    def _open_or_cut(self, path: str, cut: bool) -> int | None:
        """A descriptor; None where nothing is there and what it lies in may be asked for instead. Raises OSError."""
        try:
            return self._open(path, os.O_PATH | (os.O_DIRECTORY if cut else 0))
        except FileNotFoundError:
            if path.rstrip("/").rpartition("/")[2] in ("", ".", "..") or self._is_link(path):
                raise
            return None

    def _is_link(self, path: str) -> bool:
        """Whether ``path`` is a link that leads nowhere: what is written through it would land elsewhere."""
        parent, _, name = path.rstrip("/").rpartition("/")
        try:
            folder = self._open(parent, os.O_PATH | os.O_DIRECTORY)
        except FileNotFoundError:
            return False
        try:
            return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return False
        finally:
            os.close(folder)

    def read(self, fds: list[int], path: str, offset: int = 0, length: int = MOST_READ) -> Object:
        """Bytes of a regular file as base64, with the row of the file they came from."""
        fd = self._open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise Invalid(_REGULAR)
            data = os.pread(fd, length, offset)
        finally:
            os.close(fd)
        return {
            **_row(PurePath(path).name, found),
            "data": base64.b64encode(data).decode("ascii"),
            "end": offset + len(data) >= found.st_size,
        }

    def write(
        self,
        fds: list[int],
        path: str,
        data: str | None = None,
        mode: str = "new",
        version: str | None = None,
        folders: bool = False,
    ) -> Object:
        """Write a whole file at once: readers see the old one or the new one.

        The content is ``data`` or one descriptor. ``new`` fails if there is one; ``replace`` can
        ask for the ``version`` it was read as. Raises CroftError.
        """
        parent, _, name = path.rstrip("/").rpartition("/")
        if name in ("", ".", ".."):
            raise Invalid("the path names no file")
        if (data is None) == (not fds):
            raise Invalid("a write takes data or one descriptor")
        if folders:
            self._make_folders(parent)
        folder = self._open(parent or ".", os.O_PATH | os.O_DIRECTORY)
        try:
            permissions = _check_old(folder, name, mode, version)
            _replace(folder, name, mode, permissions, lambda fd: _fill(fd, data, fds))
            return _row_at(folder, name) or {}
        finally:
            os.close(folder)

    def _make_folders(self, path: str) -> None:
        done = ""
        for part in path.split("/"):
            parent, done = done, f"{done}/{part}" if done else part
            if part in ("", ".", ".."):
                raise Invalid("the path is not a plain relative path")
            folder = self._open(parent or ".", os.O_PATH | os.O_DIRECTORY)
            try:
                os.mkdir(part, 0o755, dir_fd=folder)
            except FileExistsError:
                continue
            finally:
                os.close(folder)

    def _open(self, path: str, flags: int) -> int:
        return kernel.open_beneath(self._root, path or ".", flags)


def serve(root: int) -> None:
    """Answer requests on descriptor 0 until the other end closes."""
    converse(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=0), Helper(root).verbs())


def converse(channel: socket.socket, verbs: dict[str, Verb]) -> None:
    """Answer requests by ``verbs`` until the other end closes."""
    while True:
        packet, fds, flags, _ = socket.recv_fds(channel, protocol.MAX_PACKET + 1, protocol.MAX_FDS)
        if not packet:
            return
        try:
            channel.sendmsg([_answer(verbs, packet, fds, flags)])
        finally:
            for fd in fds:
                os.close(fd)


def _answer(verbs: dict[str, Verb], packet: bytes, fds: list[int], flags: int) -> bytes:
    number = 0
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(fds) > 1:
            raise Invalid("the packet is too large or carries too many descriptors")
        message = protocol.decode(packet)
        number = protocol.request_id(message)
        verb, arguments = protocol.arguments(verbs, message)
        return protocol.encode({"id": number, "ok": True, **verb.run(fds, **arguments)})
    except CroftError as error:
        return protocol.encode(protocol.failure(number, error))
    except OSError as error:
        return protocol.encode(protocol.failure(number, _explain(error)))


def _explain(error: OSError) -> CroftError:
    """Words for a failed call; EXDEV is how openat2 says that a path leads out."""
    kinds: dict[type[OSError], type[CroftError]] = {
        FileNotFoundError: NotFound,
        PermissionError: Forbidden,
        FileExistsError: Conflict,
    }
    if error.errno == errno.EXDEV:
        return Forbidden("the path leads out of the workspace", code="outside")
    return kinds.get(type(error), Invalid)(f"cannot use the file: {error.strerror}")


def _check_old(folder: int, name: str, mode: str, version: str | None) -> int:
    """The permissions for the new file. Raises Conflict, or Invalid for what is not a regular file."""
    try:
        old = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        if version is not None:
            raise Conflict("the file is gone", code="changed") from None
        return 0o644
    if mode == "new":
        raise Conflict("there is a file of this name already", code="exists")
    if not stat.S_ISREG(old.st_mode):
        raise Invalid(_REGULAR)
    if version is not None and version != _version(old):
        raise Conflict("the file has changed meanwhile", code="changed")
    return stat.S_IMODE(old.st_mode) & 0o777


def _replace(folder: int, name: str, mode: str, permissions: int, fill: Callable[[int], None]) -> None:
    fresh = f".croft-{os.urandom(8).hex()}.new"
    fd = kernel.open_beneath(folder, fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        try:
            fill(fd)
            os.fchmod(fd, permissions)
            os.fsync(fd)
        finally:
            os.close(fd)
        if mode == "new":
            kernel.rename_new(folder, fresh, name)
        else:
            os.rename(fresh, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        os.unlink(fresh, dir_fd=folder)
        raise


def _fill(fd: int, data: str | None, fds: list[int]) -> None:
    if data is not None:
        try:
            rest = base64.b64decode(data, validate=True)
        except ValueError as error:
            raise Invalid("data is not base64") from error
        while rest:  # a disk that is nearly full takes a part, and only then says so
            rest = rest[os.write(fd, rest) :]
        return
    size = 0
    if not stat.S_ISREG(os.fstat(fds[0]).st_mode):
        raise Invalid(_REGULAR)
    while chunk := os.pread(fds[0], 1 << 20, size):
        size += os.write(fd, chunk)
        if size > MOST_FILE:
            raise Invalid(f"the file is larger than {MOST_FILE >> 20} MiB")


def _row_at(folder: int, name: str) -> Object | None:
    try:
        return _row(name, os.stat(name, dir_fd=folder, follow_symlinks=False))
    except FileNotFoundError:
        return None


def _row(name: str, found: os.stat_result) -> Object:
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link"}
    return {
        "name": name,
        "kind": kinds.get(stat.S_IFMT(found.st_mode), "other"),
        "size": found.st_size,
        "modified": found.st_mtime,
        "version": _version(found),
    }


def _version(found: os.stat_result) -> str:
    """Changes whenever the file was replaced or written."""
    return f"{found.st_dev:x}-{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_size:x}"


def _place(fd: int) -> Path:
    return Path(f"/proc/self/fd/{fd}").readlink()


def _sendable(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
