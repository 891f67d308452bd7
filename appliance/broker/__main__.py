"""`python -I -m appliance.broker [--home DIR]`: the privileged half, one thread, one loop, no network.

Rule: this page is the whole start order. What it imports is what an auditor has to read.
"""

from __future__ import annotations

import os
import selectors
import signal
import sys
import time
from pathlib import Path

from appliance import settings as settings_module
from appliance.broker import accounts, cgroups, choose, layout
from appliance.broker.backend import ServiceBackend
from appliance.broker.fence import Fence
from appliance.broker.files import Files
from appliance.broker.logs import Logs
from appliance.broker.processes import Processes
from appliance.broker.proxy_root import ProxyRoot
from appliance.broker.runs import Runs
from appliance.broker.server import Server
from appliance.broker.spawn import Container
from appliance.broker.toolchains import ToolHelpers
from appliance.broker.verbs import Verbs
from appliance.errors import CroftError
from appliance.settings import Paths, Settings

_STOP_SECONDS = 15.0
CANNOT_START = 78  # EX_CONFIG of sysexits.h: trying again would not help


class Broker:
    """Everything wired together."""

    def __init__(self, settings: Settings, installed: bool) -> None:
        self.accounts = accounts.resolve(settings)
        layout.ensure(settings, self.accounts)
        self.selector = selectors.DefaultSelector()
        folder = settings.paths.run / "broker"
        self.processes = Processes(folder / "processes.json", cgroups.detect(_base(settings, installed)), self.selector)
        self.backend: ServiceBackend = choose.backend(
            settings, installed, self.accounts, self.processes, Logs(settings, self.accounts), self._notify
        )
        contained = self.backend.runtime == "docker"
        self.runs = Runs(settings, self.accounts, self.processes, self._notify, self._ide if contained else None)
        files = Files(settings, self.accounts, self.processes)
        self.fence = Fence(settings, self.accounts)
        tools = ToolHelpers(settings, self.accounts, self.processes, apart=contained)
        verbs = Verbs(self.accounts, self.backend, self.processes, self.runs, files, tools, self.fence).table()
        uids = frozenset({0, self.accounts.daemon.uid, os.geteuid()})
        self.server = Server(self.selector, settings.paths.socket("broker"), self.accounts.daemon.gid, uids, verbs)
        self._proxy_root = ProxyRoot(settings)
        self._deadline: float | None = None
        self._wake = self._wake_on_signals()

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT (the supervisor's end comes as SIGTERM too); then stop what was started."""
        self.processes.adopt()
        self.fence.put_up()
        self.backend.register(self.selector)
        self.server.begin()
        self.selector.register(self._wake, selectors.EVENT_READ, lambda mask: self._stop())
        while not self._done():
            for key, mask in self.selector.select(self._turn()):
                key.data(mask)
        self.server.close()
        self.processes.close()
        self.fence.take_down()
        self.processes.hierarchy.close()
        return 0

    def _turn(self) -> float | None:
        asked = [self.processes.pump(), self.backend.pump(), self._proxy_root.pump(), self.runs.pump()]
        asked.append(0.1 if self._deadline is not None else self.fence.pump())
        waits = [wait for wait in asked if wait is not None]
        return min(waits, default=None)

    def _stop(self) -> None:
        """A deliberate end."""
        self.selector.unregister(self._wake)
        self._deadline = time.monotonic() + _STOP_SECONDS
        self.backend.shutdown()
        self.runs.close()
        for process in (one for kind in ("run", "files", "tools") for one in self.processes.of_kind(kind)):
            self.processes.stop(process, 0, "stopped")

    def _done(self) -> bool:
        if self._deadline is None:
            return False
        return not (self.processes or self.backend.busy()) or time.monotonic() > self._deadline

    def _ide(self) -> Container | None:
        row = next(row for row in self.backend.services() if row["service"] == "ide")
        return Container(row["pid"], row["image"]) if row["pid"] else None

    def _notify(self, event: dict[str, object]) -> None:
        self.server.notify(event)

    def _wake_on_signals(self) -> int:
        """Signals arrive as bytes in a pipe; the handlers themselves do nothing."""
        read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        return read


def main(argv: list[str]) -> int:
    """Parse the two options by hand (argparse would cost a tenth of the broker's memory) and serve."""
    options = dict(zip(argv[::2], argv[1::2], strict=False))
    if len(argv) % 2 or set(options) - {"--home"}:
        sys.stderr.write("usage: python -I -m appliance.broker [--home DIR]\n")
        return 2
    home = options.get("--home")
    paths = Paths.under(Path(home)) if home else Paths.system()
    try:
        return Broker(settings_module.load(paths), home is None).run()
    except CroftError as error:
        sys.stderr.write(f"croft broker: {error.message}\n")
        return CANNOT_START


def _base(settings: Settings, installed: bool) -> str:
    """Several appliances on one machine (tests, checkouts) must not share cgroups."""
    if installed:
        return "croft"
    return "croft-" + bytes(settings.paths.run).hex()[-32:]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
