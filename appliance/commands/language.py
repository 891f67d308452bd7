"""policy.toml: reading it into a frozen Policy, or saying which line is wrong (SECURITY 5.3).

Rule: nothing is guessed. An unknown key, a rule that could let a program run others at once, two rules that disagree about limits, or
an example that does not come out as it says is a fault of the whole file, and a faulty file is never used in part (POL-2).
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from appliance.commands.judge import Defaults, Pipeline, Policy
from appliance.commands.model import ROLES, Actor, Limits, Rate, Request, Verdict
from appliance.commands.policy_source import PolicyFault, Source
from appliance.commands.rule_reader import MODES, RuleReader
from appliance.commands.rules import Rule
from appliance.commands.tokenizer import LineRefused, parse_line
from appliance.commands.values import BadType, Exclusions

VERSION = 1
MOST_BYTES = 512 * 1024


def load(text: str, *, tried: bool = False) -> Policy:
    """The policy that ``text`` says. ``tried``: this very text was loaded before, so its examples need no other try.

    Raises PolicyFault.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MOST_BYTES:
        raise PolicyFault(0, "size", most=MOST_BYTES // 1024)
    document = _toml(text)
    policy = _Document(Source(text, document)).policy()
    if not tried:
        _try_examples(policy)
    return policy


def digest_of(text: str) -> str:
    """SHA-256 of a policy's text, as approvals and the audit log name it."""
    return hashlib.sha256(text.encode()).hexdigest()


def _toml(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"\(at line (\d+), column \d+\)", str(error))
        cause = re.sub(r" \(at .*\)", "", str(error))
        raise PolicyFault(int(place[1]) if place else text.count("\n") + 1, "toml", cause=cause) from error
    except (RecursionError, ValueError) as error:
        raise PolicyFault(0, "toml", cause="nested too deeply or a number that cannot be read") from error


class _Document:
    """One document on its way to a Policy."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def policy(self) -> Policy:
        top = self.source.document
        self.source.keys(top, ("version", "defaults", "paths", "rule", "pipeline"), 0)
        if top.get("version") != VERSION or isinstance(top.get("version"), bool):
            raise PolicyFault(self.source.line_of("version", 0), "version", known=VERSION)
        defaults = self.defaults(self.source.table(top.get("defaults"), "defaults"))
        exclusions = self.exclusions(self.source.table(top.get("paths", {}), "paths"))
        reader = RuleReader(self.source, exclusions)
        rules = tuple(reader.rule(*one) for one in self.source.blocks("rule"))
        self.source.unique([rule.id for rule in rules], [rule.line for rule in rules])
        _no_disagreement(rules, defaults)
        pipelines = tuple(self.pipeline(*one, rules) for one in self.source.blocks("pipeline"))
        return Policy(rules, pipelines, defaults, digest_of(self.source.text), exclusions)

    def defaults(self, table: Mapping[str, Any]) -> Defaults:
        line = self.source.header("[defaults]")
        known = (*map(str, Actor), "host", "auto", "env", "limits", "asked_limits", "rate")
        self.source.keys(table, known, line)
        if table.get("host", "deny") != "deny":
            raise PolicyFault(self.source.line_of("host", line), "host_default")
        verdicts = {}
        for actor in Actor:
            word = table.get(actor, "deny" if actor is Actor.REGISTRY else "ask")
            if word not in ("ask", "deny"):
                raise PolicyFault(self.source.line_of(actor, line), "default", actor=actor)
            verdicts[actor] = MODES[word]
        limits = self.source.limits(table.get("limits", {}), Limits(), line, "limits")
        return Defaults(
            verdicts,
            self.source.actors(table.get("auto", ["human"]), line, "auto"),
            self.source.env(table.get("env", {}), line),
            limits,
            self.source.limits(table.get("asked_limits", {}), limits, line, "asked_limits"),
            self.source.rate(table.get("rate", {}), Rate(), line),
        )

    def exclusions(self, table: Mapping[str, Any]) -> Exclusions:
        line = self.source.header("[paths]")
        self.source.keys(table, ("exclude",), line)
        names = self.source.words(table, "exclude", line)
        try:
            return Exclusions.of(names)
        except BadType as error:
            raise PolicyFault(self.source.line_of("exclude", line), "type", cause=str(error)) from error

    def pipeline(self, table: Mapping[str, Any], line: int, rules: Sequence[Rule]) -> Pipeline:
        self.source.keys(table, ("id", "first", "then", "max"), line)
        name, most = self.source.id(table, line), table.get("max", 4)
        if type(most) is not int or not 2 <= most <= 8:
            raise PolicyFault(self.source.line_of("max", line), "number", setting="max", low=2, high=8)
        known = {rule.id: rule for rule in rules}
        first, then = self.source.words(table, "first", line), self.source.words(table, "then", line)
        for key, ids in (("first", first), ("then", then)):
            for one in ids:
                if one not in known:
                    raise PolicyFault(self.source.line_of(key, line), "no_rule", rule=one)
                if known[one].stdin != (key == "then"):
                    raise PolicyFault(self.source.line_of(key, line), f"pipeline_{key}", rule=one)
        return Pipeline(name, frozenset(first), frozenset(then), most)


def _no_disagreement(rules: Sequence[Rule], defaults: Defaults) -> None:
    """Auto rules that could fit one command must run it alike, or the order of rules would matter."""
    seen: dict[tuple[object, ...], list[Rule]] = {}
    for rule in rules:
        if rule.mode is not Verdict.ALLOW:
            continue
        for program in rule.programs:
            for sub in rule.subs:
                others = seen.setdefault((rule.scope, program, sub, rule.stdin), [])
                for other in others:
                    if _together(rule, other) and _manner(rule, defaults) != _manner(other, defaults):
                        raise PolicyFault(rule.line, "disagree", rule=rule.id, other=other.id)
                others.append(rule)


def _together(one: Rule, other: Rule) -> bool:
    """Whether some command may fit both: neither insists on what the other lacks."""
    if one.actors.isdisjoint(other.actors) or one.roles.isdisjoint(other.roles):
        return False
    if one.exact and other.exact:
        return not set(one.exact).isdisjoint(other.exact)
    for rule, against in ((one, other), (other, one)):
        if rule.need and not rule.exact and not any(name in (against.flags or {}) for name in rule.need):
            return False
    return True


def _manner(rule: Rule, defaults: Defaults) -> tuple[object, ...]:
    return rule.limits or defaults.limits, rule.rate or defaults.rate, sorted((rule.env or {}).items())


def _try_examples(policy: Policy) -> None:
    """Run every rule's examples like tests: ``examples_allow`` fit this rule, ``examples_deny`` do not."""
    for rule in policy.rules:
        for fits, lines in ((True, rule.examples_allow), (False, rule.examples_deny)):
            for line in lines:
                if _decided_by(policy, rule, line) is not fits:
                    code = "example_allow" if fits else "example_deny"
                    raise PolicyFault(rule.line, code, rule=rule.id, example=line)


def _decided_by(policy: Policy, rule: Rule, line: str) -> bool:
    """Whether ``rule`` decides what happens to ``line``'s last command, asked by somebody it concerns."""
    try:
        stages = parse_line(line)
    except LineRefused:
        return False
    before = (("true",),) if rule.stdin and len(stages) == 1 else ()
    actor = next(actor for actor in Actor if actor in rule.actors)
    role = next(role for role in reversed(ROLES) if role in rule.roles)
    judged = policy.judge(Request((*before, *stages), actor, role, rule.scope))
    return any(stage.rule == rule.id for stage in judged.stages)
