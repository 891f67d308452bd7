"""The assistant's page: the list of conversations, one of them as it stands, and asking by a plain form.

Rule: a conversation is its owner's alone; for everybody else, admins included, there is none (404). The JSON beside it is
webui.handlers.conversations and webui.handlers.answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiohttp import web
from markupsafe import Markup

from appliance.assistant.conversations import Conversations
from appliance.assistant.messages import Conversation, Role, State
from appliance.assistant.messages import Message as Said
from appliance.assistant.proposals import Proposal as Proposed
from appliance.assistant.triggers import run_by
from appliance.errors import CroftError, NotFound
from webui import chat, keys, views
from webui.answers import see
from webui.chat import Proposal, Thread, Turn
from webui.forms import read_form
from webui.guard import principal_of
from webui.handlers.answers import fault_words
from webui.handlers.commands import asker_of
from webui.handlers.conversations import asked_for, owner_of, person_of, store_of
from webui.handlers.run_pages import fault_message
from webui.i18n import Translator
from webui.markup import render
from webui.render import page
from webui.rendering import rendered

LISTED = 40
SHOWN = (Role.USER, Role.ASSISTANT)


async def assistant(request: web.Request) -> web.StreamResponse:
    """The list, and a new conversation."""
    return await _page(request, None)


async def conversation(request: web.Request) -> web.StreamResponse:
    """One conversation as it stands."""
    return await _page(request, (await asked_for(request))[1])


async def ask_form(request: web.Request) -> web.StreamResponse:
    """Ask from the page, in a new conversation."""
    text = await _typed(request)
    if not text:
        return see("/assistant")
    made = await (await store_of(request)).create(owner_of(request))
    return await _asked(request, made, text, fresh=True)


async def ask_more_form(request: web.Request) -> web.StreamResponse:
    """Ask from the page, in a conversation that goes on."""
    (_, found), text = await asked_for(request), await _typed(request)
    return await _asked(request, found, text) if text else see(f"/assistant/{found.id}")


async def _asked(request: web.Request, found: Conversation, text: str, *, fresh: bool = False) -> web.StreamResponse:
    answers = await request.app[keys.ANSWERS].get()
    try:
        await answers.ask(person_of(request), found.id, text)
    except CroftError as error:
        if error.code == "step_up":
            raise
        if fresh:
            # Nothing was asked, so there is nothing to keep.
            await (await store_of(request)).delete(found, principal_of(request).actor)
        return await _page(request, None if fresh else found, typed=text, fault=error)
    return see(f"/assistant/{found.id}")


async def _page(
    request: web.Request, found: Conversation | None, *, typed: str = "", fault: CroftError | None = None
) -> web.Response:
    store, owner, t = await store_of(request), owner_of(request), views.translator(request)
    search, archived = request.query.get("q", "").strip()[:200], request.query.get("archived") == "1"
    before = request.query.get("before", "")
    threads, more = await (_hits if search else _listed)(store, owner, search, archived, before)
    turns = await _turns(request, store, found) if found else []
    engine = chat.engine_of(views.engine_json(request.app[keys.ENGINE].status(), t))
    return page(
        request,
        "assistant.html",
        status=fault.status if fault else 200,
        notice=fault_message(request, fault) if fault else None,
        page="assistant",
        threads=threads,
        more=more,
        archived=archived,
        typed_search=search,
        one=_shown(found, turns),
        engine=engine,
        typed=typed,
        **chat.pieces(principal_of(request).role),
    )


def _shown(found: Conversation | None, turns: Sequence[Turn]) -> dict[str, Any]:
    return {
        "id": found.id if found else "",
        "title": found.title if found else "",
        "pinned": bool(found and found.pinned),
        "archived": bool(found and found.archived),
        "turns": turns,
        "running": any(turn.state == State.RUNNING for turn in turns),
    }


async def _listed(
    store: Conversations, owner: str, search: str, archived: bool, before: str
) -> tuple[list[Thread], str]:
    rows = await store.page(owner, archived=archived, before=before, limit=LISTED)
    return [Thread(one.id, one.title, one.changed_at, one.pinned) for one in rows.conversations], rows.next


async def _hits(store: Conversations, owner: str, search: str, archived: bool, before: str) -> tuple[list[Thread], str]:
    found = await store.search(owner, search, before=before, limit=LISTED)
    threads = [
        Thread(
            hit.conversation.id,
            hit.conversation.title,
            hit.conversation.changed_at,
            hit.conversation.pinned,
            [(piece.text, piece.hit) for piece in hit.pieces],
        )
        for hit in found.hits
    ]
    return threads, found.next


# The turns of a conversation.


async def _turns(request: web.Request, store: Conversations, found: Conversation) -> list[Turn]:
    path = [message for message in await store.path(found) if message.role in SHOWN]
    beside = {message.id: await store.siblings(found, message.id) for message in path if message.siblings > 1}
    proposed, t = await _proposals(request, found), views.translator(request)

    def made() -> list[Turn]:
        return [_turn(one, beside.get(one.id, [one.id]), proposed.get(one.id, ()), t) for one in path]

    # Rendering a long conversation takes longer than others should wait.
    return await rendered(request, owner_of(request), made)


def _turn(message: Said, beside: Sequence[str], proposals: Sequence[Proposal], t: Translator) -> Turn:
    answered, here = message.role is Role.ASSISTANT, message.position - 1
    return Turn(
        message.id,
        str(message.role),
        str(message.state),
        message.text,
        message.parent or "",
        blocks=_blocks(message.text) if answered else (),
        chips=chat.chips_of(message.context),
        steps=chat.steps_of(message.steps),
        proposals=proposals,
        facts=chat.facts_of(message.usage, message.model) if answered else (),
        fault=_fault(message, t),
        place=message.position,
        places=message.siblings,
        before=beside[here - 1] if here else "",
        after=beside[here + 1] if here + 1 < len(beside) else "",
    )


def _fault(message: Said, t: Translator) -> str:
    """Why an answer could not be finished; empty where it could."""
    if message.state is State.INTERRUPTED:
        return t("chat.fault.interrupted")
    if message.state is not State.FAILED:
        return ""
    error = message.usage.get("error")
    return fault_words(t, error) if error else t("chat.fault.failed")


def _blocks(text: str) -> list[dict[str, Any]]:
    """An answer as the server renders it; the HTML is sanitised there (WEB-13)."""
    return [
        {
            "n": one.n,
            "kind": one.kind,
            "html": Markup(one.html),  # noqa: S704 - it has passed webui.markup.gate
            "lang": one.lang,
            "code": one.code,
            "codes": [{"lang": each.lang, "code": each.code} for each in one.codes],
            "shell": chat.is_shell(one.lang),
        }
        for one in render(text)
    ]


async def _proposals(request: web.Request, found: Conversation) -> dict[str, list[Proposal]]:
    """What was proposed with each answer, by the answer's id."""
    answers = await request.app[keys.ANSWERS].get()
    proposed: dict[str, list[Proposal]] = {}
    for one in await answers.deciding.proposals(person_of(request), found.id):
        shown = await _command(request, one) if one.run else _write(one)
        proposed.setdefault(one.message, []).append(shown)
    return proposed


def _write(one: Proposed) -> Proposal:
    what = "changed" if one.version else "added"
    return Proposal(
        one.id, "write", str(one.state), path=one.path, what=what, lines=chat.diff_lines(one.diff),
        run_by=run_by(one.path), tainted=one.tainted,
    )  # fmt: skip


async def _command(request: web.Request, one: Proposed) -> Proposal:
    """A command's line and state are its run's; a run that is kept no more has neither."""
    try:
        run = await request.app[keys.COMMANDS].get(asker_of(request), one.run)
    except NotFound:
        return Proposal(one.id, "command", "expired", run=one.run, picked=one.picked)
    return Proposal(one.id, "command", str(run.state), run=one.run, line=run.line, picked=one.picked)


async def _typed(request: web.Request) -> str:
    return (await read_form(request)).get("text", "").strip()
