"""What the assistant proposed: files to write, which a person accepts or rejects here; commands, which are decided where all are.

Rules: nothing is written but by :meth:`Proposals.accept`, on a person's word, after its audit record is on disk (AI-1, LOG-2), and only
in place of exactly the file that the difference was made against. What cannot be shown whole is not proposed (AI-4). What a person
rejected is not put to them again for ten minutes.
"""

from __future__ import annotations

import asyncio
import difflib
import hashlib
import io
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from appliance.assistant.looking import Files, Looking
from appliance.assistant.person import Person
from appliance.assistant.tools import Mistake
from appliance.assistant.triggers import run_by
from appliance.audit import AuditLog
from appliance.clock import Clock
from appliance.database import Database, Row
from appliance.errors import Conflict, CroftError, Forbidden, Invalid, NotFound

MOST_OPEN = 10  # of one person
MOST_SHOWN = 50
MOST_OLD = 512 * 1024  # bytes of a file that a difference is made against
MOST_DIFF = 200_000  # characters that are shown
MOST_COMPARED = 9_000_000  # lines before by lines after: hostile ones take difflib seconds there
MUTE_SECONDS = 600.0
FORGET_SECONDS = 30 * 86_400.0


class Kind(StrEnum):
    WRITE = "write"
    COMMAND = "command"


class State(StrEnum):
    """``stale``: the file changed meanwhile, nothing was written. A command is ``open`` here for good: its run says the rest."""

    OPEN = "open"
    WRITING = "writing"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    STALE = "stale"
    FAILED = "failed"


@dataclass(frozen=True)
class Proposal:
    """``path`` is beneath the workspace, ``version`` the file's when it was proposed ('' for a new one), ``run`` a command's.

    ``tainted``: the assistant had read what others may have written; ``picked``: a person chose this line of an answer to run;
    ``edited``: what a person accepted in the editor is not quite what was proposed.
    """

    id: str
    conversation: str
    message: str
    owner: str
    kind: Kind
    state: State
    created_at: float
    run: str = ""
    path: str = ""
    version: str = ""
    content: str = field(default="", repr=False)
    diff: str = field(default="", repr=False)
    decided_at: float | None = None
    tainted: bool = False
    picked: bool = False
    edited: bool = False

    @classmethod
    def of(cls, row: Row) -> Proposal:
        return cls(
            row["id"], row["conversation"], row["message"], row["owner"], Kind(row["kind"]), State(row["state"]),
            row["created_at"], row["run"], row["path"], row["version"], row["content"], row["diff"], row["decided_at"],
            bool(row["tainted"]), bool(row["picked"]),
        )  # fmt: skip

    @property
    def waits(self) -> bool:
        """Whether a file's difference still counts: nobody has decided."""
        return self.state in (State.OPEN, State.WRITING)

    def data(self) -> dict[str, Any]:
        """As readers get it: with its difference while somebody is to decide about it."""
        found: dict[str, Any] = {
            "id": self.id,
            "kind": str(self.kind),
            "message": self.message,
            "state": str(self.state),
            "created_at": self.created_at,
            "tainted": self.tainted,
        }
        if self.run:
            return found | {"run": self.run, "picked": self.picked}
        found |= {"path": self.path, "new": not self.version, "run_by": run_by(self.path)}
        return found | {"diff": self.diff} if self.waits else found


