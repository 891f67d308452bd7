"""The only way to a run: propose, have it judged, have a person decide where the policy asks, start it, see it to its end.

Rules: nothing starts before its audit record, its row and the approval or lease it uses up are on disk, in one transaction
(LOG-2, POL-11). What is judged, approved, recorded and started is one value. Only a person decides.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import sqlite3
from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from appliance.commands.access import check_decider, check_rehearser, may_see, sees_all
from appliance.commands.asker import Asker
from appliance.commands.assessing import REHEARSAL, Assessor, Machine, Proposal, check_size
from appliance.commands.execution import Execution, shape
from appliance.commands.history import DAYS, OPEN, History, Run, State
from appliance.commands.judge import Policy
from appliance.commands.leases import Lease, Leases, Terms
from appliance.commands.limits import DAY, LimitReached, RateLimits, budgets, crowd
from appliance.commands.lines import JudgedLine
from appliance.commands.model import Actor, Judgement, Request, Verdict
from appliance.commands.records import Records, name_of, said
from appliance.commands.rehearsal import Rehearsals
from appliance.commands.rehearsal_rows import Rehearsal
from appliance.commands.runs import Live, Runs
from appliance.commands.starter import Starter, executed
from appliance.commands.tokenizer import joined
from appliance.commands.workspace import WorkspaceFiles
from appliance.errors import Conflict, CroftError, Forbidden, Invalid, NotFound
from appliance.messages import Message

log = logging.getLogger(__name__)

APPROVAL_SECONDS = 300.0
MUTE_SECONDS = 600.0
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
        self._leases = Leases(records.database, records.clock, records.boot_id)
        self._putting = asyncio.Lock()
        self._starter = Starter(records, self._limits, self._leases, runs, machine.verbs)

    # Life

    async def load(self) -> None:
        """Read what survived the last stop; before anything is proposed."""
        await self._limits.load()
        self._records.waiting.update(run.id for run in await self._records.history.in_state(State.WAITING))

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
        return await self._ask(run, judgement, taken)

    async def as_now(self, asker: Asker) -> Asker:
        """The asker in the role they have now: an answer of the assistant may outlive that of its person, and the person.

        Raises Forbidden for who is gone or suspended by now."""
        role = await self._assessor.role(asker)
        if role is None:
            raise Forbidden("who asked may use nothing here any more", hint="Ask an admin of this appliance.")
        return replace(asker, role=role)

    async def rerun(self, asker: Asker, run_id: str) -> Run:
        """Ask for the same again; it is judged anew. Raises CroftError."""
        run = await self.get(asker, run_id)
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
        """Let exactly the execution with this hash run, once; with ``terms``, again without asking. Raises CroftError."""
        run = await self._waiting(decider, run_id)
        if not hmac.compare_digest(digest.encode(), run.hash.encode()):
            raise Conflict(
                "this is not the command that was shown", hint="Reload and look at it again.", code="changed"
            )
        if terms is not None:
            terms.check()
            if not run.leasable:
                raise Invalid("this command cannot be leased", hint="Approve it once.", code="not_leasable")
        judgement, expected = await self._unchanged(run)

        async def also(tx: Any) -> None:
            await self._records.audit.append(tx, "command.approve", decider.auditor, run=run.id, hash=run.hash)
            if terms is not None:
                account = run.asker.account
                lease = await self._leases.give(
                    tx, terms, digest=run.hash, account=account, name=run.asker.name, line=run.line, cwd=run.cwd,
                    run=run.id, by=name_of(decider), giver=decider.person,
                )  # fmt: skip
                await self._records.audit.append(
                    tx, "lease.give", decider.auditor, lease=lease, run=run.id, runs=terms.runs, minutes=terms.minutes
                )

        decided = replace(
            run, decided_by=name_of(decider), decider=decider.person, decided_at=self._records.clock.now()
        )
        return await self._starter.start(decided, judgement, {}, expected=expected, was=State.WAITING, also=also)

    async def deny(self, decider: Asker, run_id: str) -> Run:
        """Turn a proposal down; the same one of the same asker is muted for ten minutes. Raises CroftError."""
        run = await self._waiting(decider, run_id)
        now = self._records.clock.now()
        denied = replace(
            run,
            state=State.DENIED,
            uptime=self._records.clock.uptime(),
            decided_by=name_of(decider),
            decider=decider.person,
            decided_at=now,
            ended_at=now,
        )
        await self._records.settle(denied, State.WAITING, "command.deny", decider.auditor)
        return denied

    async def cancel(self, asker: Asker, run_id: str) -> Run:
        """Withdraw a proposal, or end everything of a run. Raises CroftError."""
        run = await self.get(asker, run_id)
        if run.state is State.WAITING:
            withdrawn = replace(
                run,
                state=State.CANCELLED,
                decided_by=name_of(asker),
                decider=asker.person,
                ended_at=self._records.clock.now(),
            )
            await self._records.settle(withdrawn, State.WAITING, "command.cancel", asker.auditor)
            return withdrawn
        if run.state is not State.RUNNING:
            raise Conflict("this run is over already", hint="There is nothing to cancel.", code="over")
        await self._records.audit.note("command.cancel", asker.auditor, run=run.id)
        await self._starter.cancel(run)
        return await self.wait(run.id, 2.0)

    async def revoke(self, decider: Asker, lease: str) -> None:
        """End a lease now. Raises CroftError."""
        check_decider(decider, "workspace")
        async with self._records.transaction() as tx:
            await self._leases.revoke(tx, lease)
            await self._records.audit.append(tx, "lease.revoke", decider.auditor, lease=lease)
        self._records.bus.publish("approvals", {})

    # Looking

    async def get(self, asker: Asker, run_id: str) -> Run:
        """A run that ``asker`` may see. Raises NotFound."""
        run = self._starter.active.get(run_id) or await self._records.history.get(run_id)
        if not may_see(asker, run):
            raise NotFound("there is no such run")
        return self._as_of_now(run)

    async def page(
        self, asker: Asker, *, state: str = "", text: str = "", before: float | None = None, limit: int = 50
    ) -> list[Run]:
        """Runs that ``asker`` may see, the newest first."""
        own = None if sees_all(asker) else asker
        found = await self._records.history.page(account=own, state=state, text=text, before=before, limit=limit)
        return [self._as_of_now(self._starter.active.get(run.id, run)) for run in found]

    async def waiting(self, asker: Asker) -> list[Run]:
        """Proposals that wait for a decision, the oldest first."""
        return [run for run in await self._undecided() if may_see(asker, run)]

    async def leases(self) -> list[Lease]:
        """Live leases."""
        return await self._leases.all()

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
    def pending(self) -> int:
        """How many proposals wait for a decision."""
        return len(self._records.waiting)

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._machine.policy()

    async def entries(self, folder: str) -> list[dict[str, Any]]:
        """The rows of a workspace folder, for who completes a path. Raises CroftError."""
        return await self._files.entries(self._assessor.folder(folder) or ".")

    def changed(self) -> list[dict[str, str]]:
        """The runs that changed last, by id and state: what a page needs to know what to look at again."""
        return [{"id": run, "state": str(state)} for run, state in self._records.changed.items()]

    def remaining(self, run: Run) -> float:
        """Seconds until a waiting proposal runs out."""
        same_boot = run.boot_id == self._records.boot_id
        return max(0.0, run.uptime + APPROVAL_SECONDS - self._records.clock.uptime()) if same_boot else 0.0

    async def forget(self) -> None:
        """Let go of what is too old or too much; the audit log keeps its records."""
        now = self._records.clock.now()
        await self._records.history.forget(now)
        await self._leases.forget(now - DAYS * DAY)
        await self._limits.forget()
        await self.rehearsals.forget()

    # Inside: from proposal to decision

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

    async def _ask(self, run: Run, judgement: Judgement, taken: Mapping[str, Any]) -> Run:
        """Use a lease, or put the question. The same question that waits already is not put twice."""
        since = self._records.clock.uptime() - MUTE_SECONDS
        if await self._records.history.denied_since(run.shape, run.asker, self._records.boot_id, since):
            return await self._refuse(replace(run, reason=Message("command.refused.muted")), taken)
        execution = await self._assessor.execution(run, judgement)
        run = replace(run, hash=execution.digest(), leasable=judgement.leasable)
        expected = _expected(execution)
        if not (run.asker.unattended or run.asker.tainted) and (
            lease := await self._leases.find(run.hash, run.asker.account)
        ):
            return await self._starter.start(replace(run, lease=lease), judgement, taken, expected=expected)
        async with self._putting:  # what is counted is what stands there when the row is written
            return await self._put(run, taken)

    async def _put(self, run: Run, taken: Mapping[str, Any]) -> Run:
        others = await self._undecided()
        for one in others:
            # A card that says nothing of foreign words is not decided for a question that was asked after reading some (AI-3).
            warns = one.asker.tainted >= run.asker.tainted
            if one.hash == run.hash and one.asker.account == run.asker.account and warns:
                return one
        if crowded := crowd(run.asker, [one.asker for one in others]):
            code, first = crowded
            raise LimitReached(code, self.remaining(others[first]))
        waiting = replace(run, state=State.WAITING)
        async with self._records.transaction() as tx:
            await self._records.audit.append(tx, "command.ask", run.asker.auditor, hash=run.hash, **said(run))
            await self._records.history.add(tx, waiting)
            await self._limits.save(tx, taken)
        self._records.tell(waiting)
        return waiting

    async def _undecided(self) -> list[Run]:
        found = [self._as_of_now(run) for run in await self._records.history.in_state(State.WAITING)]
        return [run for run in found if run.state is State.WAITING]

    async def _waiting(self, decider: Asker, run_id: str) -> Run:
        """A proposal that waits and that ``decider`` may decide. Raises CroftError."""
        run = await self.get(decider, run_id)
        check_decider(decider, run.scope)
        if run.asker.actor is Actor.AI and decider.session and decider.session == run.asker.session:
            raise Forbidden("a proposal cannot be approved by the session it came from")
        if run.state is State.EXPIRED:
            raise Conflict("this proposal has run out", hint="Ask for the command again.", code="expired")
        if run.state is not State.WAITING:
            raise Conflict("this was decided already", hint="Reload to see how.", code="decided")
        return run

    async def _unchanged(self, run: Run) -> tuple[Judgement, Mapping[str, Any] | None]:
        """The judgement and the fingerprints if all that was hashed is as it was. Raises Conflict after closing the proposal."""
        role = await self._assessor.role(run.asker)
        reason = Message("command.gone")
        if role is not None:
            request = Request(run.typed, run.asker.actor, role, run.scope, run.cwd)
            judgement = self._machine.policy().judge(request)
            if run.scope == "workspace":
                await self._machine.ready()
                judgement = await self._assessor.verified(judgement, run.cwd)
            if judgement.verdict is not Verdict.DENY:
                execution = await self._assessor.execution(run, judgement)
                same = judgement.digest == self._machine.policy().digest  # it took a while
                if same and hmac.compare_digest(execution.digest(), run.hash):
                    return judgement, _expected(execution)
            reason = Message("command.changed")
        await self._records.settle(
            replace(run, state=State.EXPIRED, reason=reason, ended_at=self._records.clock.now()),
            State.WAITING,
            "command.expire",
            "daemon",
        )
        raise Conflict(
            "what was shown is not what would run any more, so nothing was started",
            hint="Ask for the command again.",
            code="changed",
        )

    # Inside: small things

    async def _tick(self) -> None:
        forgotten = -FORGET_SECONDS
        while True:
            try:
                await self._expire()
                if self._records.clock.uptime() - forgotten >= FORGET_SECONDS:
                    forgotten = self._records.clock.uptime()
                    await self.forget()
            except (CroftError, sqlite3.Error, OSError) as error:
                log.error("cannot tidy up after commands; it is tried again", exc_info=error)
            await asyncio.sleep(TICK_SECONDS)

    async def _expire(self) -> None:
        for run in await self._records.history.in_state(State.WAITING):
            if self.remaining(run) <= 0:
                over = replace(run, state=State.EXPIRED, ended_at=self._records.clock.now())
                try:
                    await self._records.settle(over, State.WAITING, "command.expire", "daemon")
                except Conflict:
                    continue  # decided in the last moment

    def _as_of_now(self, run: Run) -> Run:
        over = run.state is State.WAITING and self.remaining(run) <= 0
        return replace(run, state=State.EXPIRED) if over else run


def _expected(execution: Execution) -> Mapping[str, Any] | None:
    if execution.scope == "host":
        return None
    return {"image": execution.image, "folder": execution.folder, "programs": list(execution.programs)}
