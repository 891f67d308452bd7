"""The table of verbs: everything the broker does for anybody.

Rule: adding a line here adds a privilege; docs/architecture.md and the threat model name every one of them.
"""

from __future__ import annotations

import os

from appliance import __version__
from appliance.broker import kernel, terminals
from appliance.broker.accounts import Accounts
from appliance.broker.backend import SERVICES, ServiceBackend
from appliance.broker.fence import Fence
from appliance.broker.files import Files
from appliance.broker.processes import Processes
from appliance.broker.protocol import Field, Peer, Reply, Verb, flag, number, one_of, whole
from appliance.broker.runs import Runs
from appliance.broker.toolchains import ToolHelpers

_SERVICE = Field(one_of(SERVICES))
MODEL_MOST_MB = 1 << 20  # whatever it is, no service gets more than its part of the machine


class Verbs:
    """The verbs that belong to no single part, and the table of all."""

    def __init__(
        self,
        accounts: Accounts,
        backend: ServiceBackend,
        processes: Processes,
        runs: Runs,
        files: Files,
        tools: ToolHelpers,
        fence: Fence,
    ) -> None:
        self._accounts = accounts
        self._backend = backend
        self._processes = processes
        self._runs = runs
        self._files = files
        self._tools = tools
        self._fence = fence

    def table(self) -> dict[str, Verb]:
        model = Field(whole(0, MODEL_MOST_MB), False)
        own = {
            "hello": Verb(self.hello),
            "services": Verb(self.services),
            "start": Verb(self.start, {"service": _SERVICE, "model_mb": model, "safe": Field(flag, False)}),
            "share": Verb(self.share, {"model_mb": model}),
            "stop": Verb(self.stop, {"service": _SERVICE, "grace": Field(number(0, 60), False)}),
            "logs": Verb(self.logs, {"service": _SERVICE}),
            "files": Verb(self._files.open),
            "terminals": Verb(self.terminals),
        }
        return own | self._runs.verbs() | self._tools.verbs() | dict(self._backend.verbs())

    def hello(self, peer: Peer) -> Reply:
        """What this broker is and what it can hold people to."""
        hierarchy = self._processes.hierarchy
        return Reply(
            {
                "version": __version__,
                "runtime": self._backend.runtime,
                "boot_id": kernel.boot_id(),
                "pid": os.getpid(),
                "limits": hierarchy.limits,
                "containment": "cgroup" if hierarchy.contains else "session",
                "switching": self._accounts.switching,
                "unfenced": self._fence.problem,
            }
        )

    def services(self, peer: Peer) -> Reply:
        return Reply({"services": self._backend.services()})

    def start(self, peer: Peer, service: str, model_mb: int | None = None, safe: bool = False) -> Reply:
        return Reply(self._backend.start(service, model_mb, str(peer.uid), safe))

    def share(self, peer: Peer, model_mb: int | None = None) -> Reply:
        """Write the limits of what runs as the machine's memory is shared out, for a model that needs ``model_mb`` or without one."""
        self._backend.share(model_mb)
        return Reply()

    def stop(self, peer: Peer, service: str, grace: float = 10.0) -> Reply:
        return Reply(self._backend.stop(service, grace))

    def logs(self, peer: Peer, service: str) -> Reply:
        return Reply({}, [self._backend.logs(service)])

    def terminals(self, peer: Peer) -> Reply:
        """Where everything runs as one person only the IDE's own terminals count."""
        uid = self._accounts.workspace.uid
        if self._accounts.switching:
            return Reply({"foreground": terminals.foreground(uid)})
        pid = next(row["pid"] for row in self._backend.services() if row["service"] == "ide")
        return Reply({"foreground": terminals.foreground(uid, pid) if pid else 0})