class Proposals:
    """``changed`` is told of every proposal that is new or decided."""

    def __init__(
        self,
        database: Database,
        audit: AuditLog,
        clock: Clock,
        files: Files,
        looking: Looking,
        changed: Callable[[Proposal], None] = lambda proposal: None,
    ) -> None:
        self._db, self._audit, self._clock, self._files, self._looking = database, audit, clock, files, looking
        self.changed = changed
        self._decided: dict[str, asyncio.Future[Proposal]] = {}

    async def recover(self) -> None:
        """After a start: a write that was under way is closed as failed; whether it came to be, the file shows. (The audit log
        closes its own records.)"""
        async with self._db.transaction() as tx:
            await tx.execute("UPDATE proposals SET state = 'failed' WHERE state = 'writing'")
            await tx.execute("DELETE FROM proposals WHERE created_at < ?", (self._clock.now() - FORGET_SECONDS,))

    # --- proposing

    async def write(
        self, conversation: str, message: str, person: Person, path: str, content: str, *, tainted: bool
    ) -> Proposal:
        """Propose the new content of a file. Raises Mistake (words for the model)."""
        name = await self._looking.place(path)
        row = await self._files.stat(name) if name else None
        if not name or (row is not None and row["kind"] != "file"):
            raise Mistake(f"{path or 'the workspace'} is not a file.")
        old = await self._old(name, row)
        if "[redacted]" in content and "[redacted]" not in old:
            raise Mistake(
                "The content holds [redacted], which stands for a secret you were not shown. Leave that file alone."
            )
        if old == content and row is not None:
            raise Mistake(f"{name} is like that already.")
        diff = await asyncio.to_thread(difference, name, old, content, new=row is None)
        proposal = Proposal(
            f"prop-{secrets.token_hex(8)}", conversation, message, person.id, Kind.WRITE, State.OPEN, self._clock.now(),
            path=name, version=row["version"] if row else "", content=content, diff=diff, tainted=tainted,
        )  # fmt: skip
        await self._check_room(proposal)
        await self._add(proposal, person, bytes=len(content.encode()), content=_sha(content))
        return proposal

    async def command(
        self, conversation: str, message: str, person: Person, run: str, *, tainted: bool, picked: bool = False
    ) -> Proposal:
        """Keep that a command was proposed, for the conversation to show it; once, for the same question is not put twice."""
        if row := await self._db.row("SELECT * FROM proposals WHERE run = ? AND conversation = ?", (run, conversation)):
            return Proposal.of(row)
        proposal = Proposal(
            f"prop-{secrets.token_hex(8)}", conversation, message, person.id, Kind.COMMAND, State.OPEN, self._clock.now(),
            run=run, tainted=tainted, picked=picked,
        )  # fmt: skip
        await self._add(proposal, person, run=run)
        return proposal

    async def _old(self, name: str, row: dict[str, Any] | None) -> str:
        if row is None:
            return ""
        if row["size"] > MOST_OLD:
            raise Mistake(f"{name} is too large to be rewritten whole.")
        data = await self._files.read(name, MOST_OLD) or b""
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise Mistake(f"{name} is not text.") from error

    async def _check_room(self, proposal: Proposal) -> None:
        rows = await self._db.rows(
            "SELECT path, content, state FROM proposals WHERE owner = ? AND kind = 'write' AND (state = 'open' OR decided_at > ?)",
            (proposal.owner, self._clock.now() - MUTE_SECONDS),
        )
        if sum(row["state"] == "open" for row in rows) >= MOST_OPEN:
            raise Mistake(f"The person has {MOST_OPEN} proposals to decide about already. Wait for them.")
        same = {row["state"] for row in rows if row["path"] == proposal.path and row["content"] == _mark(proposal)}
        if State.REJECTED in same:
            raise Mistake("The person rejected exactly this a moment ago. Do something else.")

    async def _add(self, proposal: Proposal, person: Person, **said: Any) -> None:
        one = proposal
        values = (
            one.id, one.conversation, one.message, one.owner, one.kind, one.state, one.run, one.path, one.version, one.content,
            one.diff, one.created_at, int(one.tainted), int(one.picked),
        )  # fmt: skip
        async with self._db.transaction() as tx:
            await self._audit.append(
                tx, "ai.propose", f"ai:{person.actor}", proposal=one.id, kind=str(one.kind), message=one.message, **said
            )
            await tx.execute(
                "INSERT INTO proposals (id, conversation, message, owner, kind, state, run, path, version, content, diff, created_at,"
                " tainted, picked) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                values,
            )
        self.changed(proposal)

    # --- deciding

    async def accept(self, person: Person, proposal_id: str) -> Proposal:
        """Write the file as it was shown. Raises Conflict when it changed meanwhile, CroftError."""
        proposal = await self.open(person, proposal_id)
        async with self._db.transaction() as tx:
            intent = await self._audit.append(
                tx,
                "ai.write",
                person.actor,
                proposal=proposal.id,
                bytes=len(proposal.content.encode()),
                content=_sha(proposal.content),
            )
            await self._move(tx, proposal, State.OPEN, State.WRITING, intent)
        state = State.FAILED
        problem: CroftError | None = None
        try:
            # Led elsewhere by now, it is not what was shown.
            if await self._looking.place(proposal.path) != proposal.path:
                raise Mistake("the path leads elsewhere")
            await self._files.write(proposal.path, proposal.content.encode(), version=proposal.version)
            state = State.ACCEPTED
        except Mistake:
            state, problem = State.STALE, _stale()
        except CroftError as error:
            state, problem = (State.STALE, _stale()) if error.code in ("changed", "exists") else (State.FAILED, error)
        finally:
            done = await asyncio.shield(self._close(proposal, state, person.actor, intent))
        if problem is not None:
            raise problem
        return done

    async def reject(self, person: Person, proposal_id: str) -> Proposal:
        """Turn it down. Raises CroftError."""
        proposal = await self.open(person, proposal_id)
        async with self._db.transaction() as tx:
            await self._audit.append(tx, "ai.reject", person.actor, proposal=proposal.id)
            await self._move(tx, proposal, State.OPEN, State.REJECTED, None)
        return self._told(replace(proposal, state=State.REJECTED, decided_at=self._clock.now()))

    async def written_elsewhere(self, person: Person, proposal_id: str) -> Proposal:
        """Close one that the person accepted in the editor, which writes by itself. Raises Conflict where the file is as it was.

        What the person took back there before they accepted is not in the file: then it counts as ``edited``.
        """
        proposal = await self.open(person, proposal_id)
        row = await self._files.stat(proposal.path)
        if row is None or row["kind"] != "file" or row["version"] == proposal.version:
            raise Conflict("the file is as it was", hint="Accept the change once more.", code="unchanged")
        content = (await self._files.read(proposal.path, MOST_OLD) or b"").decode("utf-8", "replace")
        edited = content != proposal.content
        async with self._db.transaction() as tx:
            await self._audit.append(
                tx,
                "ai.write",
                person.actor,
                proposal=proposal.id,
                bytes=len(content.encode()),
                content=_sha(content),
                by="editor",
                # The record names a person for what is in the file, and only the editor's line says that they put it there.
                edited=edited,
                proposed=_sha(proposal.content),
            )
            await self._move(tx, proposal, State.OPEN, State.ACCEPTED, None)
        return self._told(replace(proposal, state=State.ACCEPTED, edited=edited, decided_at=self._clock.now()))

    async def wait(self, proposal: Proposal, seconds: float) -> Proposal:
        """The proposal once it is decided, or as it stands after ``seconds``."""
        decided = self._decided.setdefault(proposal.id, asyncio.get_running_loop().create_future())
        try:
            row = await self._db.row("SELECT * FROM proposals WHERE id = ?", (proposal.id,))
            if row is None or State(row["state"]) not in (State.OPEN, State.WRITING):
                return Proposal.of(row) if row else replace(proposal, state=State.FAILED)
            await asyncio.wait({decided}, timeout=seconds)
            return decided.result() if decided.done() else proposal
        finally:
            self._decided.pop(proposal.id, None)

    async def of(self, owner: str, conversation: str) -> list[Proposal]:
        """The last ones of a conversation with their differences, the oldest first; contents are left out."""
        return await self._shown(owner, conversation, differences=True)

    async def standing(self, owner: str, conversation: str) -> list[dict[str, Any]]:
        """How the last ones of a conversation stand, for readers that come. Differences are read only where somebody is to decide."""
        return [one.data() for one in await self._shown(owner, conversation, differences=False)]

    async def _shown(self, owner: str, conversation: str, *, differences: bool) -> list[Proposal]:
        rows = await self._db.rows(
            "SELECT id, conversation, message, owner, kind, state, created_at, run, path, version, '' AS content, decided_at, tainted,"
            " picked, CASE WHEN ? OR state IN ('open', 'writing') THEN diff ELSE '' END AS diff FROM proposals"
            " WHERE owner = ? AND conversation = ? ORDER BY created_at DESC LIMIT ?",
            (differences, owner, conversation, MOST_SHOWN),
        )
        return [Proposal.of(row) for row in reversed(rows)]

    async def open(self, person: Person, proposal_id: str) -> Proposal:
        """A proposed file that this person may still decide about, whole. Raises CroftError."""
        row = await self._db.row("SELECT * FROM proposals WHERE id = ? AND owner = ?", (proposal_id, person.id))
        if row is None:
            raise NotFound("there is no such proposal")
        if not person.may_use_tools:
            raise Forbidden("this needs the role operator", hint="Ask an admin of this appliance.")
        proposal = Proposal.of(row)
        if proposal.kind is not Kind.WRITE:
            raise Invalid("a command is decided on the Commands page", hint="Approve or deny its run.")
        if proposal.state is not State.OPEN:
            raise _decided()
        return proposal

    async def _move(self, tx: Any, proposal: Proposal, was: State, state: State, intent: int | None) -> None:
        # What was decided is kept as its hash: enough to know it again.
        content = proposal.content if state is State.WRITING else _mark(proposal)
        changed = await tx.execute(
            "UPDATE proposals SET state = ?, content = ?, decided_at = ?, intent = ? WHERE id = ? AND state = ?",
            (state, content, self._clock.now(), intent, proposal.id, was),
        )
        if not changed.rowcount:
            raise _decided()

    async def _close(self, proposal: Proposal, state: State, actor: str, intent: int) -> Proposal:
        async with self._db.transaction() as tx:
            await self._move(tx, proposal, State.WRITING, state, intent)
            await self._audit.append(tx, "outcome", actor, intent, proposal=proposal.id, result=str(state))
        return self._told(replace(proposal, state=state, decided_at=self._clock.now()))

    def _told(self, proposal: Proposal) -> Proposal:
        if waiting := self._decided.pop(proposal.id, None):
            waiting.set_result(proposal)
        self.changed(proposal)
        return proposal


def difference(path: str, old: str, content: str, *, new: bool) -> str:
    """A unified diff, whole. Raises Mistake when it is more than can be shown: nobody accepts what they have not seen."""
    # Only \n ends a line: whatever else some program takes for an end stays inside one, where readers see it named (AI-4).
    before, after = (list(io.StringIO(text, newline="\n")) for text in (old, content))
    if len(before) * len(after) > MOST_COMPARED:
        raise _too_much(path)
    lines = difflib.unified_diff(before, after, "/dev/null" if new else f"a/{path}", f"b/{path}")
    text = "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)
    if len(text) > MOST_DIFF:
        raise _too_much(path)
    return text


def _too_much(path: str) -> Mistake:
    return Mistake(f"This changes more of {path} than can be shown to the person at once. Propose less.")


def _sha(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def _mark(proposal: Proposal) -> str:
    return f"sha256:{_sha(proposal.content)}"


def _stale() -> Conflict:
    return Conflict(
        "the file has changed since this was proposed, so nothing was written",
        hint="Ask the assistant again.",
        code="changed",
    )


def _decided() -> Conflict:
    return Conflict("this was decided already", hint="Reload to see how.", code="decided")
