"""A real broker in a folder of its own: as root with throwaway accounts, or as whoever runs the tests."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from appliance.broker import fence, ide_room
from appliance.broker.client import call
from appliance.broker.protocol import Object, Reply
from appliance.settings import Paths
from support.waiting import poll

ROOT = os.geteuid() == 0


class Home:
    """One appliance's folder and the broker that runs in it."""

    def __init__(self, folder: Path, names: dict[str, str], person: str | None = None) -> None:
        self.person = person
        self.folder = folder
        self.paths = Paths.under(folder)
        self.names = names
        self.process: subprocess.Popen[bytes] | None = None
        self.settings: dict[str, str] = {}
        self.paths.config.parent.mkdir(parents=True)

    @property
    def socket(self) -> Path:
        return self.paths.socket("broker")

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def switching(self) -> bool:
        return ROOT and self.person is None

    def configure(self, **lines: object) -> None:
        """Settings by dotted name with dots as ``__``."""
        rows: dict[str, object] = {f"users.{role}": name for role, name in self.names.items()} if self.switching else {}
        rows |= {"runtime": "process"} | {key.replace("__", "."): value for key, value in lines.items()}
        text = "".join(f"{key} = {_toml(value)}\n" for key, value in rows.items())
        self.paths.config.write_text(text)

    def start(self, inside: Callable[[], None] | None = None) -> None:
        """``inside`` is called in the child before it starts."""
        if not self.paths.config.exists():
            self.configure()
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-m", "appliance.broker", "--home", str(self.folder)],
            cwd="/",
            user=self.person,
            group=self.person,
            extra_groups=[] if self.person else None,
            umask=0o077,
            preexec_fn=inside,
        )
        poll(self._answers, what="the broker")

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def call(self, op: str, **arguments: object) -> Reply:
        return call(self.socket, op, **arguments)

    def row(self, service: str) -> Object:
        return next(row for row in self.call("services").data["services"] if row["service"] == service)

    def cgroups(self) -> list[Path]:
        """The broker's own places in the cgroup trees."""
        name = f"croft-{bytes(self.paths.run).hex()[-32:]}"
        return [Path(folder, name) for folder, inner, _ in os.walk("/sys/fs/cgroup") if name in inner]

    def workspace_file(self, name: str, text: str = "", mode: int = 0o755) -> Path:
        """A file in the workspace that belongs to its user."""
        path = self.paths.workspace / name
        path.write_text(text)
        path.chmod(mode)
        self.give(path)
        return path

    def give(self, path: Path) -> None:
        if ROOT:
            shutil.chown(path, self.names["workspace"], self.names["workspace"])

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the broker ended with {self.process.returncode}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
            return probe.connect_ex(str(self.socket)) == 0


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else f'"{value}"'


@contextmanager
def home_folder(names: dict[str, str]) -> Iterator[Home]:
    """A folder, configured but not started; whatever is started in it is stopped."""
    folder = Path(tempfile.mkdtemp(prefix="croft-b-", dir="/tmp"))
    folder.chmod(0o755)
    made = Home(folder, names)
    try:
        yield made
    finally:
        end_home(made)


def end_home(home: Home) -> None:
    """Stop what runs in it and remove it."""
    if home.process is not None and home.process.poll() is None:
        home.stop()
    if home.switching:
        fence.remove(pwd.getpwnam(home.names["workspace"]).pw_uid)  # so does one that was killed, its table
        ide_room.unmount(home.paths)  # and a supervisor that was killed, its mount
    for folder in home.cgroups():
        for spare in folder.glob("spare-*"):
            poll(
                lambda spare=spare: not (spare / "cgroup.procs").read_text(),
                "the child that waits ends with its broker",
            )
            spare.rmdir()
        folder.rmdir()  # a broker that was killed leaves its empty ones
    shutil.rmtree(home.folder)


def groups(home: Home) -> list[Path]:
    """What is left of the broker's cgroups for runs once they were swept, a moment after each end."""
    deadline = time.monotonic() + 2
    while (found := [run for folder in home.cgroups() for run in folder.glob("run-*")]) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found
