"""The decision: what happens to a command, and why.

Rule: pure. No file, clock or environment is looked at, and the order of rules never changes an answer: any deny wins over any ask,
any ask over any allow, and between equals the smallest id decides. Nothing is allowed without a rule (POL-2, POL-5, POL-16).
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from msgspec import Struct

from appliance.commands import hidden, programs
from appliance.commands.model import (
    Actor,
    Effect,
    Failure,
    Judgement,
    Limits,
    Rate,
    Request,
    Role,
    Scope,
    Stage,
    TypedPath,
    Verdict,
)
from appliance.commands.rules import Match, Miss, Rule, match
from appliance.commands.tokenizer import MOST_CHARACTERS, MOST_WORDS
from appliance.commands.values import NOTHING, Exclusions
from appliance.messages import Message, Params

__all__ = [
    "Actor", "Defaults", "Effect", "Failure", "Judgement", "Limits", "Pipeline", "Policy", "Rate", "Request", "Role", "Scope", "Stage",
    "TypedPath", "Verdict",
]  # fmt: skip

UNMATCHED = "unmatched"  # rules know the program, none fits
DEFAULT = "default"  # no rule knows the program
# Reasons that rules may name; each is a sentence of the catalogue under ``policy.why``.
WHYS = frozenset(
    (
        "runs-project-code", "installs-packages", "reaches-network", "reaches-services", "writes-many-files", "changes-files",
        "runs-its-own-language", "changes-repository", "changes-the-machine", "wipes-the-machine", "runs-other-programs",
        "leads-to-a-shell", "changes-a-service", "follows-links",
    )
)  # fmt: skip
# Words that only mean something inside a shell; on their own they change nothing that lasts.
_OF_A_SHELL = frozenset(
    ("cd", "pushd", "popd", "export", "unset", "alias", "unalias", "source", ".", "set", "shopt", "umask", "history", "type", "ulimit")
)  # fmt: skip
MOST_STAGES = 8
_WEIGHT = {Verdict.ALLOW: 0, Verdict.ASK: 1, Verdict.DENY: 2}
_EFFECTS: tuple[Effect, ...] = ("read", "write", "run", "network")


class Defaults(Struct, frozen=True):
    """What holds where no rule says otherwise. ``auto``: for whom auto rules run at once."""

    verdicts: Mapping[Actor, Verdict]
    auto: frozenset[Actor]
    env: Mapping[str, str]
    limits: Limits
    asked_limits: Limits
    rate: Rate


class Pipeline(Struct, frozen=True):
    """Which rules may follow which in a pipeline that runs at once."""

    id: str
    first: frozenset[str]
    then: frozenset[str]
    most: int


class _Judged(Struct, frozen=True):
    """One stage's own answer."""

    stage: Stage
    reason: Message
    rule: Rule | None = None
    match: Match | None = None
    failure: Failure | None = None


