"""The installer's only way to touch the machine: run a program, write a file, print a line.

Rule: no shell, no input from a terminal, and every failure says which program failed with its last words.
"""

from __future__ import annotations

import hashlib
import os
import selectors
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from appliance.errors import CroftError

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_HEARTBEAT = 5.0  # seconds between two lines of progress: a log must not fill with them


class InstallError(CroftError):
    """The installation cannot go on; what was done so far stays, and the next run resumes there."""

    code = "install"


class Console:
    """Plain lines with a place and a time, for a terminal, a log and a screen reader alike."""

    def __init__(self, write: Callable[[str], None] | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self._write = write or (lambda line: print(line, flush=True))
        self._now = now
        self._last = now()
        self._shown = ""

    def say(self, line: str = "") -> None:
        """One line, at once."""
        self._write(line)

    def progress(self, line: str) -> None:
        """One line of progress, unless it says nothing new or the last one was less than five seconds ago."""
        if line != self._shown and self._now() - self._last >= _HEARTBEAT:
            self._last, self._shown = self._now(), line
            self._write(f"         {line}")


@dataclass
class Host:
    """One machine. ``root`` is the top of its files: ``/``, or a folder in tests."""

    root: Path = Path("/")
    console: Console = field(default_factory=Console)

    def path(self, absolute: str | Path) -> Path:
        """Where ``absolute`` lies under this machine's root."""
        return self.root / str(absolute).lstrip("/")

    def run(
        self,
        *argv: str,
        env: Mapping[str, str] | None = None,
        check: bool = True,
        stdin: str = "",
        timeout: float = 600,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end. Raises InstallError when it is missing, fails or takes more than ``timeout`` s."""
        try:
            done = subprocess.run(
                argv,
                input=stdin,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                timeout=timeout,
                env=_environment(env),
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise InstallError(f"cannot run {argv[0]}: {error}") from error
        if check and done.returncode != 0:
            raise _failed(argv, done.returncode, (done.stdout + done.stderr).splitlines())
        return done

    def stream(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        describe: Callable[[str], str | None] = lambda line: line,
        measure: Callable[[], str] | None = None,
    ) -> None:
        """Run a long program, showing what it does every few seconds.

        ``describe`` turns a line of output into progress or nothing; ``measure`` is asked when the program is silent.
        Raises InstallError when it fails.
        """
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                cwd=cwd,
                stderr=subprocess.STDOUT,
                env=_environment(env),
            )
        except OSError as error:
            raise InstallError(f"cannot run {argv[0]}: {error}") from error
        last: list[str] = []
        with process:
            for line in _lines(process.stdout.fileno() if process.stdout else -1):
                told = describe(line) if line else (measure() if measure else "still at work")
                last = [*last[-199:], line]
                if told:
                    self.console.progress(told)
        if process.returncode != 0:
            raise _failed(argv, process.returncode, last)

    def read(self, absolute: str) -> str:
        """A text file's content, empty when there is none."""
        try:
            return self.path(absolute).read_text("utf-8")
        except FileNotFoundError:
            return ""

    def write(self, absolute: str, text: str, mode: int = 0o644, gid: int = 0) -> None:
        """Replace a root-owned file in one step, with ``mode`` from its first moment, and have it on disk on return."""
        target = self.path(absolute)
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=".croft-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                os.fchown(file.fileno(), os.geteuid(), gid)
                os.fchmod(file.fileno(), mode)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        _sync_folder(target.parent)


def digest_of(*paths: Path) -> str:
    """SHA-256 over names and bytes of files, and of all files below folders; caches and bytecode are left out."""
    total = hashlib.sha256()
    for path in paths:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts and ".egg-info" not in str(file):
                total.update(f"{file.relative_to(path.parent)}\0".encode())
                total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def folder_mb(path: Path) -> int:
    """Size of everything below ``path`` in MiB; files that vanish meanwhile do not count."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512  # noqa: PTH118 - 20,000 files: speed
            except OSError:
                continue
    return total >> 20


def _lines(descriptor: int) -> Iterator[str]:
    """Lines as they come; an empty one for every few seconds of silence."""
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while True:
            if not selector.select(_HEARTBEAT):
                yield ""
                continue
            block = os.read(descriptor, 1 << 16)
            if not block:
                break
            *whole, rest = (rest + block).split(b"\n")
            yield from (text for line in whole if (text := line.decode("utf-8", "replace").strip()))
    if rest.strip():
        yield rest.decode("utf-8", "replace").strip()


def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    """Root's own environment with a fixed PATH and language; programs' words are parsed."""
    return {**os.environ, "PATH": PATH, "LC_ALL": "C.UTF-8", **(extra or {})}


def _failed(argv: Sequence[str], code: int, lines: list[str]) -> InstallError:
    last = "\n".join(f"    {line}" for line in lines[-20:] if line.strip())
    return InstallError(f"{shlex.join(argv[:4])} ended with code {code}:\n{last}")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
