"""Rules as the judge uses them: read once, indexed, frozen.

Rule: matching a rule is pure, touches no file and takes time linear in the command. A rule that does not match says which token
was wrong and how, so that every refusal can be explained (POL-14).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

from msgspec import Struct

from appliance.commands.model import Actor, Effect, Limits, Rate, Role, Scope, Verdict
from appliance.commands.values import ValueType, lexical, turns_back


class Takes(StrEnum):
    """Whether and how a flag takes a value."""

    NOTHING = "nothing"
    VALUE = "value"  # --x=v, --x v, -x v, -xv
    EQUALS = "equals"  # --x or --x=v: the value may be left out
    JOINED = "joined"  # -xv only


class Flag(Struct, frozen=True):
    """One listed flag, spelled exactly."""

    name: str
    takes: Takes
    type: ValueType | None = None


class Operand(Struct, frozen=True):
    """One place for operands: ``least`` and ``most`` say how many of the type may stand there."""

    type: ValueType
    least: int
    most: int


class Rule(Struct, frozen=True):
    """One rule. ``programs`` are the words typed, ``exec`` what is started; see policy.toml for the language."""

    id: str
    mode: Verdict
    programs: tuple[str, ...]
    subs: tuple[tuple[str, ...], ...] = ((),)
    exec: str = ""
    scope: Scope = "workspace"
    actors: frozenset[Actor] = frozenset(Actor)
    roles: frozenset[Role] = frozenset(("viewer", "operator", "admin"))
    effect: Effect = "run"
    why: str = ""
    prepend_global: tuple[str, ...] = ()
    prepend: tuple[str, ...] = ()
    append: tuple[str, ...] = ()
    flags: Mapping[str, Flag] | None = None
    operands: tuple[Operand, ...] = ()
    need: tuple[str, ...] = ()
    exact: tuple[tuple[str, ...], ...] = ()
    anything: bool = False
    tokens: frozenset[str] = frozenset()
    dashes: str = "insert"  # insert | typed | none
    stdin: bool = False
    requires: tuple[str, ...] = ()
    limits: Limits | None = None
    rate: Rate | None = None
    examples_allow: tuple[str, ...] = ()
    examples_deny: tuple[str, ...] = ()
    line: int = 0
    joined: bool = True  # a value may be written onto its short flag: -n5
    env: Mapping[str, str] | None = None  # besides the defaults'
    long_by_one_dash: bool = (
        False  # this program spells long flags with one dash, as find does; then nothing is a cluster
    )

    def concerns(self, actor: Actor, role: Role) -> bool:
        return actor in self.actors and role in self.roles


class Match(Struct, frozen=True):
    """A command that fits: what is executed, and which of its words are paths (index, value, new, maybe)."""

    argv: tuple[str, ...]
    paths: tuple[tuple[int, str, bool, bool], ...] = ()
    texts: frozenset[int] = frozenset()  # indexes of free text in what was typed


class Miss(Struct, frozen=True):
    """A command that does not fit: the index of the wrong word in what was typed (its length: something lacks), and why."""

    index: int
    code: str


class _Fail(Exception):
    def __init__(self, index: int, code: str) -> None:
        super().__init__(code)
        self.index, self.code = index, code


def match(rule: Rule, argv: Sequence[str], cwd: str) -> Match | Miss:
    """Whether ``argv``, whose first word is one of the rule's programs, has the rule's shape."""
    sub = next((sub for sub in rule.subs if tuple(argv[1 : 1 + len(sub)]) == sub), None)
    if sub is None:
        return Miss(min(max(_common(argv, sub) for sub in rule.subs), len(argv)), "sub")
    if rule.tokens and rule.tokens.isdisjoint(word.rstrip("/") or "/" for word in argv[1:]):
        return Miss(len(argv), "need")
    if rule.anything:
        return Match((_program(rule, argv), *argv[1:]))
    if rule.exact:
        return _exact(rule, argv, sub)
    try:
        return _Shape(rule, argv, sub, cwd).read()
    except _Fail as fail:
        return Miss(fail.index, fail.code)


def _program(rule: Rule, argv: Sequence[str]) -> str:
    return rule.exec.replace("{bin}", argv[0]) if rule.exec else argv[0]


def _common(argv: Sequence[str], sub: Sequence[str]) -> int:
    """The index in ``argv`` of the first word that is not as in ``sub``."""
    place = 1
    for word in sub:
        if place >= len(argv) or argv[place] != word:
            break
        place += 1
    return place


def _exact(rule: Rule, argv: Sequence[str], sub: Sequence[str]) -> Match | Miss:
    rest = tuple(argv[1 + len(sub) :])
    if rest in rule.exact:
        return Match((_program(rule, argv), *rule.prepend_global, *sub, *rule.prepend, *rest, *rule.append))
    return Miss(min(1 + len(sub), len(argv)), "exact")


class _Shape:
    """Reading one command against one rule's flags and operands."""

    def __init__(self, rule: Rule, argv: Sequence[str], sub: Sequence[str], cwd: str) -> None:
        self.rule, self.argv, self.sub, self.cwd = rule, argv, sub, cwd
        self.flags = rule.flags or {}
        self.at = 1 + len(sub)
        # (word, path value or None, new): options first when "--" is put between, else all in the typed order.
        self.options: list[tuple[str, ValueType | None, str]] = []
        self.rest: list[tuple[str, ValueType | None, str]] = []
        self.seen: set[str] = set()
        self.singles: set[str] = set()  # letters of flags that may stand in a cluster
        self.texts: set[int] = set()
        self.place, self.count, self.ended = 0, 0, False

    def read(self) -> Match:
        argv = self.argv
        while self.at < len(argv):
            word = argv[self.at]
            if self.ended or not word.startswith("-") or word == "-":
                self._operand(word)
            elif word == "--":
                if self.rule.dashes == "none":
                    raise _Fail(self.at, "flag")
                self.ended = True
                self._dashes()
            else:
                self._flag(word)
            self.at += 1
        self._complete()
        return self._built()

    def _dashes(self) -> None:
        if self.rule.dashes != "typed":
            return
        # What follows are paths: places for anything else are over.
        self.rest.append(("--", None, ""))
        operands = self.rule.operands
        while self.place < len(operands) and not operands[self.place].type.path:
            self._leave()

    def _flag(self, word: str) -> None:
        name, equals, value = word.partition("=")
        flag = self.flags.get(word) or (self.flags.get(name) if equals else None)
        if flag is None:
            self._short(word)
        elif flag.takes is Takes.NOTHING:
            if equals and flag.name != word:
                raise _Fail(self.at, "no_value")
            self._option(word, flag)
        elif equals and flag.name != word:
            if not word.startswith("--") or flag.takes is Takes.JOINED:
                raise _Fail(self.at, "flag")
            self._option(word, flag, value)
        elif flag.takes is Takes.VALUE:
            if self.at + 1 >= len(self.argv):
                raise _Fail(len(self.argv), "lacks_value")
            self._option(word, flag)
            self.at += 1
            self._option(self.argv[self.at], flag, self.argv[self.at])
        elif flag.takes is Takes.EQUALS:
            self._option(word, flag)
        else:
            raise _Fail(self.at, "lacks_value")

    def _short(self, word: str) -> None:
        """``-n5``, ``-5`` or a cluster of flags that take nothing."""
        if word.startswith("--") or self.rule.long_by_one_dash:
            raise _Fail(self.at, "flag")
        for name in (word[:2], "-"):
            flag = self.flags.get(name)
            value = word[len(name) :]
            if flag is None or flag.takes not in (Takes.VALUE, Takes.JOINED) or not value:
                continue
            if flag.takes is Takes.VALUE and not self.rule.joined:
                continue
            if name != "-" or value.isdigit():
                self._option(word, flag, value)
                return
        if not self.singles:
            self.singles = {
                name[1:] for name, flag in self.flags.items() if flag.takes is Takes.NOTHING and len(name) == 2
            }
        cluster = set(word[1:])
        if not cluster <= self.singles:
            raise _Fail(self.at, "flag")
        self.seen.update(f"-{char}" for char in cluster)
        self._out(word)

    def _option(self, word: str, flag: Flag, value: str | None = None) -> None:
        self.seen.add(flag.name)
        if value is None or flag.type is None:
            self._out(word)
            return
        self._check(value, flag.type)
        self._out(word, flag.type, value)

    def _out(self, word: str, kind: ValueType | None = None, value: str = "") -> None:
        (self.options if self.rule.dashes == "insert" else self.rest).append((word, kind, value))

    def _check(self, value: str, kind: ValueType) -> None:
        if fault := kind.check(value):
            raise _Fail(self.at, fault)
        if kind.path and ".." in value:
            if lexical(self.cwd, value) is None:
                raise _Fail(self.at, "outside")
            if turns_back(value):
                raise _Fail(self.at, "turns_back")
        if kind.text:
            self.texts.add(self.at)

    def _operand(self, word: str) -> None:
        operands = self.rule.operands
        while self.place < len(operands):
            operand = operands[self.place]
            try:
                if word.startswith("-"):
                    raise _Fail(self.at, "start")
                # Where revisions and paths mix, git reads "REV:PATH" as a file of a commit.
                if ":" in word and self.rule.dashes == "typed" and not self.ended and operand.type.path:
                    raise _Fail(self.at, "colon")
                self._check(word, operand.type)
            except _Fail:
                # A word that does not fit here may fit the next place, where this one has had enough.
                if self.count < operand.least or self.place + 1 == len(operands):
                    raise
                self._leave()
                continue
            self.rest.append((word, operand.type, word))
            self.count += 1
            if self.count == operand.most:
                self._leave()
            return
        raise _Fail(self.at, "operand")

    def _leave(self) -> None:
        if self.count < self.rule.operands[self.place].least:
            raise _Fail(self.at, "lacks_operand")
        self.place, self.count = self.place + 1, 0

    def _complete(self) -> None:
        end = len(self.argv)
        for place, operand in enumerate(self.rule.operands):
            if place >= self.place and (self.count if place == self.place else 0) < operand.least:
                raise _Fail(end, "lacks_operand")
        if self.rule.need and self.seen.isdisjoint(self.rule.need):
            raise _Fail(end, "need")

    def _built(self) -> Match:
        rule = self.rule
        out: list[str] = [_program(rule, self.argv), *rule.prepend_global, *self.sub, *rule.prepend]
        paths: list[tuple[int, str, bool, bool]] = []
        for group in (self.options, self.rest):
            for word, kind, value in group:
                if kind is not None and (kind.path or kind.maybe):
                    paths.append((len(out), value, kind.new, kind.maybe))
                out.append(word)
            if group is self.options:
                out += rule.append
                if rule.dashes == "insert" and self.rest:
                    out.append("--")
        return Match(tuple(out), tuple(paths), frozenset(self.texts))
