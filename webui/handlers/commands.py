"""Commands: proposing, deciding, following and looking back, for pages, scripts and programs.

Rule: who asks is what the gate found, never what a body says; approving asks for the hash of what was shown.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from functools import lru_cache
from typing import Any

import msgspec
from aiohttp import web
from msgspec.structs import replace

from appliance.commands.asker import Asker
from appliance.commands.assessing import Proposal
from appliance.commands.display import render
from appliance.commands.history import PAGE_MOST, Run, State
from appliance.commands.leases import Lease, Terms
from appliance.commands.model import Scope
from appliance.commands.output import STDERR, STDOUT, Frame, saved
from appliance.errors import Invalid
from appliance.messages import Message
from webui import keys, streams, views
from webui.answers import answer
from webui.download import Download
from webui.forms import read_json
from webui.guard import Principal, client_address, principal_of
from webui.handlers.live import Item, asking, until_signed_out, while_signed_in
from webui.i18n import Translator

WAIT_MOST = 60.0
_STREAMS = {STDOUT: "stdout", STDERR: "stderr"}


class _Command(msgspec.Struct, forbid_unknown_fields=True):
    argv: list[str] | None = None
    stages: list[list[str]] | None = None
    line: str = ""
    cwd: str = ""
    why: str = ""
    view: str = "plain"
    scope: str = "workspace"
    wait: float = 0.0


class _Lease(msgspec.Struct, forbid_unknown_fields=True):
    runs: int
    minutes: int


class _Approval(msgspec.Struct, forbid_unknown_fields=True):
    hash: str
    lease: _Lease | None = None
    wait: float = 0.0


async def propose(request: web.Request) -> web.Response:
    """Ask for a command. ``wait`` seconds for its end, if it runs at once."""
    body = await read_json(request, _Command)
    commands = request.app[keys.COMMANDS]
    run = await commands.propose(asker_of(request), _proposal(body))
    if run.state is State.RUNNING and body.wait > 0:
        run = await commands.wait(run.id, min(body.wait, WAIT_MOST))
    return _told(request, run, 201)


async def list_runs(request: web.Request) -> web.Response:
    """Runs, the newest first: ``state``, ``q`` (text in the line), ``before`` (created_at), ``limit``."""
    query = request.query
    state = query.get("state", "")
    if state and state not in set(State):
        raise Invalid("there is no such state", hint=f"There are {', '.join(State)}.")
    before = _number(query.get("before", ""), "before")
    limit = _number(query.get("limit", "50"), "limit") or 50
    found = await request.app[keys.COMMANDS].page(
        asker_of(request), state=state, text=query.get("q", "")[:200], before=before, limit=min(int(limit), PAGE_MOST)
    )
    t = views.translator(request)
    return answer({"runs": [run_json(request, run, t) for run in found]})


async def get_run(request: web.Request) -> web.Response:
    """One run."""
    return _told(request, await _run(request))


async def approve(request: web.Request) -> web.Response:
    """Let what was shown run, once; with ``lease`` again without asking."""
    body, commands = await read_json(request, _Approval), request.app[keys.COMMANDS]
    terms = Terms(body.lease.runs, body.lease.minutes) if body.lease else None
    run = await commands.approve(asker_of(request), request.match_info["id"], body.hash, terms)
    if run.state is State.RUNNING and body.wait > 0:
        run = await commands.wait(run.id, min(body.wait, WAIT_MOST))
    return _told(request, run)


async def deny(request: web.Request) -> web.Response:
    """Turn a proposal down."""
    return _told(request, await request.app[keys.COMMANDS].deny(asker_of(request), request.match_info["id"]))


async def cancel(request: web.Request) -> web.Response:
    """Withdraw a proposal, or end everything of a run."""
    return _told(request, await request.app[keys.COMMANDS].cancel(asker_of(request), request.match_info["id"]))


async def rerun(request: web.Request) -> web.Response:
    """Ask for the same again; it is judged anew."""
    return _told(request, await request.app[keys.COMMANDS].rerun(asker_of(request), request.match_info["id"]), 201)


async def approvals(request: web.Request) -> web.Response:
    """Proposals that wait for a decision."""
    t = views.translator(request)
    found = await request.app[keys.COMMANDS].waiting(asker_of(request))
    return answer({"runs": [run_json(request, run, t) for run in found]})


async def leases(request: web.Request) -> web.Response:
    """What runs without asking for a while."""
    return answer({"leases": [lease_json(lease) for lease in await request.app[keys.COMMANDS].approvals.leases()]})


async def revoke_lease(request: web.Request) -> web.Response:
    """End a lease now."""
    await request.app[keys.COMMANDS].approvals.revoke(asker_of(request), request.match_info["id"])
    return await leases(request)


async def stream(request: web.Request) -> web.StreamResponse:
    """What a run writes, as it comes (SSE): ``output`` {stream, text} and, when it changes, ``state`` {run}."""
    run = await _run(request)
    after = streams.last_event_id(request) or 0
    return await until_signed_out(request, _events(request, run, after, views.translator(request)))


async def output(request: web.Request) -> web.StreamResponse:
    """The bytes a run wrote, as they are: ``stream`` stdout, stderr or both; ``follow=1`` until its end."""
    run = await _run(request)
    wanted = request.query.get("stream", "")
    if wanted not in ("", *_STREAMS.values()):
        raise Invalid("there is no such stream", hint="There are stdout and stderr.")
    numbers = [number for number, name in _STREAMS.items() if wanted in ("", name)]
    return await while_signed_in(request, _sent(request, run, numbers))


async def _sent(request: web.Request, run: Run, numbers: list[int]) -> web.StreamResponse:
    response = web.StreamResponse(
        headers={
            "Content-Type": "application/octet-stream",
            "Content-Disposition": f'attachment; filename="croft-{run.id}.out"',
            "Content-Security-Policy": "sandbox; default-src 'none'",
            "Cache-Control": "no-store",
        }
    )
    commands, landed = request.app[keys.COMMANDS], 0
    live = commands.live(run.id) if request.query.get("follow") == "1" else None
    async with Download(request, response, commands.history.output(run.id), numbers) as download:
        while live and (landed := await live.output.landed(landed)):
            await download.send()
        await download.send()
    return response


# From a request to who asks, and from a run to JSON; the pages of this area use them too.


def asker_of(request: web.Request) -> Asker:
    """Who asks, as the gate found them."""
    principal: Principal = principal_of(request)
    asker, user, session = asking(principal), principal.user, principal.session
    if user is None:
        return replace(asker, name="console")
    return replace(
        asker,
        name=user.name or user.email,
        session=session.id if session else "",
        address=client_address(request),
        fresh=session is not None and request.app[keys.SESSIONS].fresh(session),
    )


def run_json(request: web.Request, run: Run, t: Translator) -> dict[str, Any]:
    """One run, with its sentences in the reader's language."""
    outcome, remaining = run.outcome, request.app[keys.COMMANDS].approvals.remaining(run)
    waiting = run.state is State.WAITING
    return {
        "id": run.id,
        "state": str(run.state),
        "verdict": str(run.verdict),
        "rule": run.rule,
        "reason": t.message(run.reason),
        "line": run.line,
        "stages": run.stages,
        "typed": run.typed,
        "cwd": run.cwd,
        "scope": run.scope,
        "view": run.view,
        "why": run.why,
        "asked_by": {"actor": str(run.asker.actor), "name": run.asker.name},
        "approved_by": run.decided_by or None,
        "hash": run.hash or None,
        "leasable": run.leasable,
        "lease": run.lease or None,
        "created_at": run.created_at,
        "decided_at": run.decided_at,
        "started_at": run.started_at,
        "ended_at": run.ended_at,
        "expires_in": round(remaining, 1) if waiting else None,
        "expires_at": request.app[keys.CLOCK].now() + remaining if waiting else None,
        "exit_code": outcome.exit_code,
        "signal": outcome.signal,
        "cause": outcome.cause or None,
        "ended": t.message(ended_message(run)) if run.ended_at and run.started_at else None,
        "stage_statuses": outcome.stages,
        "duration": outcome.seconds,
        "bytes": outcome.stdout_bytes + outcome.stderr_bytes,
        "stdout_bytes": outcome.stdout_bytes,
        "stderr_bytes": outcome.stderr_bytes,
        "truncated": outcome.truncated,
        "output_lost": outcome.output_lost,
        "limits": msgspec.structs.asdict(run.limits),
    }


