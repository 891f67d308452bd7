"""The engine's way out of its container, which it has only while it fetches a model (NET-3).

By itself the engine is on a network that leads nowhere. To fetch a model it is put on a second one for as long as the daemon says,
at most :data:`LONGEST`; whatever becomes of the daemon meanwhile, the time runs out. The packet filter of
:mod:`appliance.broker.egress` holds there too.

Rule: every start of the engine, and every start of the broker, begins without it.
"""

from __future__ import annotations

import time
from pathlib import Path
from urllib.parse import quote

from appliance.broker import containers
from appliance.broker.engine import Call, Work
from appliance.errors import Unavailable

PORT = 8080  # compose.yaml, LOCALAI_ADDRESS
NETWORK = f"{containers.NAME}_ai"
NAME, BRIDGE = f"{containers.NAME}_fetch", "croft-fetch"
LONGEST = 600  # seconds; the daemon asks again while a download goes on
_CONTAINER = containers.name("ai")


class Fetching:
    """Whether the engine may get out now. Times are seconds of the monotonic clock."""

    def __init__(self, engine: Path) -> None:
        self._engine = engine
        self._until: float | None = None
        self.open = True  # until it was seen to be closed

    def lease(self, seconds: int, now: float) -> None:
        """Let it out for so long from now on; 0 ends it. Takes effect with :meth:`apply`."""
        self._until = now + seconds if seconds else None

    def left(self, now: float) -> float | None:
        """Seconds until :meth:`apply` is due, None while it is not."""
        if self._until is None:
            return 0.0 if self.open else None
        return max(0.0, self._until - now) if self.open else 0.0

    def apply(self) -> Work:
        """Connect the container, or take it off. Raises Unavailable."""
        if self._until is None or time.monotonic() >= self._until:
            self._until = None
            yield from self._take_off()
            self.open = False
        else:
            yield from self._ensure()
            yield from self._ask("connect", {"Container": _CONTAINER}, fine=(200, 403))  # 403: it is on it already
            self.open = True

    def _take_off(self) -> Work:
        # 404: there is no such network, or container; 500: the container is not on it (engine API 1.41).
        yield from self._ask("disconnect", {"Container": _CONTAINER, "Force": True}, fine=(200, 404, 500))
        found = yield Call(self._engine, "GET", f"/containers/{_CONTAINER}/json")
        if found.status == 200 and NAME in (found.json()["NetworkSettings"]["Networks"] or {}):
            raise Unavailable("cannot take the engine off the network it fetched a model through", code="egress_failed")

    def _ensure(self) -> Work:
        if (yield Call(self._engine, "GET", f"/networks/{quote(NAME)}")).status == 200:
            return
        network = {
            "Name": NAME,
            "CheckDuplicate": True,
            "Labels": {containers.PROJECT_LABEL: containers.NAME, "com.docker.compose.network": "fetch"},
            "Options": {
                "com.docker.network.bridge.name": BRIDGE,
                "com.docker.network.bridge.enable_icc": "false",
            },
        }
        answer = yield Call(self._engine, "POST", "/networks/create", body=network)
        if answer.status != 201:
            raise Unavailable(f"cannot make a network to fetch models through: {answer.message}", code="egress_failed")

    def _ask(self, action: str, body: dict[str, object], fine: tuple[int, ...]) -> Work:
        answer = yield Call(self._engine, "POST", f"/networks/{quote(NAME)}/{action}", body=body)
        if answer.status not in fine:
            raise Unavailable(f"cannot {action} the engine: {answer.message}", code="egress_failed")
