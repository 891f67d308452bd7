"""Writing a run down: its row and its audit record in one transaction, then telling the pages.

Rule: what the disk does not take does not happen (LOG-3), and no secret goes into the log (LOG-5).
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from msgspec import Struct, field

from appliance.audit import AuditLog, AuditUnavailable
from appliance.clock import Clock
from appliance.commands import redact
from appliance.commands.asker import Asker
from appliance.commands.history import History, Run, State
from appliance.database import Database
from appliance.errors import Conflict
from appliance.events import EventBus

T = TypeVar("T")
CHANGED = 64


class Records(Struct, frozen=True):
    """Where runs are written: used by whoever asks, decides and starts."""

    database: Database
    audit: AuditLog
    history: History
    clock: Clock
    boot_id: str
    bus: EventBus
    changed: OrderedDict[str, Run] = field(default_factory=OrderedDict)  # the runs that changed last, for the pages
    waiting: set[str] = field(default_factory=set)  # the proposals that wait for a decision

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        """A transaction of which the audit log is part. Raises AuditUnavailable when the disk does not take it (LOG-3)."""
        try:
            async with self.database.transaction() as tx:
                yield tx
        except (sqlite3.Error, OSError) as error:
            raise _unavailable() from error

    async def write(self, work: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
        """As :meth:`transaction`, in one visit to the database's thread; see :meth:`Database.write`. Raises AuditUnavailable."""
        try:
            return await self.database.write(work)
        except (sqlite3.Error, OSError) as error:
            raise _unavailable() from error

    async def settle(self, run: Run, was: State, event: str, actor: str) -> None:
        """Close a proposal. Raises Conflict when somebody else did, AuditUnavailable."""

        async def close(tx: Any) -> None:
            if not await self.history.change(tx, run, was):
                raise decided()
            await self.audit.append(tx, event, actor, run=run.id)

        await self.write(close)
        self.tell(run)

    def tell(self, run: Run) -> None:
        """Tell the pages that a run changed."""
        self.changed[run.id] = run
        self.changed.move_to_end(run.id)
        (self.waiting.add if run.state is State.WAITING else self.waiting.discard)(run.id)
        while len(self.changed) > CHANGED:
            self.changed.popitem(last=False)
        self.bus.publish("runs", {})
        if run.hash:
            self.bus.publish("approvals", {})


def _unavailable() -> AuditUnavailable:
    return AuditUnavailable(
        "the audit log cannot be written, so this was not done", hint="Free disk space, then try again."
    )


def decided() -> Conflict:
    """The refusal of whoever comes second."""
    return Conflict("this was decided already", hint="Reload to see how.", code="decided")


def name_of(person: Asker) -> str:
    """How people read who decided."""
    return person.name or person.auditor


def said(run: Run) -> dict[str, Any]:
    """What the audit log keeps of a proposal, without secrets (LOG-5); of a very long one its beginning and its digest."""
    stages, left_out = redact.stages(run.stages or run.typed)
    return {
        "run": run.id,
        "stages": stages,
        **({"words_left_out": left_out, "shape": run.shape} if left_out else {}),
        "cwd": run.cwd,
        "scope": run.scope,
        "view": run.view,
        "verdict": str(run.verdict),
        "rule": run.rule,
        "policy": run.policy[:16],
        "lease": run.lease,
    }


def ended(run: Run) -> dict[str, Any]:
    outcome = run.outcome
    return {
        "run": run.id,
        "result": str(run.state),
        "exit_code": outcome.exit_code,
        "signal": outcome.signal,
        "cause": outcome.cause,
        "bytes": outcome.stdout_bytes + outcome.stderr_bytes,
        "truncated": outcome.truncated,
    }
