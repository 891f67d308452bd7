"""The only way to a run: propose, have it judged, have a person decide where the policy asks, start it, see it to its end.

Rules: nothing starts before its audit record, its row and the approval or lease it uses up are on disk, in one transaction
(LOG-2, POL-11). What is judged, approved, recorded and started is one value. Only a person decides.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import sqlite3
from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from appliance.commands.access import check_decider, check_rehearser, may_see, sees_all
from appliance.commands.approvals import Approvals
from appliance.commands.asker import Asker
from appliance.commands.assessing import REHEARSAL, Assessor, Machine, Proposal, check_size
from appliance.commands.execution import shape
from appliance.commands.history import OPEN, History, Run, State
from appliance.commands.judge import Policy
from appliance.commands.leases import Leases, Terms
from appliance.commands.limits import RateLimits, budgets
from appliance.commands.lines import JudgedLine
from appliance.commands.model import Actor, Judgement, Request, Verdict
from appliance.commands.records import Records, said
from appliance.commands.rehearsal import Rehearsals
from appliance.commands.rehearsal_rows import Rehearsal
from appliance.commands.runs import Live, Runs
from appliance.commands.starter import Starter, executed
from appliance.commands.tokenizer import joined
from appliance.commands.workspace import WorkspaceFiles
from appliance.errors import Conflict, CroftError, Forbidden, NotFound
from appliance.messages import Message

log = logging.getLogger(__name__)

MOST_WHY = 2000
TICK_SECONDS = 5.0
FORGET_SECONDS = 3600.0


class Commands:
    """Start it with :meth:`run`; cancel that to stop. Live runs go on and are found again."""

    def __init__(
        self, machine: Machine, records: Records, runs: Runs, files: WorkspaceFiles, rehearsals: Rehearsals
    ) -> None:
        self._machine, self._records, self._runs, self._files = machine, records, runs, files
        self._assessor = Assessor(machine, runs, files)
        self.rehearsals = rehearsals
        self._limits = RateLimits(records.database, records.clock, records.boot_id)
        leases = Leases(records.database, records.clock, records.boot_id)
        self._starter = Starter(records, self._limits, leases, runs, machine.verbs)
        self.approvals = Approvals(machine, records, self._assessor, self._limits, leases, self._starter)

    # Life

    async def load(self) -> None:
        """Read what survived the last stop; before anything is proposed."""
        await self._limits.load()
        await self.approvals.load()

    async def run(self) -> None:
        """Keep the broker's connection and the clockwork going until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._runs.run(self._starter.recover), name="runs")
                group.create_task(self._tick(), name="approvals run out")
                group.create_task(self._resume(), name="rehearsals")
        finally:
            self.rehearsals.stop()
            self._files.close()
            self._starter.stop()

    @property
    def active(self) -> int:
        """How many runs are under way in the workspace."""
        return self._runs.active

    @property
    def files(self) -> WorkspaceFiles:
        """The workspace's files, over the connection that :meth:`run` keeps."""
        return self._files

    @property
    def connected(self) -> bool:
        """Whether the broker was reached and what an earlier daemon left has been looked after."""
        return self._runs.found

    # Asking

    def judge(self, asker: Asker, proposal: Proposal) -> JudgedLine:
        """What the policy alone says; nothing is recorded. Raises Invalid for a folder that is none."""
        return self._assessor.judge(asker, proposal)

    async def propose(self, asker: Asker, proposal: Proposal) -> Run:
        """Ask for a command. The run is refused, waiting or running then. Raises CroftError, LimitReached."""
        check_size(proposal)
        if proposal.view == REHEARSAL:
            check_rehearser(asker, proposal.scope)
        if asker.actor is Actor.AI:
            asker = await self.as_now(asker)
        judgement = self.judge(asker, proposal).judgement
        taken = budgets(asker, judgement.rule, judgement.rate)
        self._limits.take(taken)
        run = self._fresh(asker, proposal, judgement)
        if judgement.verdict is not Verdict.DENY and run.scope == "workspace":
            await self._machine.ready()
            judgement = await self._assessor.verified(judgement, run.cwd)
            run = replace(run, verdict=judgement.verdict, reason=judgement.reason, stages=executed(judgement))
            if judgement.digest != self._machine.policy().digest:
                raise Conflict("the policy was changed meanwhile", hint="Ask for the command again.", code="changed")
        if judgement.verdict is Verdict.DENY:
            return await self._refuse(run, taken)
        if run.view == REHEARSAL:
            return await self._rehearse(run, judgement, taken)
        if judgement.verdict is Verdict.ALLOW:
            return await self._starter.start(run, judgement, taken)
        if await self.approvals.muted(run):
            return await self._refuse(replace(run, reason=Message("command.refused.muted")), taken)
        return await self.approvals.ask(run, judgement, taken)

    async def as_now(self, asker: Asker) -> Asker:
        """The asker in the role they have now: an answer of the assistant may outlive that of its person, and the person.

        Raises Forbidden for who is gone or suspended by now."""
        role = await self._assessor.role(asker)
        if role is None:
            raise Forbidden("who asked may use nothing here any more", hint="Ask an admin of this appliance.")
        return replace(asker, role=role)

    async def rerun(self, asker: Asker, run_id: str) -> Run:
        """Ask for the same again; it is judged anew. A line that a model wrote stays the model's (AI-1). Raises CroftError."""
        run = await self.get(asker, run_id)
        if run.asker.actor is Actor.AI:
            asker = replace(
                asker,
                actor=Actor.AI,
                session=run.asker.session,
                tainted=asker.tainted or run.asker.tainted,
                picked=True,
            )
        return await self.propose(asker, Proposal(run.line, run.typed, run.cwd, "", run.view, run.scope))

    # Rehearsing: nothing real is touched, so nobody is asked; applying the result is the decision (DECIDED 25)

    async def apply(self, decider: Asker, run_id: str, digest: str) -> Rehearsal:
        """Merge exactly the changes with this digest, without running again. Raises CroftError."""
        run = await self._rehearsed(decider, run_id)
        judgement = self._machine.policy().judge(Request(run.typed, decider.actor, decider.role, run.scope, run.cwd))
        if judgement.verdict is Verdict.DENY:
            raise Forbidden(
                "the policy refuses this command by now", hint="An admin can change the policy.", code="denied"
            )
        return await self.rehearsals.apply(decider, run.id, digest)

    async def undo(self, decider: Asker, run_id: str) -> Rehearsal:
        """Take back what was applied. Raises CroftError."""
        return await self.rehearsals.undo(decider, (await self._rehearsed(decider, run_id)).id)

    async def discard(self, decider: Asker, run_id: str) -> Rehearsal:
        """Let the result go. Raises CroftError."""
        return await self.rehearsals.discard(decider, (await self._rehearsed(decider, run_id)).id)

    async def _rehearsed(self, decider: Asker, run_id: str) -> Run:
        run = await self.get(decider, run_id)
        check_decider(decider, run.scope)
        return run

    async def _rehearse(self, run: Run, judgement: Judgement, taken: Mapping[str, Any]) -> Run:
        async def also(tx: Any) -> None:
            await self.rehearsals.begin(tx, run.id)

        begun = await self._starter.start(run, judgement, taken, also=also)
        self.rehearsals.follow(run.id, self._over)
        return begun

    async def _over(self, run_id: str) -> Run:
        """The run once it is over, however long that takes."""
        while (run := await self.wait(run_id, FORGET_SECONDS)).state in OPEN:  # noqa: ASYNC110 - waits in itself
            await asyncio.sleep(TICK_SECONDS / 10)  # an earlier daemon's, not found again yet
        return run

    async def _resume(self) -> None:
        while not self.connected:  # noqa: ASYNC110 - once a start
            await asyncio.sleep(TICK_SECONDS / 10)
        await self.rehearsals.open(self._over)

    # Deciding

    async def approve(self, decider: Asker, run_id: str, digest: str, terms: Terms | None = None) -> Run:
        """As :meth:`Approvals.approve`. Raises CroftError."""
        return await self.approvals.approve(decider, await self.get(decider, run_id), digest, terms)

    async def deny(self, decider: Asker, run_id: str) -> Run:
        """As :meth:`Approvals.deny`. Raises CroftError."""
        return await self.approvals.deny(decider, await self.get(decider, run_id))

    async def cancel(self, asker: Asker, run_id: str) -> Run:
        """Withdraw a proposal, or end everything of a run. Raises CroftError."""
        run = await self.get(asker, run_id)
        if run.state is State.WAITING:
            return await self.approvals.withdraw(asker, run)
        if run.state is not State.RUNNING:
            raise Conflict("this run is over already", hint="There is nothing to cancel.", code="over")
        await self._records.audit.note("command.cancel", asker.auditor, run=run.id)
        await self._starter.cancel(run)
        return await self.wait(run.id, 2.0)

    # Looking

    async def get(self, asker: Asker, run_id: str) -> Run:
        """A run that ``asker`` may see. Raises NotFound."""
        run = self._starter.active.get(run_id) or await self._records.history.get(run_id)
        if not may_see(asker, run):
            raise NotFound("there is no such run")
        return self.approvals.as_of_now(run)

    async def page(
        self, asker: Asker, *, state: str = "", text: str = "", before: float | None = None, limit: int = 50
    ) -> list[Run]:
        """Runs that ``asker`` may see, the newest first."""
        own = None if sees_all(asker) else asker
        found = await self._records.history.page(account=own, state=state, text=text, before=before, limit=limit)
        return [self.approvals.as_of_now(self._starter.active.get(run.id, run)) for run in found]

    async def waiting(self, asker: Asker) -> list[Run]:
        """Proposals that wait for a decision, the oldest first."""
        return [run for run in await self.approvals.waiting() if may_see(asker, run)]

    async def proposals(self, since: float) -> list[Run]:
        """What was asked for since a Unix time, for "which verdicts would change"."""
        return await self._records.history.proposals(since)

    async def wait(self, run_id: str, seconds: float) -> Run:
        """The run once it is over, or as it stands after ``seconds``. Raises NotFound."""
        return await self._starter.wait(run_id, seconds) or await self._records.history.get(run_id)

    def live(self, run_id: str) -> Live | None:
        """A run under way, for its output."""
        return self._runs.get(run_id)

    @property
    def history(self) -> History:
        return self._records.history

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._machine.policy()

    async def entries(self, folder: str) -> list[dict[str, Any]]:
        """The rows of a workspace folder, for who completes a path. Raises CroftError."""
        return await self._files.entries(self._assessor.folder(folder) or ".")

    def changed(self, asker: Asker) -> list[dict[str, str]]:
        """The runs that changed last, of those ``asker`` may see, by id and state: what a page needs to know what to look at again."""
        return [
            {"id": run.id, "state": str(run.state)} for run in self._records.changed.values() if may_see(asker, run)
        ]

    async def forget(self) -> None:
        """Let go of what is too old or too much; the audit log keeps its records."""
        await self._records.history.forget(self._records.clock.now())
        await self.approvals.forget()
        await self._limits.forget()
        await self.rehearsals.forget()

    # Inside

    def _fresh(self, asker: Asker, proposal: Proposal, judgement: Judgement) -> Run:
        typed = tuple(stage.typed for stage in judgement.stages) or proposal.stages
        cwd = self._assessor.folder(proposal.cwd)
        return Run(
            id=f"run-{secrets.token_hex(8)}",
            state=State.REFUSED,
            asker=asker,
            scope=proposal.scope,
            line=proposal.line or joined(proposal.stages),
            typed=typed,
            stages=executed(judgement),
            cwd=cwd,
            view=proposal.view,
            why=proposal.why[:MOST_WHY],
            verdict=judgement.verdict,
            rule=judgement.rule,
            reason=judgement.reason,
            limits=judgement.limits,
            policy=judgement.digest,
            shape=shape(proposal.scope, typed, cwd, proposal.view),
            created_at=self._records.clock.now(),
            uptime=self._records.clock.uptime(),
            boot_id=self._records.boot_id,
        )

    async def _refuse(self, run: Run, taken: Mapping[str, Any]) -> Run:
        refused = replace(run, state=State.REFUSED, ended_at=self._records.clock.now())
        async with self._records.transaction() as tx:
            await self._records.audit.append(tx, "command.refuse", run.asker.auditor, **said(refused))
            await self._records.history.add(tx, refused)
            await self._limits.save(tx, taken)
        self._records.tell(refused)
        return refused

    async def _tick(self) -> None:
        forgotten = -FORGET_SECONDS
        while True:
            try:
                await self.approvals.expire()
                if self._records.clock.uptime() - forgotten >= FORGET_SECONDS:
                    forgotten = self._records.clock.uptime()
                    await self.forget()
            except (CroftError, sqlite3.Error, OSError) as error:
                log.error("cannot tidy up after commands; it is tried again", exc_info=error)
            await asyncio.sleep(TICK_SECONDS)
