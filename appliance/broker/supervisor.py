"""`croft serve` where no systemd does it: keeps the broker and the daemon running, and ends everything when it ends.

Rule: the broker goes down after the daemon, so that services are stopped by the one that knows them; at the start the
daemon waits for the broker itself. Both get SIGTERM from the kernel should this process be killed.
"""

from __future__ import annotations

import os
import random
import selectors
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from appliance.broker import accounts, ide_room, kernel
from appliance.broker.accounts import Account
from appliance.broker.launch import SEARCH_PATH, Launch, launch
from appliance.errors import CroftError
from appliance.settings import Settings

BACKOFF_FIRST = 0.5  # seconds
BACKOFF_MOST = 30.0
STEADY_SECONDS = 60.0  # a part that ran this long starts again from the first backoff
DAEMON_GRACE = 4.0
BROKER_GRACE = 14.0  # the broker gives services 10 seconds
_CANNOT_START = 78  # EX_CONFIG: the part said itself that trying again would not help
_KEPT = ("LANG", "LC_ALL", "TZ", "TERM", "NO_COLOR")


@dataclass
class Part:
    """The broker or the daemon."""

    words: tuple[str, ...]
    account: Account | None
    grace: float
    pid: int | None = None
    began: float = 0.0
    again_at: float = 0.0
    backoff: float = BACKOFF_FIRST

    def ended(self, now: float) -> None:
        """Plan the next start: full jitter below a doubling cap."""
        self.pid = None
        self.backoff = BACKOFF_FIRST if now - self.began > STEADY_SECONDS else min(BACKOFF_MOST, self.backoff * 2)
        self.again_at = now + random.uniform(self.backoff / 2, self.backoff)  # noqa: S311 - jitter, not a secret


class Supervisor:
    """Two parts, one loop."""

    def __init__(self, settings: Settings, home: Path | None, daemon: tuple[str, ...]) -> None:
        found = accounts.resolve(settings)
        self._settings, self._accounts = settings, found
        self._home = home.resolve() if home else None
        self._switching = found.switching
        self._socket = settings.paths.socket("broker")
        self._broker = Part(("-m", "appliance.broker"), None, BROKER_GRACE)
        self._daemon = Part(daemon, found.daemon if found.switching else None, DAEMON_GRACE)
        self._selector = selectors.DefaultSelector()
        self._stopping = False
        self._status = 0

    def run(self) -> int:
        """Until SIGTERM or SIGINT. 0, or the status of a part that cannot start at all."""
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)  # services of a broker that died come to us to be reaped
        ide_room.mount(self._settings, self._accounts)
        self._listen()
        while not self._stopping:
            wait = self._start_due()
            self._selector.select(wait)
            self._take_signals()
        for part in (self._daemon, self._broker):
            self._stop(part)
        ide_room.unmount(self._settings.paths)
        return self._status

    def _start_due(self) -> float | None:
        """Start what is due, both at once: the daemon first, which takes longer and waits for the broker itself. Seconds until
        something else is."""
        now = time.monotonic()
        for part in (self._daemon, self._broker):
            if part.pid is None and part.again_at <= now:
                self._start(part)
        waits = [part.again_at - now for part in (self._broker, self._daemon) if part.pid is None]
        return max(0.05, min(waits)) if waits else None

    def _start(self, part: Part) -> None:
        argv = (sys.executable, "-I", *part.words, *(("--home", str(self._home)) if self._home else ()))
        env = {name: os.environ[name] for name in _KEPT if name in os.environ} if self._switching else dict(os.environ)
        root, null = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), os.open("/dev/null", os.O_RDONLY)
        part.began = time.monotonic()
        try:
            part.pid = launch(
                Launch(
                    argv,
                    root,
                    null,
                    1,
                    2,
                    env={"PATH": ":".join(SEARCH_PATH)} | env,
                    account=part.account,
                    oom_score_adj=-500 if self._switching else None,
                    dies_with_parent=True,
                )
            )
        except CroftError as error:
            sys.stderr.write(f"croft: {error.message}\n")
            part.ended(part.began)
        finally:
            os.close(root)
            os.close(null)

    def _listen(self) -> None:
        self._wake, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        self._selector.register(self._wake, selectors.EVENT_READ)

    def _take_signals(self) -> None:
        try:
            numbers = set(os.read(self._wake, 4096))
        except BlockingIOError:
            return
        if signal.SIGCHLD in numbers:
            self._reap()
        if numbers & {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}:
            self._stopping = True

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for part in (self._broker, self._daemon):
                if part.pid == pid:
                    self._note_end(part, os.waitstatus_to_exitcode(status))

    def _note_end(self, part: Part, code: int) -> None:
        part.ended(time.monotonic())
        if code == _CANNOT_START and not self._stopping:
            self._stopping, self._status = True, 1

    def _stop(self, part: Part) -> None:
        """SIGTERM, then SIGKILL when its grace is over."""
        deadline = time.monotonic() + part.grace
        if part.pid is not None:
            os.kill(part.pid, signal.SIGTERM)
        while part.pid is not None and time.monotonic() < deadline:
            self._selector.select(max(0.0, deadline - time.monotonic()))
            self._take_signals()
        if part.pid is not None:
            os.kill(part.pid, signal.SIGKILL)
            os.waitpid(part.pid, 0)
            part.pid = None


def run(settings: Settings, home: Path | None, daemon: tuple[str, ...] = ("-m", "appliance.daemon")) -> int:
    """Supervise until told to stop; everything is down within 20 seconds then.

    ``daemon`` is what Python is told to run. Raises CroftError before anything has started.
    """
    return Supervisor(settings, home, daemon).run()
