"""A whole appliance in a folder: `croft serve` with real Caddy and real code-server, driven from outside as people do."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from appliance.control import Control, NotRunning
from appliance.settings import Paths, Settings, load
from support.accounts import throwaway_accounts
from support.waiting import poll

CHECKOUT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ide_tree() -> Path:
    """Where the tests' code-server lies. Fails saying what is missing."""
    found = os.environ.get("CROFT_TEST_IDE", "/nonexistent")
    assert Path(found, "code/node_modules/code-server").is_dir(), (
        "CROFT_TEST_IDE must name a folder with node/ and code/; ./tests/run makes one"
    )
    return Path(found)


class Appliance:
    """Start with :meth:`start`, end with :meth:`close`. ``settings`` is TOML added to croft.toml;
    ``inside`` is called in the child before it starts."""

    def __init__(
        self,
        accounts: dict[str, str],
        settings: str = "",
        *,
        runtime: str = "process",
        inside: Callable[[], None] | None = None,
    ) -> None:
        self._inside = inside
        self.folder = Path(tempfile.mkdtemp(prefix="croft-", dir="/tmp"))
        self.folder.chmod(0o755)
        self.paths = Paths.under(self.folder)
        self.https_port, self.http_port = free_port(), free_port()
        self.paths.config.parent.mkdir(parents=True)
        self.paths.config.write_text(
            f'runtime = "{runtime}"\n[users]\n'
            + "".join(f'{role} = "{name}"\n' for role, name in accounts.items())
            + f'[paths]\nide = "{ide_tree() if runtime == "process" else ""}"\n'
            f'[proxy]\nbind = "127.0.0.1"\nhttps_port = {self.https_port}\nhttp_port = {self.http_port}\n{settings}'
        )
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def settings(self) -> Settings:
        return load(self.paths)

    @property
    def control(self) -> Control:
        return Control(self.paths.socket("control"))

    @property
    def url(self) -> str:
        return self.settings.ui_origin

    @property
    def root_certificate(self) -> Path:
        """Caddy's own root, once the broker has published it (it looks every two seconds)."""
        poll(self.paths.proxy_root.exists, "the proxy's root certificate is published", 30)
        return self.paths.proxy_root

    def start(self) -> Appliance:
        """Start and wait until the front door answers."""
        with (self.folder / "serve.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "appliance", "serve", "--home", str(self.folder)],
                stdout=log,
                stderr=log,
                cwd=CHECKOUT,
                start_new_session=True,
                preexec_fn=self._inside,
            )
        poll(self.is_up, f"the appliance in {self.folder} answers\n{self.said()}", 60)
        return self

    def is_up(self) -> bool:
        """Whether the daemon runs and finds its own front door working."""
        assert self.process is None or self.process.poll() is None, f"croft serve ended: {self.said()}"
        try:
            return bool(self.control.call("GET", "/readyz")["ok"])
        except (NotRunning, OSError):
            return False
        except Exception as error:
            if getattr(error, "code", "") in ("refused", "unavailable"):
                return False
            raise

    def said(self) -> str:
        """The end of what `croft serve` printed."""
        log = self.folder / "serve.log"
        return log.read_text(errors="replace")[-4000:] if log.exists() else ""

    def croft(self, *words: str) -> Any:
        """Run the command line with --json and return its answer."""
        done = subprocess.run(
            [sys.executable, "-m", "appliance", *words, "--home", str(self.folder), "--json"],
            capture_output=True,
            text=True,
            timeout=90,
            cwd=CHECKOUT,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) if done.stdout.strip() else None

    def service(self, name: str) -> dict[str, Any]:
        """One service as `croft services list` shows it."""
        rows = self.control.call("GET", "/api/services")["services"]
        return next(row for row in rows if row["name"] == name)

    def daemon_pid(self) -> int:
        """Pid of the daemon under the supervisor."""
        return self._child("appliance.daemon")

    def broker_pid(self) -> int:
        return self._child("appliance.broker")

    def _child(self, module: str) -> int:
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if module.encode() in words and str(self.folder).encode() in words:
                    return int(entry.name)
        raise AssertionError(f"no {module} of {self.folder} runs")

    def stop(self) -> int:
        """SIGTERM and wait. Returns the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(30)
        self.process = None
        return code

    def close(self) -> None:
        """Stop if it runs, remove the folder."""
        try:
            if self.process is not None:
                self.stop()
        finally:
            if os.environ.get("CROFT_TEST_KEEP") != "1":
                shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def whole_appliance(
    settings: str = "", *, runtime: str = "process", inside: Callable[[], None] | None = None
) -> Iterator[Appliance]:
    """One that runs, with accounts of its own; gone afterwards."""
    with throwaway_accounts("w") as accounts:
        made = Appliance(accounts, settings, runtime=runtime, inside=inside)
        try:
            yield made.start()
        finally:
            made.close()
