"""What a command is before anybody decides: the policy's word on it, where its paths lead, and everything an approval binds.

Rule: nothing here records or starts anything; the same look is taken when it is asked for and again just before it starts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from msgspec import Struct
from msgspec.structs import replace

from appliance.commands.asker import Asker
from appliance.commands.execution import Execution
from appliance.commands.history import Run
from appliance.commands.judge import Policy
from appliance.commands.lines import JudgedLine, judge_line
from appliance.commands.model import Actor, Judgement, Request, Role, Scope, Verdict
from appliance.commands.runs import Runs, Work
from appliance.commands.starter import executed
from appliance.commands.values import lexical
from appliance.commands.verify import Check, verified
from appliance.commands.workspace import WorkspaceFiles
from appliance.errors import Invalid
from appliance.messages import Message

REHEARSAL = "rehearsal"
MOST_BYTES = 48_000  # of all words together: a request to the broker is one packet


class Machine(Struct, frozen=True):
    """What commands need of the rest of the appliance, as callables.

    ``role_of`` answers None for a person who is gone or suspended. ``ready`` returns once commands can run (it wakes the
    IDE in the docker runtime). ``verbs`` carries out the host's typed verbs: it raises NotFound for one that is none.
    """

    runtime: str
    uid: int
    instance: str
    workspace: str
    policy: Callable[[], Policy]
    role_of: Callable[[str], Awaitable[Role | None]]
    ready: Callable[[], Awaitable[None]]
    check: Check
    verbs: Callable[[tuple[str, ...]], Work]


class Proposal(Struct, frozen=True):
    """What somebody asks for. ``line`` or ``stages``; ``why`` is what the asker says, shown apart from what we say."""

    line: str = ""
    stages: tuple[tuple[str, ...], ...] = ()
    cwd: str = ""
    why: str = ""
    view: str = "plain"
    scope: Scope = "workspace"


class Assessor:
    """Looks at commands as this machine, its policy and its people are now."""

    def __init__(self, machine: Machine, runs: Runs, files: WorkspaceFiles) -> None:
        self._machine, self._runs, self._files = machine, runs, files

    def judge(self, asker: Asker, proposal: Proposal) -> JudgedLine:
        """What the policy alone says; nothing is recorded. Raises Invalid for a folder that is none."""
        cwd = self.folder(proposal.cwd)
        policy, actor, role = self._machine.policy(), asker.actor, asker.role
        if not proposal.stages:
            judged = judge_line(policy, proposal.line, actor, role, scope=proposal.scope, cwd=cwd)
        else:
            judged = JudgedLine(policy.judge(Request(proposal.stages, actor, role, proposal.scope, cwd)))
        if asker.tainted and judged.judgement.verdict is Verdict.ALLOW and judged.judgement.effect != "read":
            asks = replace(judged.judgement, verdict=Verdict.ASK, reason=Message("policy.ask.tainted"))
            return replace(judged, judgement=asks)
        return judged

    async def verified(self, judgement: Judgement, cwd: str) -> Judgement:
        """The judgement once its paths and named checks were looked at in the workspace. Raises CroftError."""
        if not (cwd or judgement.paths or judgement.checks or any("/" in one.argv[0] for one in judgement.stages)):
            return judgement
        return await verified(judgement, cwd, self._machine.workspace, self._files, self._machine.check)

    async def execution(self, run: Run, judgement: Judgement) -> Execution:
        """Everything that an approval binds, looked at now. Raises CroftError."""
        stages = executed(judgement)
        look = {"image": "", "folder": "", "programs": [""] * len(stages)}
        if run.scope == "workspace":
            look = await self._runs.fingerprint([argv[0] for argv in stages], run.cwd)
        return Execution(
            scope=run.scope,
            runtime=self._machine.runtime,
            image=str(look["image"]),
            uid=self._machine.uid,
            workspace=self._machine.instance,
            cwd=run.cwd,
            folder=str(look["folder"]),
            programs=tuple(look["programs"]),
            stages=stages,
            env=dict(judgement.env),
            limits=judgement.limits,
            rule=judgement.rule,
            policy=judgement.digest,
            view=run.view,
        )

    async def role(self, asker: Asker) -> Role | None:
        """The role the asker has now: a token or the assistant never more than it was given."""
        if not asker.person:
            return asker.role
        found = await self._machine.role_of(asker.person)
        if found is None or (asker.actor is Actor.HUMAN and not asker.token):
            return found
        return min(found, asker.role, key=("viewer", "operator", "admin").index)

    def folder(self, cwd: str) -> str:
        """``cwd`` relative to the workspace, without dots. Raises Invalid."""
        root = self._machine.workspace
        inner = cwd[len(root) :].lstrip("/") if cwd == root or cwd.startswith(f"{root}/") else cwd
        found = None if inner.startswith("/") or "\0" in inner else lexical("", inner)
        if found is None:
            raise Invalid("the folder is not in the workspace", hint="Name one beneath it.", code="outside")
        return found


def check_size(proposal: Proposal) -> None:
    """Raises Invalid for what is no command, or too long."""
    if bool(proposal.line) == bool(proposal.stages) and not proposal.stages:
        raise Invalid("there is no command", hint="Type one.", code="empty")
    if proposal.view not in ("plain", REHEARSAL):
        raise Invalid("there is no such view", hint="There are plain and rehearsal.")
    size = len(proposal.line.encode("utf-8", "replace")) + sum(
        len(word.encode("utf-8", "replace")) + 8 for argv in proposal.stages for word in argv
    )
    if size > MOST_BYTES:
        raise Invalid("the command is too long", hint=f"At most {MOST_BYTES} bytes.", code="too_long")
