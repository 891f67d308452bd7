"""Every proposal and run as a row: written in the caller's transaction, read back, searched, and forgotten after 30 days.

Rule: a row is only ever changed from the state it was seen in; who comes second finds nothing to change.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

from msgspec import Struct, field
from msgspec.structs import asdict

from appliance.commands.asker import Asker
from appliance.commands.model import Actor, Limits, Role, Scope, Verdict
from appliance.database import Database, Row
from appliance.errors import NotFound
from appliance.messages import Message

DAYS = 30
MOST_ROWS = 20_000
MOST_TYPED = 64 << 20  # characters of all lines that are remembered
MOST_BYTES = 512 << 20  # of output
PAGE = 50
PAGE_MOST = 200


class State(StrEnum):
    """Where a proposal stands."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    REFUSED = "refused"
    DENIED = "denied"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    KILLED = "killed"


OPEN = (State.WAITING, State.RUNNING)


class Outcome(Struct, frozen=True):
    """How a run ended. ``cause`` is the broker's word (exit timeout killed oom stopped) or ours (not_started lost)."""

    exit_code: int | None = None
    signal: int | None = None
    cause: str = ""
    message: str = ""  # for a run that could not start: the broker's words
    stages: tuple[Mapping[str, int | None], ...] = ()
    seconds: float | None = None
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    truncated: bool = False
    output_lost: bool = False
    memory_peak_bytes: int | None = None
    pids_refused: int | None = None


class Run(Struct, frozen=True):
    """One proposal and what became of it. ``*_at`` are Unix times; ``uptime`` belongs to ``boot_id``."""

    id: str
    state: State
    asker: Asker
    scope: Scope
    line: str
    typed: tuple[tuple[str, ...], ...]
    stages: tuple[tuple[str, ...], ...]
    cwd: str
    view: str
    why: str
    verdict: Verdict
    rule: str
    reason: Message
    limits: Limits
    policy: str
    shape: str
    created_at: float
    uptime: float
    boot_id: str
    hash: str = ""
    leasable: bool = False
    intent: int | None = None
    decided_by: str = ""
    decider: str = ""
    decided_at: float | None = None
    lease: str = ""
    started_at: float | None = None
    ended_at: float | None = None
    outcome: Outcome = field(default_factory=Outcome)
    kept: int = 0


class History:
    """The rows, and the files of their output beneath ``folder``."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._db = database
        self.folder = folder

    def output(self, run: str) -> Path:
        """Where the output of a run is kept."""
        return self.folder / run

    async def add(self, tx: Any, run: Run) -> None:
        """Insert a new row in the caller's transaction."""
        values = _row(run)
        names, marks = ", ".join(values), ", ".join("?" * len(values))
        await tx.execute(f"INSERT INTO runs ({names}) VALUES ({marks})", tuple(values.values()))  # noqa: S608 - our names

    async def change(self, tx: Any, run: Run, was: State) -> bool:
        """Write what may change of a row that is in state ``was``; False when it is not any more."""
        values = {name: value for name, value in _row(run).items() if name in _CHANGING}
        sets = ", ".join(f"{name} = ?" for name in values)
        done = await tx.execute(
            f"UPDATE runs SET {sets} WHERE id = ? AND state = ?",  # noqa: S608 - our names
            (*values.values(), run.id, str(was)),
        )
        return bool(done.rowcount)

    async def get(self, run: str) -> Run:
        """Raises NotFound."""
        row = await self._db.row("SELECT * FROM runs WHERE id = ?", (run,))
        if row is None:
            raise NotFound("there is no such run", hint=f"Runs are kept for {DAYS} days.")
        return _run(row)

    async def in_state(self, *states: State) -> list[Run]:
        """Oldest first."""
        rows = await self._db.rows(
            "SELECT * FROM runs WHERE state IN (SELECT value FROM json_each(?)) ORDER BY created_at",
            (json.dumps(states),),
        )
        return [_run(row) for row in rows]

    async def page(
        self,
        *,
        account: Asker | None = None,
        state: str = "",
        text: str = "",
        before: float | None = None,
        limit: int = PAGE,
    ) -> list[Run]:
        """Newest first; ``account`` narrows it to one asker's own, ``text`` is found anywhere in the line."""
        person = account.person if account else None
        token = account.token if account else None
        rows = await self._db.rows(
            "SELECT * FROM runs WHERE (? IS NULL OR person = ?) AND (? IS NULL OR ? = '' OR token = ?) AND (? = '' OR state = ?) "
            "AND (? = '' OR instr(lower(line), lower(?))) AND (? IS NULL OR created_at < ?) ORDER BY created_at DESC LIMIT ?",
            (
                person,
                person,
                token,
                token,
                token,
                state,
                state,
                text,
                text,
                before,
                before,
                max(1, min(limit, PAGE_MOST)),
            ),
        )
        return [_run(row) for row in rows]

    async def denied_since(self, shape: str, asker: Asker, boot_id: str, uptime: float) -> bool:
        """Whether this same proposal of this asker was denied after ``uptime`` of this boot.

        For what acts in a person's name a denial counts whoever asked for that person: another token is no other asker.
        """
        anybody = bool(asker.person) and not asker.in_person
        row = await self._db.row(
            "SELECT 1 FROM runs WHERE shape = ? AND state = 'denied' AND person = ? AND (? OR (actor = ? AND token = ?)) "
            "AND boot_id = ? AND uptime > ?",
            (shape, asker.person, anybody, str(asker.actor), asker.token, boot_id, uptime),
        )
        return row is not None

    async def proposals(self, since: float) -> list[Run]:
        """What was asked for since a Unix time: for "which verdicts would change"."""
        rows = await self._db.rows(
            "SELECT * FROM runs WHERE created_at >= ? ORDER BY created_at DESC LIMIT 5000", (since,)
        )
        return [_run(row) for row in rows]

    async def forget(self, now: float) -> int:
        """Drop what is older than 30 days or beyond the caps, rows first, then files no row names. Returns how many rows."""
        async with self._db.transaction() as tx:
            cursor = await tx.execute(
                "DELETE FROM runs WHERE state NOT IN ('waiting', 'running') AND (created_at < ? OR id IN (SELECT id FROM "
                "(SELECT id, row_number() OVER newer AS place, sum(length(line) + length(typed) + length(stages) + length(why)) "
                "OVER newer AS typed FROM runs WINDOW newer AS (ORDER BY created_at DESC, id ROWS UNBOUNDED PRECEDING)) "
                "WHERE place > ? OR typed > ?))",
                (now - DAYS * 86_400, MOST_ROWS, MOST_TYPED),
            )
            await tx.execute("DELETE FROM runbook_runs WHERE run NOT IN (SELECT id FROM runs)")
            await tx.execute(
                "UPDATE runs SET kept = 0 WHERE id IN (SELECT id FROM (SELECT id, sum(kept) OVER "
                "(ORDER BY created_at DESC) AS total FROM runs WHERE kept > 0 AND state <> 'running') WHERE total > ?)",
                (MOST_BYTES,),
            )
        # In this order: a run that begins meanwhile has its row before its file.
        files = await asyncio.to_thread(lambda: list(_files(self.folder)))
        wanted = {row["id"] for row in await self._db.rows("SELECT id FROM runs WHERE kept > 0 OR state = 'running'")}
        await asyncio.to_thread(_remove, [path for path in files if path.name not in wanted])
        return int(cursor.rowcount)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _files(folder: Path) -> Iterator[Path]:
    with contextlib.suppress(FileNotFoundError):
        yield from folder.iterdir()


