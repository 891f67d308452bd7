"""Rehearsals from the end of their run on: collected, looked at, applied, undone, discarded, let go.

Rules: what is applied is the list that a person saw, named by its digest (POL-10), once (POL-11), announced before and
closed after (LOG-2). A merge that was cut off is finished by the next daemon, or taken back whole.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, TypeVar

from msgspec.structs import replace

from appliance.commands import parcel
from appliance.commands.asker import Asker
from appliance.commands.history import Run
from appliance.commands.merging import Merger
from appliance.commands.parcel import Change, Difference, Listed
from appliance.commands.records import Records
from appliance.commands.rehearsal_rows import Rehearsal, Rows, Stage
from appliance.errors import Conflict, CroftError, NotFound

T = TypeVar("T")
Over = Callable[[str], Awaitable[Run]]
log = logging.getLogger(__name__)

MOST_BYTES = 2 << 30  # of all results together
_NAMED = 5  # paths named in a refusal
# What a merge under way becomes, where it goes, and what it was before.
_MERGES = {
    Stage.APPLYING: (Stage.APPLIED, "after", Stage.READY),
    Stage.UNDOING: (Stage.UNDONE, "before", Stage.APPLIED),
}


class Rehearsals:
    """All results. ``folder`` is where their files are kept."""

    def __init__(self, records: Records, merger: Merger, folder: Path) -> None:
        self._records, self._merger, self._folder = records, merger, folder
        self._rows = Rows(records.database)
        self._turn = asyncio.Lock()  # one merge at a time
        self._tasks: set[asyncio.Task[Any]] = set()
        self._followed: set[str] = set()  # runs whose end this daemon waits for

    # Beginning and end of a run

    async def begin(self, tx: Any, run: str) -> None:
        """Write down that ``run`` is a rehearsal, in the transaction that announces it."""
        await self._rows.add(tx, run, self._records.clock.now())

    def follow(self, run: str, over: Over) -> None:
        """Collect the result once the run is over, which ``over(run)`` waits for."""
        if run not in self._followed:
            self._followed.add(run)
            self._aside(self._collect_after(over(run)))

    async def open(self, over: Over) -> None:
        """Go on where the last daemon stopped."""
        for row in await self._rows.all():
            if row.stage is Stage.RUNNING:
                self.follow(row.run, over)
        await self.forget()

    def stop(self) -> None:
        """Leave the rest to the next daemon."""
        for task in self._tasks:
            task.cancel()

    # Looking

    async def get(self, run: str) -> Rehearsal:
        """Raises NotFound for a run that was no rehearsal."""
        return await self._rows.get(run)

    async def listed(self, row: Rehearsal) -> Listed:
        """The list of changes; empty where nothing is kept."""
        if not row.kept:
            return Listed("", "", (), ())
        try:
            return await asyncio.to_thread(parcel.read_list, self._file(row.run), row.list_at, row.list_size)
        except (OSError, ValueError) as error:
            raise NotFound("nothing is left of this rehearsal", hint="Rehearse the command again.") from error

    async def difference(self, row: Rehearsal, path: str) -> tuple[Change, Difference]:
        """How the change of ``path`` reads. Raises NotFound."""
        for change in (await self.listed(row)).changes:
            if change.path == path:
                return change, await asyncio.to_thread(parcel.difference, self._file(row.run), change)
        raise NotFound("this path was not changed", hint="Reload the list of changes.")

    # Deciding

    async def apply(self, decider: Asker, run: str, digest: str) -> Rehearsal:
        """Merge exactly the changes with this digest. Raises Conflict (codes changed, conflict, not_applicable, over), CroftError."""
        row = await self._rows.get(run)
        if row.stage is not Stage.READY:
            raise _over()
        if not row.applicable(self._records.clock.now()):
            hint = "Rehearse the command again."
            raise Conflict("this result cannot be applied", hint=hint, code="not_applicable")
        if not hmac.compare_digest(digest.encode(), row.digest.encode()):
            raise Conflict("these are not the changes that were shown", hint="Reload and look again.", code="changed")
        return await self._merge(decider, row, Stage.APPLYING, "rehearsal.apply")

    async def undo(self, decider: Asker, run: str) -> Rehearsal:
        """Take back what was applied. Raises Conflict (codes conflict, over), CroftError."""
        row = await self._rows.get(run)
        if not row.can_undo(self._records.clock.now()):
            raise _over()
        return await self._merge(decider, row, Stage.UNDOING, "rehearsal.undo")

    async def discard(self, decider: Asker, run: str) -> Rehearsal:
        """Let a result go that nobody wants. Raises Conflict."""
        row = await self._rows.get(run)
        if row.stage not in (Stage.READY, Stage.EMPTY):
            raise _over()
        gone = replace(row, stage=Stage.DISCARDED, bytes=0)
        async with self._records.transaction() as tx:
            await self._change(tx, gone, row.stage)
            await self._records.audit.append(tx, "rehearsal.discard", decider.auditor, run=run)
        self._file(run).unlink(missing_ok=True)
        await self._tell(run)
        return gone

    async def forget(self) -> None:
        """Let go what is too old or too much, then files that no row wants; take up merges that were cut off."""
        now, total = self._records.clock.now(), 0
        for row in await self._rows.all():
            total += row.bytes
            if row.stage in _MERGES:
                self._aside(self._finish(row.run))
            elif now >= (row.expires_at or now + 1) or (total > MOST_BYTES and row.stage is Stage.READY):
                await self._let_go(replace(row, stage=Stage.EXPIRED, bytes=0), row.stage)
            elif row.kept and (
                row.stage is Stage.UNDONE or (row.applied_at and (not row.can_undo(now) or total > MOST_BYTES))
            ):
                await self._let_go(replace(row, bytes=0), row.stage)
        async with self._records.database.transaction() as tx:
            await self._rows.forget(tx)
        # In this order: a rehearsal that begins meanwhile has its row before its file.
        files = await asyncio.to_thread(_files, self._folder)
        wanted = {row.run for row in await self._rows.all() if row.kept or row.stage is Stage.RUNNING}
        await asyncio.to_thread(_remove, [path for path in files if path.name.removesuffix(".new") not in wanted])

    # Inside

    async def _collect_after(self, over: Awaitable[Run]) -> None:
        run = await over
        row = await self._rows.get(run.id)
        fresh = self._folder / f"{run.id}.new"
        try:
            await asyncio.to_thread(self._folder.mkdir, 0o700, True, True)
            at, size = await self._merger.collect(run.id, fresh)
            fresh.replace(self._file(run.id))
            found = await asyncio.to_thread(parcel.read_list, self._file(run.id), at, size)
            ready = self._ready(row, found, at, size)
        except (CroftError, OSError, ValueError) as error:
            log.warning("cannot collect what a rehearsal changed", extra={"run": run.id}, exc_info=error)
            fresh.unlink(missing_ok=True)
            cause = "not_started" if run.outcome.cause == "not_started" else "gone"
            ready = replace(row, stage=Stage.LOST, cause=cause)
        await self._let_go(ready, Stage.RUNNING)
        self._followed.discard(run.id)
        await self.forget()

    def _ready(self, row: Rehearsal, found: Listed, at: int, size: int) -> Rehearsal:
        stale = any(change.stale for change in found.changes)
        cause = found.cause or ("problems" if found.problems else "stale" if stale else "")
        return replace(
            row,
            stage=Stage.READY if found.changes or cause else Stage.EMPTY,
            cause=cause,
            digest=found.digest,
            changes=len(found.changes),
            list_at=at,
            list_size=size,
            bytes=at + size,
            ready_at=self._records.clock.now(),
        )

    async def _merge(self, decider: Asker, row: Rehearsal, stage: Stage, event: str) -> Rehearsal:
        async with self._turn:
            async with self._records.transaction() as tx:
                intent = await self._records.audit.append(
                    tx, event, decider.auditor, run=row.run, digest=row.digest, changes=row.changes
                )
                under_way = replace(row, stage=stage, intent=intent)
                await self._change(tx, under_way, row.stage)
            await self._tell(row.run)
            return await asyncio.shield(self._aside(self._carry_out(under_way, decider.auditor)))

    async def _finish(self, run: str) -> None:
        """A merge that is still open although nobody is at it: it was cut off."""
        async with self._turn:
            row = await self._rows.get(run)
            try:
                if row.stage in _MERGES:
                    await self._carry_out(row, "daemon")
            except Conflict as error:
                log.warning("a merge that was cut off was taken back", extra={"run": run, "cause": error.message})

    async def _carry_out(self, row: Rehearsal, actor: str) -> Rehearsal:
        """Merge, and close the row and the audit record. Raises Conflict naming what somebody else changed."""
        done, towards, back = _MERGES[row.stage]
        found = await self._persist(row, towards)
        now = self._records.clock.now()
        if found.conflicts:
            closed = replace(row, stage=back, cause="torn" if found.torn else row.cause)
        elif done is Stage.APPLIED:
            closed = replace(row, stage=done, applied_at=now)
        else:
            closed = replace(row, stage=done, undone_at=now)
        async with self._records.transaction() as tx:
            await self._change(tx, closed, row.stage)
            result = "conflict" if found.conflicts else "done"
            await self._records.audit.append(tx, "outcome", actor, row.intent, run=row.run, result=result)
        await self._tell(row.run)
        if found.conflicts:
            raise _conflict(found.torn or found.conflicts, bool(found.torn))
        return closed

    async def _persist(self, row: Rehearsal, towards: str) -> Any:
        """Merge; a helper that dies half-way is followed by another, which goes on where it stopped."""
        for again in (True, True, False):
            try:
                return await self._merger.merge(row.run, self._file(row.run), towards, row.list_at, row.list_size)
            except CroftError as error:
                log.warning("a merge was cut off", extra={"run": row.run, "cause": error.message})
                if not again:
                    raise
                await asyncio.sleep(0.5)
        raise AssertionError("the loop above ends by returning or raising")

    async def _change(self, tx: Any, row: Rehearsal, was: Stage) -> None:
        if not await self._rows.change(tx, row, was):
            raise _over()

    async def _let_go(self, row: Rehearsal, was: Stage) -> None:
        """Write a row that only time has changed, and drop its file if that is of no use any more."""
        async with self._records.database.transaction() as tx:
            changed = await self._rows.change(tx, row, was)
        if changed and not row.kept:
            self._file(row.run).unlink(missing_ok=True)
        await self._tell(row.run)

    async def _tell(self, run: str) -> None:
        try:
            self._records.tell(await self._records.history.get(run))
        except NotFound:
            return  # forgotten meanwhile

    def _file(self, run: str) -> Path:
        return self._folder / run

    def _aside(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work, name="rehearsal")
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error and not isinstance(error, Conflict):
            log.error("seeing to a rehearsal failed", exc_info=error)


def _over() -> Conflict:
    return Conflict("this is not possible any more", hint="Reload to see what became of this rehearsal.", code="over")


def _conflict(paths: tuple[str, ...], torn: bool) -> Conflict:
    named = ", ".join(path for path in paths[:_NAMED] if path) or "a file of this result"
    more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    if torn:
        return Conflict(
            f"cannot merge or take back everything: {named}{more} changed meanwhile", hint="Look at these files."
        )
    return Conflict(
        f"cannot merge the changes: {named}{more} changed in the workspace meanwhile, so nothing was merged",
        hint="Rehearse the command again.",
    )


def _files(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
