"""The Commands page and a page a run: typing, watching, looking back. The JSON beside it is webui.handlers.commands.

Rule: what cannot be done is said on the page where it was asked for, with everything that was typed still there.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from aiohttp import web

from appliance.commands.assessing import Proposal
from appliance.commands.completion import complete, folder_of
from appliance.commands.history import Run, State
from appliance.commands.model import Verdict
from appliance.commands.output import saved
from appliance.commands.tokenizer import joined
from appliance.commands.why import Reason, why
from appliance.errors import CroftError, Invalid
from appliance.identity.users import Role
from appliance.messages import Message
from webui import keys, run_words, views
from webui.answers import answer, see
from webui.forms import read_form
from webui.guard import principal_of
from webui.handlers.commands import asker_of, ended_message
from webui.i18n import Translator
from webui.render import page

HISTORY = 30
RECENT = 100
LINE_MOST = 32_768
_NAMES_SHOWN = 200
_LOOKED_AT = 60  # lines at the end of an output


async def commands(request: web.Request) -> web.StreamResponse:
    """Where a command is typed, and what ran before."""
    return await _commands_page(
        request, typed=request.query.get("line", "")[:LINE_MOST], cwd=request.query.get("cwd", "")
    )


async def propose_form(request: web.Request) -> web.StreamResponse:
    """Ask for a command from the page; the run's own page shows what becomes of it."""
    form = await read_form(request)
    line, cwd, why = form.get("line", ""), form.get("cwd", "").strip(), form.get("why", "")
    scope = "host" if form.get("scope") == "host" else "workspace"
    try:
        view = "rehearsal" if form.get("do") == "rehearse" else "plain"
        proposal = Proposal(line.strip(), (), cwd, why, view, scope)  # type: ignore[arg-type]  # one of the two literals
        run = await request.app[keys.COMMANDS].propose(asker_of(request), proposal)
    except CroftError as error:
        if error.code == "step_up":
            raise
        return await _commands_page(request, typed=line, cwd=cwd, fault=error)
    return see(f"/commands/{run.id}")


async def run(request: web.Request) -> web.StreamResponse:
    """One run: the question if it waits, what it wrote so far, how it ended."""
    return await run_page(request)


async def cancel_form(request: web.Request) -> web.StreamResponse:
    """Withdraw a proposal or end a run from the page."""
    return await _acted(request, request.app[keys.COMMANDS].cancel)


async def rerun_form(request: web.Request) -> web.StreamResponse:
    """Ask for the same again from the page."""
    return await _acted(request, request.app[keys.COMMANDS].rerun)


async def suggest(request: web.Request) -> web.Response:
    """What could stand next in ``line``, typed in folder ``cwd``."""
    line, cwd = request.query.get("line", "")[:1000], request.query.get("cwd", "")
    service, asker = request.app[keys.COMMANDS], asker_of(request)
    recent = dict.fromkeys(run.line for run in await service.page(asker, text=line, limit=RECENT))
    names = await _names(request, folder_of(line), cwd)
    found = complete(service.policy, line, asker.role, list(recent)[:5], names)
    return answer(
        {"offers": [{"line": one.line, "shown": one.shown, "kind": one.kind, "verdict": one.verdict} for one in found]}
    )


async def folders(request: web.Request) -> web.Response:
    """The folders directly beneath ``in``, a folder of the workspace."""
    inside = request.query.get("in", "")
    rows = await request.app[keys.COMMANDS].entries(inside)
    names = [row["name"] for row in rows if row["kind"] == "folder" and not row["name"].startswith(".")]
    return answer({"in": inside, "folders": names[:_NAMES_SHOWN]})


async def run_page(request: web.Request, *, fault: CroftError | None = None) -> web.Response:
    """The page of the run that the address names, with what went wrong on it if anything did."""
    service = request.app[keys.COMMANDS]
    found = await service.get(asker_of(request), request.match_info["id"])
    lines = await run_words.lines_of(saved(service.history.output(found.id), 0))
    return commands_page(
        request,
        "run.html",
        fault=fault,
        tab="run",
        run=found,
        lines=lines,
        ended=ended_message(found) if found.ended_at and found.started_at else None,
        cleaned=_cleaned(request, found),
        helped=_why(request, found, lines),
        unseen=run_words.unseen(found.line)[:20],
    )


def commands_page(
    request: web.Request,
    template: str,
    *,
    fault: CroftError | None = None,
    notice: Message | None = None,
    **variables: Any,
) -> web.Response:
    """A page of this section, with what its pieces need; what went wrong, if anything did, in place of the notice."""
    service = request.app[keys.COMMANDS]
    who = principal_of(request)
    role = who.role
    more: dict[str, Any] = {
        "status": fault.status if fault else 200,
        "notice": fault_message(request, fault) if fault else notice,
        "run_icons": run_words.ICONS,
        "spelled": run_words.spelled,
        "meaning": run_words.meaning,
        "touches": lambda run: run_words.touches(run, service.policy),
        "remaining": service.approvals.remaining,
        "took": lambda seconds: _took(views.translator(request), seconds),
        "mine": lambda run: who.user is not None and run.asker.person == who.user.id,
        "may_decide": role >= Role.operator,
        "pending": service.approvals.pending if role >= Role.operator else 0,
    }
    return page(request, template, page="commands", **(more | variables))


