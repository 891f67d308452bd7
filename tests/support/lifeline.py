"""The journey on a small machine, with sshd and the daemon asked all along whether they still answer."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from support.appliance import Appliance, free_port
from support.browser import chromium, editor_frame, person, sign_in
from support.cage import Cage
from support.journey import edit_and_save, trust_the_folder, use_the_terminal
from support.waiting import poll


@contextmanager
def sshd(cage: Cage) -> Iterator[int]:
    """A real sshd inside the cage. Yields its port."""
    folder, port = Path(tempfile.mkdtemp(prefix="croft-sshd-")), free_port()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key")], check=True)
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    process = subprocess.Popen(
        [
            "/usr/sbin/sshd",
            "-D",
            "-f",
            "/dev/null",
            "-o",
            f"HostKey={folder / 'key'}",
            "-o",
            f"ListenAddress=127.0.0.1:{port}",
            "-o",
            "PidFile=none",
        ],
        stderr=subprocess.DEVNULL,
        preexec_fn=cage.enter,
    )
    try:
        poll(lambda: ssh_answers(port), "sshd answers", 10)
        yield port
    finally:
        process.terminate()
        process.wait(10)
        shutil.rmtree(folder)


def ssh_answers(port: int) -> bool:
    """Whether an SSH server greets within a second (RFC 4253 4.2)."""
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as link:
            link.settimeout(1)
            return link.recv(64).startswith(b"SSH-2.0-")
    except OSError:
        return False


def daemon_answers(appliance: Appliance) -> bool:
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(1)
        try:
            link.connect(str(appliance.paths.socket("web")))
            link.sendall(
                f"GET /healthz HTTP/1.1\r\nHost: {appliance.settings.host}\r\nConnection: close\r\n\r\n".encode()
            )
            return link.recv(64).startswith(b"HTTP/1.1 200")
        except OSError:
            return False


class Watch(threading.Thread):
    """Asks twice a second whether everything still answers within one; keeps what did not."""

    def __init__(self, asks: dict[str, Callable[[], bool]]) -> None:
        super().__init__(daemon=True)
        self._asks = asks
        self._over = threading.Event()
        self.rounds = 0
        self.silent: list[str] = []

    def run(self) -> None:
        begun = time.monotonic()
        while not self._over.wait(0.5):
            self.rounds += 1
            self.silent += [
                f"{name} at {time.monotonic() - begun:.0f} s" for name, ask in self._asks.items() if not ask()
            ]

    def end(self) -> None:
        self._over.set()
        self.join()


def live_in(cage: Cage, appliance: Appliance, port: int, journey: Callable[[Appliance], None] | None = None) -> None:
    """Do the journey; nothing may be killed for memory or fall silent for a second. ``port`` is sshd's."""
    watch = Watch({"sshd": lambda: ssh_answers(port), "daemon": lambda: daemon_answers(appliance)})
    watch.start()
    try:
        (journey or edit_something)(appliance)
    finally:
        watch.end()
    print(f"peak {cage.peak_mib()} MiB with file cache, {watch.rounds} rounds")
    assert watch.rounds > 5
    assert watch.silent == []
    assert cage.oom_kills() == 0


def edit_something(appliance: Appliance) -> None:
    with chromium(appliance.root_certificate) as browser:
        page = person(browser).new_page()
        sign_in(page, appliance.croft("login-link")["url"])
        page.goto(f"{appliance.url}/workspace")
        frame = editor_frame(page)
        edit_and_save(page, frame, appliance.paths.workspace)
        trust_the_folder(page, frame)
        use_the_terminal(page, frame, appliance.paths.workspace)