@dataclass(frozen=True)
class Policy:
    """All rules, indexed by program. Built by ``language.load``; nothing changes it afterwards."""

    rules: tuple[Rule, ...]
    pipelines: tuple[Pipeline, ...]
    defaults: Defaults
    digest: str = ""
    exclusions: Exclusions = NOTHING
    # By scope, program and first word of sub ("" where a rule has none).
    _index: Mapping[tuple[Scope, str, str], tuple[Rule, ...]] = field(init=False, repr=False, compare=False)
    _programs: Mapping[Scope, frozenset[str]] = field(init=False, repr=False, compare=False)
    _denied: Mapping[str, tuple[Rule, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        index: dict[tuple[Scope, str, str], list[Rule]] = {}
        denied: dict[str, list[Rule]] = {}
        for rule in sorted(self.rules, key=lambda rule: rule.id):
            for name in rule.programs:
                if rule.mode is Verdict.DENY and rule.scope == "workspace":
                    denied.setdefault(programs.name_of(name), []).append(rule)
                    continue
                for word in dict.fromkeys(sub[0] if sub else "" for sub in rule.subs):
                    index.setdefault((rule.scope, name, word), []).append(rule)
        known: dict[Scope, frozenset[str]] = {
            "workspace": frozenset(name for scope, name, _ in index if scope == "workspace"),
            "host": frozenset(name for scope, name, _ in index if scope == "host"),
        }
        object.__setattr__(self, "_programs", known)
        object.__setattr__(self, "_index", {name: tuple(rules) for name, rules in index.items()})
        object.__setattr__(self, "_denied", {name: tuple(rules) for name, rules in denied.items()})

    def judge(self, request: Request) -> Judgement:
        """What happens to ``request``. Never raises for anything a request can hold."""
        if refused := _malformed(request):
            return self._refused(request, *refused)
        judged = [self._stage(request, number, argv) for number, argv in enumerate(request.stages)]
        deciding = max(judged, key=lambda one: _WEIGHT[one.stage.verdict])
        verdict, reason, rule = deciding.stage.verdict, deciding.reason, deciding.stage.rule
        if verdict is Verdict.ALLOW and len(judged) > 1 and not self._joins(judged):
            verdict, reason, rule = Verdict.ASK, Message("policy.ask.pipeline"), DEFAULT
        if verdict is Verdict.ALLOW and self.exclusions.covers(request.cwd):
            verdict, reason, rule = Verdict.ASK, Message("policy.ask.folder", {"folder": request.cwd}), DEFAULT
        return self._answer(request, judged, verdict, reason, rule, deciding.failure)

    # -- one stage ------------------------------------------------------------------------------------------------------------------

    def _stage(self, request: Request, number: int, argv: tuple[str, ...]) -> _Judged:
        if found := self._denying(request, argv):
            return _judged(argv, found, Verdict.DENY, _why(found))
        best: Miss | None = None
        nearest = ""
        fits: tuple[Rule, Match] | None = None
        for rule in self._candidates(request, number, argv):
            result = match(rule, argv, request.cwd)
            if isinstance(result, Match):
                if fits is None or _outweighs(rule, fits[0]):
                    fits = rule, result
            elif best is None or _nearer(result, best):
                best, nearest = result, rule.id
        if fits and (place := _hidden_at(argv, fits[1].texts)) is None:
            return self._fitting(request, argv, *fits)
        if (place := _hidden_at(argv, fits[1].texts if fits else frozenset())) is not None:
            return _hidden(argv, number, place)
        return self._unmatched(request, number, argv, best, nearest)

    def _candidates(self, request: Request, number: int, argv: Sequence[str]) -> list[Rule]:
        """Rules that might fit; those that read what comes in only behind a pipe."""
        found = list(self._index.get((request.scope, argv[0], ""), ()))
        if len(argv) > 1 and argv[1]:
            found += self._index.get((request.scope, argv[0], argv[1]), ())
        return [rule for rule in found if rule.concerns(request.actor, request.role) and (number > 0 or not rule.stdin)]

    def _denying(self, request: Request, argv: Sequence[str]) -> Rule | None:
        """The first deny rule that fits the command, or what it would start as a wrapper (POL-5)."""
        if request.scope == "host":
            return None
        for words in (argv, *programs.started_by(argv)):
            for rule in self._denied.get(programs.name_of(words[0]), ()):
                if rule.concerns(request.actor, request.role) and isinstance(match(rule, words, ""), Match):
                    return rule
        return None

    def _fitting(self, request: Request, argv: tuple[str, ...], rule: Rule, found: Match) -> _Judged:
        if rule.mode is Verdict.ALLOW:
            if request.actor not in self.defaults.auto:
                return _judged(argv, rule, Verdict.ASK, Message("policy.ask.auto_off", {"rule": rule.id}), found)
            return _judged(argv, rule, Verdict.ALLOW, Message("policy.allow", {"rule": rule.id}), found)
        return _judged(argv, rule, rule.mode, _why(rule), found)

    def _unmatched(
        self, request: Request, number: int, argv: tuple[str, ...], miss: Miss | None, nearest: str
    ) -> _Judged:
        verdict = self.defaults.verdicts[request.actor] if request.scope == "workspace" else Verdict.DENY
        if miss is None and self._knows(request.scope, argv[0]):
            failure = Failure(number, 1, argv[1] if len(argv) > 1 else "", "", "word")
            return _Judged(Stage(argv, argv, UNMATCHED, verdict), _missed(argv[0], failure), failure=failure)
        if miss is None:
            return _Judged(Stage(argv, argv, DEFAULT, verdict), _unknown(argv[0], verdict))
        if programs.runs_others(argv[0]) and verdict is Verdict.ASK:
            reason = Message("policy.ask.runs_others", {"program": argv[0]})
            return _Judged(Stage(argv, argv, UNMATCHED, verdict), reason)
        token = argv[miss.index] if miss.index < len(argv) else ""
        failure = Failure(number, miss.index, token, nearest, miss.code)
        return _Judged(Stage(argv, argv, UNMATCHED, verdict), _missed(argv[0], failure), failure=failure)

    def _knows(self, scope: Scope, program: str) -> bool:
        return program in self._programs[scope]

    # -- the whole ------------------------------------------------------------------------------------------------------------------

    def _joins(self, judged: Sequence[_Judged]) -> bool:
        first, *then = (one.stage.rule for one in judged)
        return any(
            first in shape.first and len(judged) <= shape.most and all(rule in shape.then for rule in then)
            for shape in self.pipelines
        )

    def _answer(
        self,
        request: Request,
        judged: Sequence[_Judged],
        verdict: Verdict,
        reason: Message,
        rule: str,
        failure: Failure | None,
    ) -> Judgement:
        fallback = self.defaults.limits if verdict is Verdict.ALLOW else self.defaults.asked_limits
        limits = [(one.rule and one.rule.limits) or fallback for one in judged]
        rates = [(one.rule and one.rule.rate) or self.defaults.rate for one in judged]
        effects = [one.rule.effect if one.rule else "run" for one in judged]
        return Judgement(
            verdict=verdict,
            rule=rule,
            reason=reason,
            stages=tuple(one.stage for one in judged),
            env=self._env(judged),
            limits=_widest(limits),
            rate=Rate(min(one.per_minute for one in rates), min(one.per_day for one in rates)),
            checks=tuple(dict.fromkeys(check for one in judged if one.rule for check in one.rule.requires)),
            paths=tuple(
                TypedPath(number, *path) for number, one in enumerate(judged) if one.match for path in one.match.paths
            ),
            effect=max(effects, key=_EFFECTS.index),
            leasable=verdict is Verdict.ASK
            and request.scope == "workspace"
            and not any(programs.hands_over(one.stage.typed) for one in judged),
            digest=self.digest,
            failure=failure,
        )

    def _env(self, judged: Sequence[_Judged]) -> Mapping[str, str]:
        """The defaults', and what the rules of the stages add."""
        own = [one.rule.env for one in judged if one.rule and one.rule.env]
        return self.defaults.env if not own else dict(ChainMap(*map(dict, own), dict(self.defaults.env)))

    def _refused(self, request: Request, reason: Message, stage: int, index: int) -> Judgement:
        stages = tuple(Stage(argv, argv, DEFAULT, Verdict.DENY) for argv in request.stages)
        token = request.stages[stage][index] if stage < len(stages) and index < len(request.stages[stage]) else ""
        return Judgement(
            Verdict.DENY, DEFAULT, reason, stages, self.defaults.env, self.defaults.limits, self.defaults.rate,
            digest=self.digest, failure=Failure(stage, index, token, "", reason.key.rpartition(".")[2]),
        )  # fmt: skip


def _judged(
    argv: tuple[str, ...], rule: Rule, verdict: Verdict, reason: Message, found: Match | None = None
) -> _Judged:
    return _Judged(Stage(found.argv if found else argv, argv, rule.id, verdict), reason, rule, found)


def _nearer(miss: Miss, other: Miss) -> bool:
    """Whether the rule of ``miss`` came closer; one that wants another flag altogether is never the closest."""
    return _closeness(miss) > _closeness(other)


def _closeness(miss: Miss) -> tuple[bool, int, bool]:
    return miss.code != "need", miss.index, miss.code != "exact"


def _outweighs(rule: Rule, other: Rule) -> bool:
    """Whether ``rule`` decides before ``other``: by its mode, then by reading what comes in, then by its id."""
    if rule.mode is not other.mode:
        return _WEIGHT[rule.mode] > _WEIGHT[other.mode]
    return (not rule.stdin, rule.id) < (not other.stdin, other.id)


def _unknown(program: str, verdict: Verdict) -> Message:
    """Why a program that no rule knows asks or is refused."""
    if verdict is Verdict.ASK and program in _OF_A_SHELL:
        return Message("policy.ask.of_a_shell", {"program": program})
    if verdict is Verdict.ASK and programs.wraps(program):
        return Message("policy.ask.runs_others", {"program": program})
    return Message(f"policy.{verdict}.unknown", {"program": program})


def _missed(program: str, failure: Failure) -> Message:
    """Which word of a known program does not fit; a list of exact words says no more than that it is not on it."""
    if failure.code in ("word", "exact", "sub"):
        code = "word" if failure.token else "short"
        return Message(f"policy.miss.{code}", {"program": program, "token": failure.token})
    return Message(
        f"policy.miss.{failure.code}", {"rule": failure.rule, "token": failure.token, "place": failure.index + 1}
    )


def deny_all() -> Policy:
    """The policy that holds while there is no good one."""
    return Policy((), (), Defaults(dict.fromkeys(Actor, Verdict.DENY), frozenset(), {}, Limits(), Limits(), Rate()))


def _why(rule: Rule) -> Message:
    """The rule's own reason: a sentence of the catalogue where it is a known word, else the owner's text."""
    if rule.why in WHYS:
        return Message(f"policy.why.{rule.why.replace('-', '_')}", {"rule": rule.id})
    kind = "deny" if rule.mode is Verdict.DENY else "ask"
    return Message(f"policy.{kind}.rule", {"rule": rule.id, "why": rule.why or rule.id})


def _hidden_at(argv: Sequence[str], texts: frozenset[int]) -> tuple[int, hidden.Hidden] | None:
    """The first hidden character: the word's index, and the character. Free text was checked by its type."""
    for index, word in enumerate(argv):
        if index not in texts and (found := hidden.first_hidden(word)):
            return index, found
    return None


def _hidden(argv: tuple[str, ...], number: int, found: tuple[int, hidden.Hidden]) -> _Judged:
    index, char = found
    params: Params = {
        "place": char.position + 1,
        "word": index + 1,
        "code": f"U+{char.codepoint:04X}",
        "name": char.name,
    }
    failure = Failure(number, index, argv[index], "", "hidden")
    return _Judged(Stage(argv, argv, DEFAULT, Verdict.DENY), Message("policy.deny.hidden", params), failure=failure)


def _widest(limits: Sequence[Limits]) -> Limits:
    """The limits of stages that run together in one group."""
    return Limits(
        max(one.seconds for one in limits),
        max(one.output_kb for one in limits),
        max(one.pids for one in limits),
        max(one.memory_mb for one in limits),
        min(one.parallel for one in limits),
    )


def _malformed(request: Request) -> tuple[Message, int, int] | None:
    """What makes a request no command at all: its reason, stage and word."""
    if not request.stages or len(request.stages) > (1 if request.scope == "host" else MOST_STAGES):
        return Message("policy.deny.stages", {"most": MOST_STAGES}), 0, 0
    if _cwd_outside(request.cwd):
        return Message("policy.deny.cwd"), 0, 0
    words = [word for argv in request.stages for word in argv]
    if len(words) > MOST_WORDS or sum(map(len, words)) > MOST_CHARACTERS:
        return Message("policy.deny.long", {"words": MOST_WORDS, "characters": MOST_CHARACTERS}), 0, 0
    for number, argv in enumerate(request.stages):
        if not argv or not argv[0]:
            return Message("policy.deny.empty"), number, 0
        name = argv[0]
        if "=" in name or name[0] == "-" or name.isspace():
            return Message("policy.deny.name", {"token": name}), number, 0
        if not name.isascii() and hidden.plain(name):
            return Message("policy.deny.letters", {"token": name}), number, 0
    return None


def _cwd_outside(cwd: str) -> bool:
    return cwd.startswith("/") or not hidden.plain(cwd) or ".." in cwd.split("/")