def fault_message(request: web.Request, error: CroftError) -> Message:
    """What went wrong as a text of the catalogue; the family's own words where there are none for the code."""
    t = views.translator(request)
    for code in (error.code, type(error).code):
        if t.has(f"fault.{code}"):
            return Message(f"fault.{code}")
    return Message("fault.error")


async def _commands_page(
    request: web.Request, *, typed: str, cwd: str, fault: CroftError | None = None
) -> web.Response:
    query = request.query
    state, text = query.get("state", ""), query.get("q", "")[:200]
    if state and state not in set(State):
        raise Invalid("there is no such state", hint=f"There are {', '.join(State)}.")
    before = _number(query.get("before", ""))
    service, asker = request.app[keys.COMMANDS], asker_of(request)
    runs = await service.page(asker, state=state, text=text, before=before, limit=HISTORY + 1)
    return commands_page(
        request,
        "commands.html",
        fault=fault,
        tab="run",
        typed=typed,
        cwd=cwd,
        runs=runs[:HISTORY],
        older=runs[HISTORY - 1].created_at if len(runs) > HISTORY else None,
        states=list(State),
        wanted={"q": text, "state": state},
        filtered=bool(state or text or before),
        folders=await _top_folders(request),
    )


async def _acted(request: web.Request, act: Any) -> web.StreamResponse:
    try:
        run = await act(asker_of(request), request.match_info["id"])
    except CroftError as error:
        if error.code in ("step_up", "not_found"):
            raise
        return await run_page(request, fault=error)
    return see(f"/commands/{run.id}")


def _why(request: web.Request, run: Run, lines: run_words.Lines) -> tuple[Reason, str, Verdict] | None:
    """Why a run failed, the line that may help, and what the policy says of that; None where the table does not know."""
    if run.state not in (State.FAILED, State.KILLED):
        return None
    last = [line.text for line in lines.kept[-_LOOKED_AT:]]
    last += [line.text for line in lines.kept[-_LOOKED_AT:] if line.stream == "stderr"]
    argv = run.typed[-1] if run.typed else ()
    found = why("\n".join(last), argv, run.outcome.exit_code, run.outcome.signal, run.outcome.cause)
    if found is None:
        return None
    line = joined((found.fix,)) if found.fix else ""
    verdict = Verdict.DENY
    if line:
        with suppress(CroftError):
            asked = Proposal("", (found.fix,), run.cwd)
            verdict = request.app[keys.COMMANDS].judge(asker_of(request), asked).judgement.verdict
    return found, line if verdict is not Verdict.DENY else "", verdict


def _cleaned(request: web.Request, run: Run) -> str:
    """The line without its hidden characters, where that would be let through."""
    if run.state is not State.REFUSED:
        return ""
    with suppress(CroftError):
        return (
            request.app[keys.COMMANDS]
            .judge(asker_of(request), Proposal(run.line, (), run.cwd, scope=run.scope))
            .cleaned
        )
    return ""


async def _names(request: web.Request, folder: str | None, cwd: str) -> list[str]:
    """Paths that could be meant; nothing where the files cannot be looked at right now: typing goes on."""
    if folder is None or principal_of(request).role < Role.operator:
        return []
    inside = f"{cwd}/{folder}".strip("/")
    with suppress(CroftError):
        rows = await request.app[keys.COMMANDS].entries(inside)
        start = f"{folder}/" if folder else ""
        return [start + row["name"] + ("/" if row["kind"] == "folder" else "") for row in rows[:1000]]
    return []


async def _top_folders(request: web.Request) -> list[str]:
    if principal_of(request).role < Role.operator:
        return []
    with suppress(CroftError):
        rows = await request.app[keys.COMMANDS].entries("")
        return [row["name"] for row in rows if row["kind"] == "folder" and not row["name"].startswith(".")][
            :_NAMES_SHOWN
        ]
    return []


def _took(t: Translator, seconds: float) -> str:
    """How long a run took: parts of a second only while they matter."""
    return (
        t("commands.seconds", s=f"{seconds:.2f}" if seconds < 1 else f"{seconds:.1f}")
        if seconds < 10
        else t.duration(seconds)
    )


def _number(text: str) -> float | None:
    try:
        return float(text) if text else None
    except ValueError as error:
        raise Invalid("before must be a number", hint="Leave it out for the newest.") from error
