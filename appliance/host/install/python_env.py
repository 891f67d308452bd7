"""The appliance's Python packages, in a virtual environment that root owns.

Rule: every wheel's hash is in a lock that came with the source; nothing is built from source but the project
itself. A new version is made beside the old one and put in place by renaming a link, so a killed run never leaves
half of it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.host.install.host import Host, InstallError, digest_of
from appliance.host.install.journal import Journal

OPT = "/opt/croft"
VENVS, CURRENT, COMMAND = f"{OPT}/venvs", f"{OPT}/venv", "/usr/local/bin/croft"
_PROJECT = (
    "appliance",
    "webui",
    "control_sync",
    "compose",
    "systemd",
    "pyproject.toml",
    "README.md",
    "requirements.txt",
    "requirements-build.txt",
    "install.sh",
)
_ENGINE = "requirements-engine.txt"
_PIP = ("-m", "pip", "--disable-pip-version-check", "--no-input", "--no-cache-dir")
_LOCKED = ("--require-hashes", "--only-binary", ":all:", "--no-deps")


@dataclass
class EnsurePython:
    """The virtual environment with the locked wheels and the project."""

    host: Host
    journal: Journal
    source: Path
    python: str
    engine: bool = False
    id: str = "python"
    title: str = "Python packages (hash-locked)"

    def check(self) -> bool:
        current = self.host.path(CURRENT)
        return current.is_symlink() and current.readlink().name == self._version and (current / "complete").exists()

    def plan(self) -> list[str]:
        count = self.host.read(str(self.source / "requirements.txt")).count("==") if self.host.root == Path("/") else 0
        engine = ", an engine for local models" if self.engine else ""
        return [
            f"make {VENVS}/{self._version} with {count} locked wheels{engine} and the project; point {CURRENT} at it"
        ]

    def apply(self) -> None:
        self.journal.put(self.id, begun=True)
        new = self.host.path(VENVS) / self._version
        if new.exists():
            shutil.rmtree(new)
        new.parent.mkdir(parents=True, exist_ok=True)
        self.host.run(self.python, "-I", "-m", "venv", str(new))
        interpreter = str(new / "bin/python")
        self._pip(interpreter, "install", *_LOCKED, *self._offline(), "-r", str(self.source / "requirements.txt"))
        if self.engine:
            self._pip(interpreter, "install", *_LOCKED, *self._offline("xllamacpp-"), "-r", str(self.source / _ENGINE))
        self._pip(interpreter, "install", "--no-deps", "--no-index", str(self._wheel(interpreter, new)))
        checked = "appliance.errors, aiohttp, msgspec, cryptography" + (", xllamacpp" if self.engine else "")
        self.host.run(interpreter, "-I", "-c", f"import {checked}")
        shutil.copy(self.source / "install.sh", new / "install.sh")  # the way back, without the checkout
        (new / "complete").touch()
        self._switch(new)

    def undo(self) -> None:
        self.host.path(CURRENT).unlink(missing_ok=True)
        if self.host.path(VENVS).exists():
            shutil.rmtree(self.host.path(VENVS))
        _drop_if_empty(self.host.path(OPT))

    @property
    def _version(self) -> str:
        names = (*_PROJECT, _ENGINE) if self.engine else _PROJECT
        return digest_of(*(self.source / name for name in names if (self.source / name).exists()))[:16]

    def _offline(self, needed: str = "") -> tuple[str, ...]:
        """Wheels that came with a release are used without asking any index; the engine's come with none unless somebody put them
        there."""
        wheels = self.source / "wheels"
        here = wheels.is_dir() and any(wheels.glob(f"{needed}*.whl"))
        return ("--no-index", "--find-links", str(wheels)) if here else ()

    def _wheel(self, interpreter: str, new: Path) -> Path:
        """The project's own wheel: from the release, else built from the checkout in a private folder."""
        ready = sorted((self.source / "wheels").glob("croft-*.whl"))
        if ready:
            return ready[0]
        work = new / "build"
        work.mkdir(mode=0o700)
        for name in _PROJECT:
            if (self.source / name).is_dir():
                shutil.copytree(
                    self.source / name, work / "source" / name, ignore=shutil.ignore_patterns("__pycache__")
                )
            elif (self.source / name).exists():
                (work / "source").mkdir(exist_ok=True)
                shutil.copy(self.source / name, work / "source" / name)
        self._pip(
            interpreter,
            "install",
            *_LOCKED,
            "--target",
            str(work / "tools"),
            "-r",
            str(self.source / "requirements-build.txt"),
        )
        self._pip(
            interpreter,
            "wheel",
            "--no-deps",
            "--no-index",
            "--no-build-isolation",
            "--wheel-dir",
            str(work),
            str(work / "source"),
            path=str(work / "tools"),
        )
        built = sorted(work.glob("croft-*.whl"))
        if not built:
            raise InstallError("cannot build the project: pip made no wheel")
        return built[0]

    def _pip(self, interpreter: str, *words: str, path: str = "") -> None:
        env = {"PYTHONPATH": path} if path else {}
        isolated: Sequence[str] = () if path else ("-I",)
        self.host.stream((interpreter, *isolated, *_PIP, *words), env=env, describe=_short)

    def _switch(self, new: Path) -> None:
        """Point the link at ``new`` in one step and remove the versions before the last one."""
        shutil.rmtree(new / "build", ignore_errors=True)
        current = self.host.path(CURRENT)
        previous = current.resolve() if current.exists() else new
        fresh = current.with_name("venv.new")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(Path("venvs") / new.name)
        fresh.replace(current)
        for old in self.host.path(VENVS).iterdir():
            if old not in (new, previous):
                shutil.rmtree(old)


@dataclass
class EnsureCommand:
    """`croft` on everybody's PATH."""

    host: Host
    journal: Journal
    id: str = "command"
    title: str = "The croft command"

    def check(self) -> bool:
        command = self.host.path(COMMAND)
        return command.is_symlink() and str(command.readlink()) == f"{CURRENT}/bin/croft"

    def plan(self) -> list[str]:
        return [f"link {COMMAND} to {CURRENT}/bin/croft"]

    def apply(self) -> None:
        command = self.host.path(COMMAND)
        if os.path.lexists(command):
            raise InstallError(f"cannot create {COMMAND}: it exists and is not Croft's", hint="Move it away.")
        self.journal.put(self.id, made=True)
        command.parent.mkdir(parents=True, exist_ok=True)
        command.symlink_to(f"{CURRENT}/bin/croft")

    def undo(self) -> None:
        if self.check():
            self.host.path(COMMAND).unlink()


def _drop_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _short(line: str) -> str | None:
    shown = ("Collecting", "Downloading", "Installing", "Successfully", "Building")
    return line[:100] if line.startswith(shown) else None
