"""The command policy, for pages and programs: reading it, changing it, asking it, and seeing what a change would change.

Rule: a change is checked whole, announced in the audit log and kept as a version; a faulty text changes nothing.
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import msgspec
from aiohttp import web
from msgspec import Struct

from appliance.commands.history import Run
from appliance.commands.judge import Policy
from appliance.commands.language import digest_of
from appliance.commands.lines import JudgedLine, judge_line
from appliance.commands.model import Actor, Request
from appliance.commands.policy_text import BadPolicy, Fault, check
from appliance.commands.tokenizer import MOST_CHARACTERS
from appliance.errors import Invalid
from webui import keys, run_words, views
from webui.answers import answer
from webui.forms import read_json
from webui.guard import principal_of
from webui.i18n import Translator

DAYS = 30
CHANGES_MOST = 200
HIDDEN_MOST = 20


class _Text(msgspec.Struct, forbid_unknown_fields=True):
    text: str
    base: str | None = None


class _Question(msgspec.Struct, forbid_unknown_fields=True):
    line: str = ""
    argv: list[str] | None = None
    actor: Literal["human", "ai", "token", "registry"] = "human"
    role: Literal["viewer", "operator", "admin"] = "operator"
    scope: Literal["workspace", "host"] = "workspace"
    cwd: str = ""


async def get_policy(request: web.Request) -> web.Response:
    """The text, what is wrong with it if anything, and its versions."""
    policy, t = request.app[keys.POLICY], views.translator(request)
    versions = await asyncio.to_thread(policy.versions)
    return answer(
        {
            "text": policy.text,
            "digest": policy.current.digest,
            "rules": len(policy.current.rules),
            "fault": fault_json(policy.fault, t),
            "versions": [
                {"number": one.number, "at": one.at, "by": one.actor, "digest": one.digest} for one in versions
            ],
        }
    )


async def put_policy(request: web.Request) -> web.Response:
    """Put another text in force; ``base`` is the digest of the one that was edited."""
    body = await read_json(request, _Text)
    try:
        await change(request, body.text, body.base)
    except BadPolicy as bad:
        return _faulty(bad, views.translator(request))
    return await get_policy(request)


async def change(request: web.Request, text: str, base: str | None) -> None:
    """Check a text, announce it and put it in force. Raises BadPolicy, Conflict, Unavailable."""
    policy, actor = request.app[keys.POLICY], principal_of(request).actor
    await asyncio.to_thread(check, text)
    await request.app[keys.AUDIT].note(
        "policy.change", actor, digest=digest_of(text)[:16], before=policy.current.digest[:16]
    )
    await policy.save(text, actor, base=base)


async def explain(request: web.Request) -> web.Response:
    """What would happen to a command, by which rule and why. Nothing is recorded and nothing runs."""
    body = await read_json(request, _Question)
    if bool(body.line) == bool(body.argv):
        raise Invalid("a command is a line or an argv", hint="Send exactly one of the two.")
    policy, actor = request.app[keys.POLICY].current, Actor(body.actor)
    if body.line:
        judged = judge_line(policy, body.line, actor, body.role, scope=body.scope, cwd=body.cwd)
    else:
        stages = (tuple(body.argv or ()),)
        judged = JudgedLine(policy.judge(Request(stages, actor, body.role, body.scope, body.cwd)))
    # No longer line is judged.
    hidden = run_words.unseen(body.line[:MOST_CHARACTERS])[:HIDDEN_MOST]
    return answer(judged_json(judged, views.translator(request)) | {"hidden": hidden})


async def preview(request: web.Request) -> web.Response:
    """What is wrong with a text, or which of the last 30 days' commands it would judge otherwise."""
    body, t = await read_json(request, _Text), views.translator(request)
    found = await preview_of(request, body.text)
    return answer({"fault": fault_json(found.fault, t), "changes": found.changes, "looked_at": found.looked_at})


class Preview(Struct, frozen=True):
    """What a text would change: its fault, or the commands that would be judged otherwise among ``looked_at``."""

    fault: Fault | None
    changes: list[dict[str, Any]]
    looked_at: int


async def preview_of(request: web.Request, text: str) -> Preview:
    """Judge the last 30 days' commands by ``text``, as they are judged now and as they would be."""
    try:
        fresh = await asyncio.to_thread(check, text)
    except BadPolicy as bad:
        return Preview(bad.fault, [], 0)
    since = request.app[keys.CLOCK].now() - DAYS * 86_400
    runs = await request.app[keys.COMMANDS].proposals(since)
    changes = await asyncio.to_thread(_changes, runs, request.app[keys.POLICY].current, fresh)
    return Preview(None, changes[:CHANGES_MOST], len(runs))


def judged_json(judged: JudgedLine, t: Translator) -> dict[str, Any]:
    """A judgement with its sentences."""
    judgement, failure = judged.judgement, judged.judgement.failure
    return {
        "verdict": str(judgement.verdict),
        "rule": judgement.rule,
        "reason": t.message(judgement.reason),
        "effect": judgement.effect,
        "leasable": judgement.leasable,
        "stages": [
            {"argv": one.argv, "typed": one.typed, "rule": one.rule, "verdict": str(one.verdict)}
            for one in judgement.stages
        ],
        "failure": {"stage": failure.stage, "index": failure.index, "token": failure.token} if failure else None,
        "hints": [t.message(hint) for hint in judgement.hints],
        "cleaned": judged.cleaned or None,
    }


def fault_json(fault: Fault | None, t: Translator) -> dict[str, Any] | None:
    return {"line": fault.line, "message": t.message(fault.message)} if fault else None


def _faulty(bad: BadPolicy, t: Translator) -> web.Response:
    error = {"code": bad.code, "message": t.message(bad.fault.message), "hint": bad.hint}
    return answer({"error": error, "fault": fault_json(bad.fault, t)}, bad.status)


def _changes(runs: list[Run], now: Policy, fresh: Policy) -> list[dict[str, Any]]:
    """Commands whose verdict would change, the most used first."""
    found: dict[tuple[object, ...], dict[str, Any]] = {}
    for run in runs:
        request = Request(run.typed, run.asker.actor, run.asker.role, run.scope, run.cwd)
        before, after = now.judge(request), fresh.judge(request)
        if before.verdict is not after.verdict:
            row = found.setdefault(
                (run.typed, run.cwd, run.asker.actor, run.asker.role),
                {"line": run.line, "cwd": run.cwd, "actor": str(run.asker.actor), "role": run.asker.role, "times": 0}
                | {"before": str(before.verdict), "after": str(after.verdict), "rule": after.rule},
            )
            row["times"] += 1
    return sorted(found.values(), key=lambda row: -row["times"])
