"""Questions that wait for a person: put, withdrawn, approved or denied, run out; and the leases that an approval may leave.

Rules: an approval is for one execution, by its hash, once, and only while all that was hashed is as it was (POL-11). Only a
person decides. The same question that waits already is not put twice.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from appliance.commands.access import check_decider
from appliance.commands.asker import Asker
from appliance.commands.assessing import Assessor, Machine
from appliance.commands.history import DAYS, Run, State
from appliance.commands.leases import Lease, Leases, Terms
from appliance.commands.limits import DAY, LimitReached, RateLimits, crowd
from appliance.commands.model import Actor, Judgement, Request, Verdict
from appliance.commands.records import Records, decided, name_of, said
from appliance.commands.starter import Starter
from appliance.errors import Conflict, Forbidden, Invalid
from appliance.messages import Message

APPROVAL_SECONDS = 300.0
MUTE_SECONDS = 600.0


class Approvals:
    """All proposals that wait, and all live leases."""

    def __init__(
        self,
        machine: Machine,
        records: Records,
        assessor: Assessor,
        limits: RateLimits,
        leases: Leases,
        starter: Starter,
    ) -> None:
        self._machine, self._records, self._assessor = machine, records, assessor
        self._limits, self._leases, self._starter = limits, leases, starter
        self._putting = asyncio.Lock()

    async def load(self) -> None:
        """Read what waited at the last stop."""
        self._records.waiting.update(run.id for run in await self._records.history.in_state(State.WAITING))

    # Asking

    async def muted(self, run: Run) -> bool:
        """Whether a person denied the same to the same asker just now."""
        since = self._records.clock.uptime() - MUTE_SECONDS
        return await self._records.history.denied_since(run.shape, run.asker, self._records.boot_id, since)

    async def ask(self, run: Run, judgement: Judgement, taken: Mapping[str, Any]) -> Run:
        """Start it by a lease, or put the question. Raises CroftError, LimitReached."""
        execution = await self._assessor.execution(run, judgement)
        run = replace(run, hash=execution.digest(), leasable=judgement.leasable)
        if not (run.asker.unattended or run.asker.tainted) and (
            lease := await self._leases.find(run.hash, run.asker.account)
        ):
            leased = replace(run, lease=lease)
            return await self._starter.start(leased, judgement, taken, expected=execution.expected)
        async with self._putting:  # what is counted is what stands there when the row is written
            return await self._put(run, taken)

    async def withdraw(self, asker: Asker, run: Run) -> Run:
        """Take a waiting proposal back. Raises CroftError."""
        withdrawn = replace(
            run,
            state=State.CANCELLED,
            decided_by=name_of(asker),
            decider=asker.person,
            ended_at=self._records.clock.now(),
        )
        await self._records.settle(withdrawn, State.WAITING, "command.cancel", asker.auditor)
        return withdrawn

    # Deciding

    async def approve(self, decider: Asker, run: Run, digest: str, terms: Terms | None = None) -> Run:
        """Let exactly the execution with this hash run, once; with ``terms``, again without asking. Raises CroftError."""
        _check_waiting(decider, run)
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

        approved = replace(
            run, decided_by=name_of(decider), decider=decider.person, decided_at=self._records.clock.now()
        )
        return await self._starter.start(approved, judgement, {}, expected=expected, was=State.WAITING, also=also)

    async def deny(self, decider: Asker, run: Run) -> Run:
        """Turn a proposal down; the same one of the same asker is muted for ten minutes. Raises CroftError."""
        _check_waiting(decider, run)
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

    # Leases

    async def leases(self) -> list[Lease]:
        """Live leases."""
        return await self._leases.all()

    async def revoke(self, decider: Asker, lease: str) -> None:
        """End a lease now. Raises CroftError."""
        check_decider(decider, "workspace")
        async with self._records.transaction() as tx:
            await self._leases.revoke(tx, lease)
            await self._records.audit.append(tx, "lease.revoke", decider.auditor, lease=lease)
        self._records.bus.publish("approvals", {})

    # Looking

    @property
    def pending(self) -> int:
        """How many proposals wait for a decision."""
        return len(self._records.waiting)

    async def waiting(self) -> list[Run]:
        """Proposals that wait for a decision, the oldest first."""
        found = [self.as_of_now(run) for run in await self._records.history.in_state(State.WAITING)]
        return [run for run in found if run.state is State.WAITING]

    def remaining(self, run: Run) -> float:
        """Seconds until a waiting proposal runs out."""
        same_boot = run.boot_id == self._records.boot_id
        return max(0.0, run.uptime + APPROVAL_SECONDS - self._records.clock.uptime()) if same_boot else 0.0

    def as_of_now(self, run: Run) -> Run:
        """The run, as run out where its row does not say so yet."""
        over = run.state is State.WAITING and self.remaining(run) <= 0
        return replace(run, state=State.EXPIRED) if over else run

    # Running out

    async def expire(self) -> None:
        """Close what has run out."""
        for run in await self._records.history.in_state(State.WAITING):
            if self.remaining(run) <= 0:
                over = replace(run, state=State.EXPIRED, ended_at=self._records.clock.now())
                try:
                    await self._records.settle(over, State.WAITING, "command.expire", "daemon")
                except Conflict:
                    continue  # decided in the last moment

    async def forget(self) -> None:
        """Let go of leases that ended long ago."""
        await self._leases.forget(self._records.clock.now() - DAYS * DAY)

    # Inside

    async def _put(self, run: Run, taken: Mapping[str, Any]) -> Run:
        others = await self.waiting()
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
                    return judgement, execution.expected
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


def _check_waiting(decider: Asker, run: Run) -> None:
    """Raises CroftError unless this waits and ``decider`` may decide it."""
    check_decider(decider, run.scope)
    if run.asker.actor is Actor.AI and decider.session and decider.session == run.asker.session:
        raise Forbidden("a proposal cannot be approved by the session it came from")
    if run.state is State.EXPIRED:
        raise Conflict("this proposal has run out", hint="Ask for the command again.", code="expired")
    if run.state is not State.WAITING:
        raise decided()
