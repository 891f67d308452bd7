"""Rules in words, for the policy page and the editor's completion.

Rule: only what the rule says; every sentence is a key of the catalogue, and flags and types are shown as they are written.
"""

from __future__ import annotations

from msgspec import Struct

from appliance.commands.judge import Policy
from appliance.commands.model import ROLES, Actor, Limits, Verdict
from appliance.commands.rules import Flag, Operand, Rule, Takes
from appliance.messages import Message


class RuleWords(Struct, frozen=True):
    """One rule for people: what it is about, and each thing it says."""

    id: str
    mode: Verdict
    scope: str
    usage: tuple[str, ...]
    sentences: tuple[Message, ...]
    line: int


def in_words(policy: Policy) -> list[RuleWords]:
    """Every rule, refusals first, then what asks, then what runs at once; by id within."""
    order = [Verdict.DENY, Verdict.ASK, Verdict.ALLOW]
    rules = sorted(policy.rules, key=lambda rule: (order.index(rule.mode), rule.scope, rule.id))
    return [describe(rule, policy) for rule in rules]


def describe(rule: Rule, policy: Policy) -> RuleWords:
    """One rule of ``policy`` in words."""
    return RuleWords(rule.id, rule.mode, rule.scope, usage(rule), tuple(_sentences(rule, policy)), rule.line)


def usage(rule: Rule) -> tuple[str, ...]:
    """The shapes a rule takes, one a line: ``git remote get-url <word>``."""
    programs = "|".join(rule.programs) if len(rule.programs) <= 6 else f"{'|'.join(rule.programs[:6])}|…"
    heads = [" ".join((programs, *sub)) for sub in rule.subs]
    if rule.anything:
        return tuple(f"{head} …" for head in heads)
    if rule.exact:
        return tuple(" ".join((head, *words)) for head in heads for words in rule.exact)
    tail = [*(["[flags]"] if rule.flags else []), *map(_operand, rule.operands)]
    return tuple(" ".join((head, *tail)) for head in heads)


def flags(rule: Rule) -> list[str]:
    """Every flag as it may be typed: ``-n <int(1..9)>``, ``--color[=<enum(a,b)>]``."""
    return [_flag(flag) for flag in (rule.flags or {}).values()]


def _flag(flag: Flag) -> str:
    if flag.type is None:
        return flag.name
    shape = {Takes.VALUE: "{} <{}>", Takes.EQUALS: "{}[=<{}>]", Takes.JOINED: "{}<{}>"}[flag.takes]
    return shape.format(flag.name, flag.type.spec)


def _operand(operand: Operand) -> str:
    mark = "…" if operand.most > 1 else ""
    return f"<{operand.type.spec}>{mark}" if operand.least else f"[<{operand.type.spec}>{mark}]"


def _sentences(rule: Rule, policy: Policy) -> list[Message]:
    kind = {Verdict.DENY: "deny", Verdict.ASK: "ask", Verdict.ALLOW: "exact" if rule.exact else "auto"}[rule.mode]
    said = [Message(f"policy.rule.{kind}", {"programs": ", ".join(rule.programs)})]
    if rule.stdin:
        said.append(Message("policy.rule.behind_pipe"))
    if rule.flags:
        said.append(Message("policy.rule.flags", {"flags": ", ".join(flags(rule))}))
    if rule.operands:
        said.append(Message("policy.rule.args", {"args": " ".join(map(_operand, rule.operands))}))
    if len(rule.roles) < len(ROLES):
        said.append(Message("policy.rule.people", {"roles": ", ".join(role for role in ROLES if role in rule.roles)}))
    if len(rule.actors) < len(Actor):
        said.append(Message("policy.rule.actors", {"actors": ", ".join(sorted(rule.actors))}))
    if rule.requires:
        said.append(Message("policy.rule.checked"))
    if rule.mode is not Verdict.DENY:
        said += _limits(rule.limits or policy.defaults.limits)
    return said


def _limits(limits: Limits) -> list[Message]:
    numbers = {"output": limits.output_kb, "pids": limits.pids, "memory": limits.memory_mb, "parallel": limits.parallel}
    return [Message("policy.rule.limits_time", {"n": limits.seconds}), Message("policy.rule.limits", numbers)]