def ended_message(run: Run) -> Message:
    """How a run ended, in one sentence."""
    outcome = run.outcome
    if run.state is State.CANCELLED:
        return Message("command.ended.cancelled")
    if outcome.cause == "not_started":
        return Message("command.ended.not_started", {"cause": outcome.message})
    if outcome.cause == "timeout":
        return Message("command.ended.timeout", {"n": run.limits.seconds})
    if outcome.cause == "oom":
        return Message("command.ended.oom", {"n": run.limits.memory_mb})
    if run.state in (State.INTERRUPTED, State.KILLED):
        return Message(f"command.ended.{run.state}")
    if outcome.pids_refused and outcome.exit_code != 0:
        return Message("command.ended.pids", {"n": run.limits.pids})
    if outcome.signal is not None:
        return Message("command.ended.signal", {"n": outcome.signal})
    return Message(
        "command.ended.done" if outcome.exit_code == 0 else "command.ended.failed", {"n": outcome.exit_code or 0}
    )


def lease_json(lease: Lease) -> dict[str, Any]:
    return {
        "id": lease.id,
        "asked_by": lease.name,
        "given_by": lease.given_by,
        "line": lease.line,
        "cwd": lease.cwd,
        "created_at": lease.created_at,
        "runs": lease.runs,
        "used": lease.used,
        "left": lease.runs - lease.used,
        "expires_in": round(lease.remaining, 1),
    }


