"""A real daemon process beside a running broker; no proxy and no IDE. And rules for what tests start."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from appliance.control import Control, NotRunning
from support.broker import Home
from support.waiting import poll

# Rules for what tests start: shells too, which the packaged rules never let run at once.
POLICY = """
version = 1

[defaults]
human = "ask"
ai = "ask"
token = "ask"
auto = ["human", "token", "ai"]
limits = { seconds = 20, output_kb = 256, pids = 64, memory_mb = 128, parallel = 12 }
asked_limits = { seconds = 20, output_kb = 256, pids = 64, memory_mb = 128, parallel = 12 }
rate = { per_minute = 600, per_day = 10000 }

{quick}
[[rule]]
id = "cat"
bin = "cat"
exec = "/bin/cat"
args = ["path+"]
mode = "auto"

[[rule]]
id = "count"
bin = "wc"
exec = "/usr/bin/wc"
flags = ["-c", "-l"]
stdin = true
mode = "auto"

[[pipeline]]
id = "counted"
first = ["quick-yes", "quick-seq", "cat"]
then = ["count"]
max = 3
"""


CHECKOUT = Path(__file__).resolve().parents[2]

_QUICK = """
[[rule]]
id = "quick-{name}"
bin = "{name}"
exec = "/usr/bin/{name}"
flags = ["-n"]
args = ["word*"]
dashes = "none"
mode = "auto"
"""
QUICK = ("true", "false", "echo", "yes", "sleep", "seq")
POLICY = POLICY.replace("{quick}", "".join(_QUICK.replace("{name}", name) for name in QUICK))


class Daemon:
    """A real daemon process beside a running broker; no proxy and no IDE."""

    def __init__(self, broker: Home, policy: str = POLICY) -> None:
        self.broker = broker
        self.control = Control(broker.paths.socket("control"))
        broker.paths.policy.mkdir(parents=True, exist_ok=True)
        (broker.paths.policy / "policy.toml").write_text(policy)
        self.start()

    @classmethod
    @contextmanager
    def beside(cls, broker: Home, policy: str = POLICY) -> Iterator[Daemon]:
        """A daemon beside ``broker``, which is started again with settings that leave the proxy out."""
        broker.stop()
        broker.configure(paths__caddy="/nonexistent/caddy", proxy__https_port=28443, proxy__http_port=28080)
        broker.start()
        made = cls(broker, policy)
        try:
            yield made
        finally:
            made.process.terminate()
            made.process.wait(20)

    def start(self) -> None:
        with (self.broker.folder / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "appliance.daemon", "--home", str(self.broker.folder)],
                cwd=CHECKOUT, stdout=log, stderr=log,
            )  # fmt: skip
        poll(self._answers, "the daemon answers", 30)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def run(self, run: str) -> dict[str, Any]:
        return self.control.call("GET", f"/api/commands/{run}")["run"]

    def shell(self, script: str) -> dict[str, Any]:
        run = self.control.call("POST", "/api/commands", {"argv": ["sh", "-c", script]})["run"]
        return self.control.call("POST", f"/api/commands/{run['id']}/approve", {"hash": run["hash"]})["run"]

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self.broker.folder / "daemon.log").read_text()[-2000:]
        with contextlib.suppress(NotRunning):
            return bool(self.control.call("GET", "/healthz"))
        return False
