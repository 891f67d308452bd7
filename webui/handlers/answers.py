"""Asking the assistant: questions, answers as they come, stopping, other versions, and what it proposes.

Rule: a conversation is its owner's alone. Whoever asks may go; the answer goes on, and whoever comes back is given all of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Mapping
from typing import Any

import msgspec
from aiohttp import web

from appliance.assistant.answers import END, Answers
from appliance.assistant.export import head
from appliance.assistant.person import Person
from appliance.assistant.prompts import KINDS
from appliance.errors import CroftError, Forbidden, Invalid, NotFound
from webui import keys, views
from webui.answers import answer
from webui.forms import read_json
from webui.guard import principal_of
from webui.handlers.conversations import message_json, person_of, store_of, told
from webui.handlers.live import Item, until_signed_out
from webui.i18n import Translator

OUTPUT_MOST = 20_000  # characters of a run that go along with a question about it


class Chip(msgspec.Struct, forbid_unknown_fields=True):
    """Something that goes along with a question."""

    kind: str
    path: str = ""
    text: str = ""


class Asked(msgspec.Struct, forbid_unknown_fields=True):
    """Body of a question. ``parent``: the message it follows, null for the first; left out, the last one. ``edits``: a question it is
    another version of, whose context goes along again but for the pieces at the places ``without`` (from 0)."""

    text: str
    parent: str | None = END
    edits: str = ""
    without: list[int] = []
    context: list[Chip] = []
    tools: bool = False


class Again(msgspec.Struct, forbid_unknown_fields=True):
    """Body of asking for another answer."""

    tools: bool = False


class Branch(msgspec.Struct, forbid_unknown_fields=True):
    """Body of going to another version."""

    message: str


class Costs(msgspec.Struct, forbid_unknown_fields=True):
    """Body of asking what a question would cost."""

    text: str = ""
    context: list[Chip] = []
    conversation: str = ""


class Saved(msgspec.Struct, forbid_unknown_fields=True):
    """Body of proposing a block of an answer as a file."""

    message: str
    path: str
    text: str


class Line(msgspec.Struct, forbid_unknown_fields=True):
    """Body of running a line of an answer."""

    message: str
    line: str


class About(msgspec.Struct, forbid_unknown_fields=True):
    """Body of asking about a run; ``text`` in place of the usual question."""

    text: str = ""


async def ask(request: web.Request) -> web.Response:
    """Put a question; 201 with it and with the answer that begins."""
    body = await read_json(request, Asked)
    answers = await _answers(request)
    message, begun = await answers.ask(
        person_of(request),
        request.match_info["id"],
        body.text,
        parent=body.parent,
        edits=body.edits,
        without=body.without,
        context=_chips(body.context),
        tools=body.tools,
    )
    asked, coming = await told(request, [message, begun])
    return answer({"message": asked, "answer": coming}, 201)


async def regenerate(request: web.Request) -> web.Response:
    """Another answer to the same question."""
    body = await read_json(request, Again)
    answers = await _answers(request)
    found = await answers.regenerate(
        person_of(request), request.match_info["id"], request.match_info["message"], tools=body.tools
    )
    return answer({"answer": message_json(found)}, 201)


async def branch(request: web.Request) -> web.Response:
    """Go to another version; the messages that are read from then on."""
    body = await read_json(request, Branch)
    answers = await _answers(request)
    path = await answers.branch(person_of(request), request.match_info["id"], body.message)
    return answer({"messages": await told(request, path)})


async def stop(request: web.Request) -> web.Response:
    """End the answer under way. ``freed``: whether the engine is idle again; null where it works for others."""
    done = await (await _answers(request)).stop(person_of(request), request.match_info["id"])
    return answer({"stopped": done.stopped, "freed": done.freed})


async def stream(request: web.Request) -> web.StreamResponse:
    """An answer as it comes (SSE): all of it as it is, then what changes. With ``as=text`` only words, for terminals."""
    answers, person, t = await _answers(request), person_of(request), views.translator(request)
    await (await store_of(request)).get(person.id, request.match_info["id"])  # a 404 while there still can be one
    return await until_signed_out(request, _events(request, answers, person, t))


async def save(request: web.Request) -> web.Response:
    """Propose a block of an answer as a file."""
    body = await read_json(request, Saved)
    made = await (await _answers(request)).deciding.save(
        person_of(request), request.match_info["id"], body.message, body.path, body.text
    )
    return answer({"proposal": made.data()}, 201)


async def run(request: web.Request) -> web.Response:
    """Ask for a line of an answer as a command of the assistant; 201 with the proposal, whose run says what becomes of it."""
    from webui.handlers.commands import asker_of  # the commands' page is loaded where something is to run

    body, t = await read_json(request, Line), views.translator(request)
    ran, made = await (await _answers(request)).deciding.run(
        person_of(request), request.match_info["id"], body.message, body.line
    )
    if made is None:
        refused = await request.app[keys.COMMANDS].get(asker_of(request), ran.run)
        raise Forbidden(t.message(refused.reason), hint=t("command.refused.hint"), code="denied")
    return answer({"proposal": made.data()}, 201)


async def accept(request: web.Request) -> web.Response:
    """Write a proposed file as it was shown."""
    return await _decide(request, True)


async def reject(request: web.Request) -> web.Response:
    """Turn a proposed file down."""
    return await _decide(request, False)


async def open_in_editor(request: web.Request) -> web.Response:
    """Show a proposed file as a difference in the editor. What is decided there is decided here as well."""
    person, answers = person_of(request), await _answers(request)
    found = await answers.deciding.waiting(person, request.match_info["proposal"])
    if found.conversation != request.match_info["id"]:
        raise NotFound("there is no such proposal")
    editors = await request.app[keys.EDITORS].get()

    def then(state: str) -> None:
        _beside(request.app, answers.deciding.decided_in_editor(person, found.id, state))

    await editors.withdraw(principal_of(request).actor, found.id)
    await editors.diff(principal_of(request).actor, found.path, found.content, about=found.id, then=then)
    return answer({"proposal": found.data()})


async def estimate(request: web.Request) -> web.Response:
    """What a question would cost: tokens, and seconds where this model's speed is known."""
    body = await read_json(request, Costs)
    found = await (await _answers(request)).estimates.of(
        person_of(request), body.text, _chips(body.context), body.conversation
    )
    seconds = None if found.seconds is None else round(found.seconds, 1)
    return answer({"tokens": found.tokens, "context": found.context, "seconds": seconds})


