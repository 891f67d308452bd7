"""A typed line on its way to the judge: read, or said why not, with a cleaned line offered where characters hid in it.

Rule: a line that only a shell understands is never run by one behind somebody's back. For a person it becomes the explicit command
``bash -c LINE``, which rules treat like any other; for everybody else it is refused.
"""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from appliance.commands.hidden import cleaned, first_hidden, plain
from appliance.commands.judge import DEFAULT, Policy
from appliance.commands.model import Actor, Failure, Judgement, Request, Role, Scope, Verdict
from appliance.commands.tokenizer import MOST_CHARACTERS, MOST_WORDS, LineRefused, parse_line
from appliance.messages import Message, Params

MOST_OFFERED = 1000  # characters of a line that is offered cleaned: what people paste from a chat
SHELL = ("bash", "-c")
# Lines that a shell gives a meaning of its own; the other refusals are mistakes or attacks.
_FOR_A_SHELL = ("shell", "assignment")


class JudgedLine(Struct, frozen=True):
    """A line's judgement; ``cleaned`` is the line without hidden characters where that changes the answer, else ""."""

    judgement: Judgement
    cleaned: str = ""


def read_line(text: str, actor: Actor) -> tuple[tuple[str, ...], ...]:
    """The stages of ``text``. Raises LineRefused."""
    try:
        return parse_line(text)
    except LineRefused as refused:
        if refused.code in _FOR_A_SHELL and actor is Actor.HUMAN and "\n" not in text:
            return ((*SHELL, text),)
        raise


def judge_line(
    policy: Policy, text: str, actor: Actor, role: Role, *, scope: Scope = "workspace", cwd: str = ""
) -> JudgedLine:
    """What happens to ``text`` as it was typed."""
    answer = _judge(policy, text, actor, role, scope, cwd)
    if answer.verdict is not Verdict.DENY or len(text) > MOST_OFFERED or plain(text):
        return JudgedLine(answer)
    for offer in (cleaned(text, keep_joiners=True), cleaned(text)):
        if offer != text and _judge(policy, offer, actor, role, scope, cwd).verdict is not Verdict.DENY:
            return JudgedLine(answer, offer)
    return JudgedLine(answer)


def _judge(policy: Policy, text: str, actor: Actor, role: Role, scope: Scope, cwd: str) -> Judgement:
    try:
        stages = read_line(text, actor)
    except LineRefused as refused:
        return _refused(policy, text, refused, Request((), actor, role, scope, cwd))
    answer = policy.judge(Request(stages, actor, role, scope, cwd))
    return answer if stages != ((*SHELL, text),) else _as_shell(answer)


def _as_shell(answer: Judgement) -> Judgement:
    """Somebody who typed shell syntax reads that, not that bash is unknown."""
    if answer.verdict is Verdict.ASK:
        return replace(answer, reason=Message("policy.ask.shell_line"))
    return answer


def _refused(policy: Policy, text: str, refused: LineRefused, request: Request) -> Judgement:
    empty = policy.judge(request)
    params: Params = {"place": refused.position + 1, "char": refused.char}
    if refused.code == "long":
        params = {"words": MOST_WORDS, "characters": MOST_CHARACTERS}
    elif refused.code == "hidden" and (found := first_hidden(refused.char)):
        params = {"place": refused.position + 1, "code": f"U+{found.codepoint:04X}", "name": found.name}
    failure = Failure(0, 0, refused.char, "", refused.code)
    return replace(
        empty, rule=DEFAULT, reason=Message(f"policy.line.{refused.code}", params), stages=(), failure=failure
    )