def _proposal(body: _Command) -> Proposal:
    given = [body.argv is not None, body.stages is not None, bool(body.line)]
    if sum(given) != 1:
        raise Invalid("a command is a line, an argv or stages", hint="Send exactly one of the three.")
    if body.scope not in ("workspace", "host"):
        raise Invalid("there is no such scope", hint="There are workspace and host.")
    stages = body.stages if body.stages is not None else [body.argv] if body.argv is not None else []
    if given[2] is False and not all(stages or [[]]):
        raise Invalid("there is no command", hint="Each stage needs at least one word.", code="empty")
    scope: Scope = "host" if body.scope == "host" else "workspace"
    return Proposal(body.line, tuple(map(tuple, stages)), body.cwd, body.why, body.view, scope)


def _told(request: web.Request, run: Run, status: int = 200) -> web.Response:
    """The run; a refused one as an error of the one shape, with the run beside it."""
    told = run_json(request, run, views.translator(request))
    if run.state is not State.REFUSED or status != 201:
        return answer({"run": told}, status)
    muted = run.reason.key == "command.refused.muted"
    hint = views.translator(request)("command.refused.hint")
    error = {"code": "muted" if muted else "denied", "message": told["reason"], "hint": hint}
    return answer({"error": error, "run": told}, 403)


async def _run(request: web.Request) -> Run:
    return await request.app[keys.COMMANDS].get(asker_of(request), request.match_info["id"])


async def _events(request: web.Request, run: Run, after: int, t: Translator) -> AsyncGenerator[Item, None]:
    commands = request.app[keys.COMMANDS]
    yield "state", {"run": run_json(request, run, t)}, None
    if run.state is State.WAITING:
        run = await _decided(request, run)
        yield "state", {"run": run_json(request, run, t)}, None
    async for frames in _frames(request, run, after):
        for frame in frames:
            yield "output", _event(frame), frame.end
    if run.state is State.RUNNING:
        # What is there has been told; closing the row takes a moment more.
        over = await commands.wait(run.id, WAIT_MOST)
        yield "state", {"run": run_json(request, over, t)}, None


async def _decided(request: web.Request, run: Run) -> Run:
    """The run once it waits no more."""
    async with request.app[keys.EVENTS].subscribe({"runs"}, tag=run.id) as reader:
        while (run := await _run(request)).state is State.WAITING:
            await anext(reader)
    return run


def _frames(request: web.Request, run: Run, after: int) -> AsyncGenerator[list[Frame], None]:
    """What a run writes from offset ``after`` on, until it ends."""
    commands = request.app[keys.COMMANDS]
    live = commands.live(run.id)
    return saved(commands.history.output(run.id), after) if live is None else live.output.follow(after)


@lru_cache(maxsize=8)  # of any run: its readers are told the same frame at about the same time
def _event(frame: Frame) -> bytes:
    return streams.encode("output", {"stream": _STREAMS[frame.stream], "text": render(frame.data)})


def _number(text: str, name: str) -> float | None:
    if not text:
        return None
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found < 1e12:
        raise Invalid(f"{name} must be a number", hint="Leave it out for the newest.")
    return found