async def ask_about_run(request: web.Request) -> web.Response:
    """A new conversation about a run, with the end of what it wrote as data; 201."""
    from webui.handlers.commands import asker_of  # the commands' page is loaded where a run is asked about

    body, t = await read_json(request, About), views.translator(request)
    run = await request.app[keys.COMMANDS].get(asker_of(request), request.match_info["id"])
    person, answers = person_of(request), await _answers(request)
    store = await store_of(request)
    made = await store.create(person.id)
    question = body.text.strip() or t("answers.why" if run.outcome.exit_code else "answers.about", line=run.line)
    output = await answers.deciding.output(run.id, OUTPUT_MOST)
    chip = {"kind": "output", "path": run.line[:200], "text": output or t("answers.no_output")}
    try:
        message, begun = await answers.ask(person, made.id, question, context=[chip])
    except CroftError:
        await store.delete(made, principal_of(request).actor)
        raise
    asked, coming = await told(request, [message, begun])
    return answer({"conversation": head(made), "message": asked, "answer": coming}, 201)


async def _answers(request: web.Request) -> Answers:
    return await request.app[keys.ANSWERS].get()


async def _decide(request: web.Request, yes: bool) -> web.Response:
    answers, person = await _answers(request), person_of(request)
    await (await store_of(request)).get(person.id, request.match_info["id"])
    done = await answers.deciding.decide(person, request.match_info["proposal"], yes)
    if (editors := request.app[keys.EDITORS].made) is not None:
        _beside(request.app, editors.withdraw(principal_of(request).actor, done.id))
    return answer({"proposal": done.data()})


def _beside(app: web.Application, work: Coroutine[Any, Any, None]) -> None:
    """Have something done that nobody waits for."""
    tasks: set[asyncio.Task[None]] = app[keys.SHARED].setdefault("beside", set())
    task = asyncio.create_task(work)
    tasks.add(task)  # or nobody holds it
    task.add_done_callback(tasks.discard)


async def _events(request: web.Request, answers: Answers, person: Person, t: Translator) -> AsyncGenerator[Item, None]:
    words = request.query.get("as") == "text"
    said: dict[str, int] = {}
    async for name, data, number in answers.watching.events(person, request.match_info["id"], text=words):
        if name == "text":
            # Told whole each time; a terminal wants what is new.
            new = data["text"][said.get(data["message"], 0) :]
            said[data["message"]] = len(data["text"])
            data = {"message": data["message"], "text": new}
        yield name, _in_words(request, name, data, t), number


def _in_words(request: web.Request, name: str, data: Mapping[str, Any], t: Translator) -> Mapping[str, Any]:
    """What a reader's language adds to an event."""
    if name == "status" and data.get("phase") == "engine":
        return {**data, **views.engine_json(request.app[keys.ENGINE].status(), t)}
    if name == "message" and (error := data["usage"].get("error")):
        return {**data, "error": fault_words(t, error)}
    if name == "message" and (capped := data["usage"].get("capped")):
        return {**data, "words": t(f"answers.capped.{capped}")}
    return data


def fault_words(t: Translator, error: Mapping[str, Any]) -> str:
    """Why an answer failed, in the reader's language where there are words for it."""
    key = f"answers.fault.{error.get('code', '')}"
    return t(key) if t.has(key) else str(error.get("message", ""))


def _chips(chips: list[Chip]) -> list[dict[str, str]]:
    for chip in chips:
        if chip.kind not in KINDS:
            raise Invalid("there is no such kind of context", hint=f"There are {', '.join(KINDS)}.")
    return [{"kind": chip.kind, "path": chip.path[:1000], "text": chip.text} for chip in chips]