# Everything else of a row is as it was proposed, for good.
_CHANGING = frozenset(
    (
        "state",
        "uptime",
        "boot_id",
        "hash",
        "stages",
        "reason",
        "intent",
        "decided_by",
        "decider",
        "decided_at",
        "lease",
        "started_at",
    )
) | {"ended_at", "outcome", "kept"}


def _row(run: Run) -> dict[str, Any]:
    asker = run.asker
    return {
        "id": run.id,
        "state": str(run.state),
        "actor": str(asker.actor),
        "role": asker.role,
        "person": asker.person,
        "name": asker.name,
        "session": asker.session,
        "token": asker.token,
        "tainted": int(asker.tainted),
        "picked": int(asker.picked),
        "scope": run.scope,
        "line": run.line,
        "typed": _json(run.typed),
        "stages": _json(run.stages),
        "cwd": run.cwd,
        "view": run.view,
        "why": run.why,
        "verdict": str(run.verdict),
        "rule": run.rule,
        "reason": _json({"key": run.reason.key, "params": dict(run.reason.params)}),
        "limits": _json(asdict(run.limits)),
        "policy": run.policy,
        "shape": run.shape,
        "hash": run.hash,
        "leasable": int(run.leasable),
        "created_at": run.created_at,
        "uptime": run.uptime,
        "boot_id": run.boot_id,
        "intent": run.intent,
        "decided_by": run.decided_by,
        "decider": run.decider,
        "decided_at": run.decided_at,
        "lease": run.lease,
        "started_at": run.started_at,
        "ended_at": run.ended_at,
        "outcome": _json(asdict(run.outcome)),
        "kept": run.kept,
    }


def _run(row: Row) -> Run:
    reason, outcome = json.loads(row["reason"]), json.loads(row["outcome"])
    return Run(
        row["id"],
        State(row["state"]),
        _asker(row),
        cast(Scope, row["scope"]),
        row["line"],
        _stages(row["typed"]),
        _stages(row["stages"]),
        row["cwd"],
        row["view"],
        row["why"],
        Verdict(row["verdict"]),
        row["rule"],
        Message(reason["key"], reason["params"]),
        Limits(**json.loads(row["limits"])),
        row["policy"],
        row["shape"],
        row["created_at"],
        row["uptime"],
        row["boot_id"],
        row["hash"],
        bool(row["leasable"]),
        row["intent"],
        row["decided_by"],
        row["decider"],
        row["decided_at"],
        row["lease"],
        row["started_at"],
        row["ended_at"],
        Outcome(**outcome | {"stages": tuple(outcome.get("stages", ()))}),
        row["kept"],
    )


def _asker(row: Row) -> Asker:
    return Asker(
        Actor(row["actor"]),
        cast(Role, row["role"]),
        row["person"],
        row["name"],
        row["session"],
        row["token"],
        tainted=bool(row["tainted"]),
        picked=bool(row["picked"]),
    )


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _stages(text: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(argv) for argv in json.loads(text))
