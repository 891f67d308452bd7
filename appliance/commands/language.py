"""policy.toml: reading it into a frozen Policy, or saying which line is wrong (SECURITY 5.3).

Rule: nothing is guessed. An unknown key, a rule that could let a program run others at once, two rules that disagree about limits, or
an example that does not come out as it says is a fault of the whole file, and a faulty file is never used in part (POL-2).
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from appliance.commands import programs
from appliance.commands.hidden import plain
from appliance.commands.host_verbs import HOST_VERBS
from appliance.commands.judge import Defaults, Pipeline, Policy
from appliance.commands.model import ROLES, Actor, Limits, Rate, Request, Verdict
from appliance.commands.rules import Flag, Operand, Rule, Takes
from appliance.commands.tokenizer import LineRefused, parse_line
from appliance.commands.values import BadType, Exclusions, parse_type
from appliance.messages import Message

VERSION = 1
MOST_BYTES = 512 * 1024
CHECKS = ("clean-git-config",)
# What a run's environment may hold: nothing that makes a program load, run or write anything (POL-7). The broker refuses the rest too.
_ENV_NAME = re.compile(
    r"LANG|LANGUAGE|LC_[A-Z]+|TZ|TERM|COLUMNS|LINES|NO_COLOR|FORCE_COLOR|CLICOLOR|CI|PATH"
    r"|PAGER|GIT_PAGER|GIT_TERMINAL_PROMPT|GIT_CONFIG_GLOBAL|PYTHONNOUSERSITE"
)
_ENV_FIXED = {
    "PAGER": "cat", "GIT_PAGER": "cat", "GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_GLOBAL": "/dev/null", "PYTHONNOUSERSITE": "1"
}  # fmt: skip
_ENV_PATH = re.compile(r"/(usr/local/bin|usr/bin|bin)(:/(usr/local/bin|usr/bin|bin))*")
_ENV_VALUE = re.compile(r"[A-Za-z0-9_.:/@+-]{0,64}")
_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_FLAG = re.compile(r"(--?[A-Za-z0-9][A-Za-z0-9_-]*|-)(?:([ =+])(\S.*))?")
_OPERAND = re.compile(r"(\S+?)([?*+]?)")
_VERSION_WORDS = frozenset({"--version", "-version", "-V", "-v", "-VV", "version"})
_MODES = {"auto": Verdict.ALLOW, "ask": Verdict.ASK, "deny": Verdict.DENY}
_EFFECTS = ("read", "write", "run", "network")


class PolicyFault(Exception):
    """A policy that cannot be used: ``line`` from 1 (0 where no line can be named) and what is wrong, for people."""

    def __init__(self, line: int, code: str, **params: str | int) -> None:
        super().__init__(f"line {line}: {code} {params}")
        self.line = line
        self.message = Message(f"policy.fault.{code}", {"line": line, **params})


def load(text: str, *, tried: bool = False) -> Policy:
    """The policy that ``text`` says. ``tried``: this very text was loaded before, so its examples need no other try.

    Raises PolicyFault.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MOST_BYTES:
        raise PolicyFault(0, "size", most=MOST_BYTES // 1024)
    document = _toml(text)
    policy = _Reader(text, document).policy()
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


class _Reader:
    """One document on its way to a Policy."""

    def __init__(self, text: str, document: Mapping[str, Any]) -> None:
        self.text, self.document = text, document
        self.lines = text.split("\n")

    def policy(self) -> Policy:
        top = self.document
        self.keys(top, ("version", "defaults", "paths", "rule", "pipeline"), 0)
        if top.get("version") != VERSION or isinstance(top.get("version"), bool):
            raise PolicyFault(self.line_of("version", 0), "version", known=VERSION)
        defaults = self.defaults(self.table(top.get("defaults"), "defaults"))
        exclusions = self.exclusions(self.table(top.get("paths", {}), "paths"))
        rules = tuple(self.rule(*one, exclusions) for one in self.blocks("rule"))
        self.unique([rule.id for rule in rules], [rule.line for rule in rules])
        _no_disagreement(rules, defaults)
        pipelines = tuple(self.pipeline(*one, rules) for one in self.blocks("pipeline"))
        return Policy(rules, pipelines, defaults, digest_of(self.text), exclusions)

    # -- tables -----------------------------------------------------------------------------------------------------------------------

    def defaults(self, table: Mapping[str, Any]) -> Defaults:
        line = self.header("[defaults]")
        known = (*map(str, Actor), "host", "auto", "env", "limits", "asked_limits", "rate")
        self.keys(table, known, line)
        if table.get("host", "deny") != "deny":
            raise PolicyFault(self.line_of("host", line), "host_default")
        verdicts = {}
        for actor in Actor:
            word = table.get(actor, "deny" if actor is Actor.REGISTRY else "ask")
            if word not in ("ask", "deny"):
                raise PolicyFault(self.line_of(actor, line), "default", actor=actor)
            verdicts[actor] = _MODES[word]
        limits = self.limits(table.get("limits", {}), Limits(), line, "limits")
        return Defaults(
            verdicts,
            self.actors(table.get("auto", ["human"]), line, "auto"),
            self.env(table.get("env", {}), line),
            limits,
            self.limits(table.get("asked_limits", {}), limits, line, "asked_limits"),
            self.rate(table.get("rate", {}), Rate(), line),
        )

    def exclusions(self, table: Mapping[str, Any]) -> Exclusions:
        line = self.header("[paths]")
        self.keys(table, ("exclude",), line)
        names = self.words(table, "exclude", line)
        try:
            return Exclusions.of(names)
        except BadType as error:
            raise PolicyFault(self.line_of("exclude", line), "type", cause=str(error)) from error

    def pipeline(self, table: Mapping[str, Any], line: int, rules: Sequence[Rule]) -> Pipeline:
        self.keys(table, ("id", "first", "then", "max"), line)
        name, most = self.id(table, line), table.get("max", 4)
        if type(most) is not int or not 2 <= most <= 8:
            raise PolicyFault(self.line_of("max", line), "number", setting="max", low=2, high=8)
        known = {rule.id: rule for rule in rules}
        first, then = self.words(table, "first", line), self.words(table, "then", line)
        for key, ids in (("first", first), ("then", then)):
            for one in ids:
                if one not in known:
                    raise PolicyFault(self.line_of(key, line), "no_rule", rule=one)
                if known[one].stdin != (key == "then"):
                    raise PolicyFault(self.line_of(key, line), f"pipeline_{key}", rule=one)
        return Pipeline(name, frozenset(first), frozenset(then), most)

    def rule(self, table: Mapping[str, Any], line: int, exclusions: Exclusions) -> Rule:
        self.keys(table, _RULE_KEYS, line)
        scope, mode = table.get("scope", "workspace"), table.get("mode")
        if scope not in ("workspace", "host"):
            raise PolicyFault(self.line_of("scope", line), "choice", setting="scope", choices="workspace, host")
        if mode not in _MODES:
            raise PolicyFault(self.line_of("mode", line), "choice", setting="mode", choices="auto, ask, deny")
        effect = table.get("effect", "read" if mode == "auto" else "run")
        if effect not in _EFFECTS:
            raise PolicyFault(self.line_of("effect", line), "choice", setting="effect", choices=", ".join(_EFFECTS))
        dashes = table.get("dashes", "insert")
        if dashes not in ("insert", "typed", "none"):
            raise PolicyFault(self.line_of("dashes", line), "choice", setting="dashes", choices="insert, typed, none")
        flags = self.flags(table, line, exclusions)
        rule = Rule(
            id=self.id(table, line),
            mode=_MODES[mode],
            programs=self.programs(table, line),
            subs=self.subs(table, line),
            exec=self.string(table, "exec", line),
            scope=scope,
            actors=self.actors(table.get("actors", list(Actor)), line, "actors"),
            roles=self.roles(table, line),
            effect=effect,
            why=self.string(table, "why", line),
            prepend_global=self.words(table, "prepend_global", line),
            prepend=self.words(table, "prepend", line),
            append=self.words(table, "append", line),
            flags=flags,
            operands=self.operands(table, line, exclusions),
            need=self.words(table, "need", line),
            exact=self.exact(table, line),
            anything=self.boolean(table, "anything", line),
            tokens=frozenset(self.words(table, "tokens", line)),
            dashes=dashes,
            stdin=self.boolean(table, "stdin", line),
            joined=self.boolean(table, "joined", line, default=True),
            env=self.env(table.get("env", {}), line),
            requires=self.checks(table, line),
            limits=self.limits(table["limits"], Limits(), line, "limits") if "limits" in table else None,
            rate=self.rate(table["rate"], Rate(), line) if "rate" in table else None,
            examples_allow=self.words(table, "examples_allow", line),
            examples_deny=self.words(table, "examples_deny", line),
            line=line,
            long_by_one_dash=any(len(name) > 2 and name[1] != "-" for name in flags),
        )  # fmt: skip
        self.sound(rule, line)
        return rule

    def sound(self, rule: Rule, line: int) -> None:
        """What no rule may be, however it is written."""
        auto = rule.mode is Verdict.ALLOW
        shapes = sum((bool(rule.exact), rule.anything, bool(rule.flags or rule.operands)))
        if shapes > 1:
            raise PolicyFault(line, "two_shapes", rule=rule.id)
        if rule.scope == "host":
            self.sound_host(rule, line)
        elif auto and not rule.exec:
            raise PolicyFault(line, "no_exec", rule=rule.id)
        elif rule.exec and not re.fullmatch(r"/[A-Za-z0-9._/+-]+(\{bin\})?", rule.exec):
            raise PolicyFault(self.line_of("exec", line), "exec", rule=rule.id)
        if auto and rule.anything:
            raise PolicyFault(self.line_of("anything", line), "auto_anything", rule=rule.id)
        if auto and any(operand.type.text for operand in rule.operands):
            raise PolicyFault(self.line_of("args", line), "auto_text", rule=rule.id)
        if auto and any(flag.type is not None and flag.type.text for flag in (rule.flags or {}).values()):
            raise PolicyFault(self.line_of("flags", line), "auto_text", rule=rule.id)
        if auto and rule.effect != "read" and rule.scope == "workspace":
            raise PolicyFault(self.line_of("effect", line), "auto_effect", rule=rule.id)
        if auto and rule.scope == "workspace":
            for program in (*rule.programs, *([] if "{bin}" in rule.exec else [rule.exec])):
                if programs.runs_others(program) and not _only_versions(rule):
                    raise PolicyFault(line, "interpreter", rule=rule.id, program=program)
        for name in rule.need:
            if name not in (rule.flags or {}):
                raise PolicyFault(self.line_of("need", line), "need", rule=rule.id, flag=name)
        if rule.append and rule.dashes != "insert":
            raise PolicyFault(self.line_of("append", line), "append", rule=rule.id)

    def sound_host(self, rule: Rule, line: int) -> None:
        for program in rule.programs:
            for sub in rule.subs:
                if (program, *sub) not in HOST_VERBS:
                    raise PolicyFault(line, "host_verb", rule=rule.id, verb=" ".join((program, *sub)))
        if rule.exec or rule.prepend or rule.prepend_global or rule.append or rule.anything:
            raise PolicyFault(line, "host_exec", rule=rule.id)

    # -- values -----------------------------------------------------------------------------------------------------------------------

    def flags(self, table: Mapping[str, Any], line: int, exclusions: Exclusions) -> dict[str, Flag]:
        found: dict[str, Flag] = {}
        for spec in self.words(table, "flags", line):
            flag = self.flag(spec, line, exclusions)
            if flag.name in found:
                raise PolicyFault(self.line_of("flags", line), "twice", what=flag.name)
            found[flag.name] = flag
        return found

    def flag(self, spec: str, line: int, exclusions: Exclusions) -> Flag:
        parts = _FLAG.fullmatch(spec)
        if not parts or (parts[1] == "-" and parts[2] != "+"):
            raise PolicyFault(self.line_of("flags", line), "flag", flag=spec)
        takes = {None: Takes.NOTHING, " ": Takes.VALUE, "=": Takes.EQUALS, "+": Takes.JOINED}[parts[2]]
        if (takes is Takes.EQUALS) > parts[1].startswith("--") or (takes is Takes.JOINED and len(parts[1]) > 2):
            raise PolicyFault(self.line_of("flags", line), "flag", flag=spec)
        try:
            return Flag(parts[1], takes, parse_type(parts[3], exclusions) if parts[3] else None)
        except BadType as error:
            raise PolicyFault(self.line_of("flags", line), "type", cause=str(error)) from error

    def operands(self, table: Mapping[str, Any], line: int, exclusions: Exclusions) -> tuple[Operand, ...]:
        found = []
        for spec in self.words(table, "args", line):
            parts = _OPERAND.fullmatch(spec)
            if not parts:
                raise PolicyFault(self.line_of("args", line), "type", cause=spec)
            least, most = {"": (1, 1), "?": (0, 1), "*": (0, 1 << 30), "+": (1, 1 << 30)}[parts[2]]
            try:
                found.append(Operand(parse_type(parts[1], exclusions), least, most))
            except BadType as error:
                raise PolicyFault(self.line_of("args", line), "type", cause=str(error)) from error
        return tuple(found)

    def programs(self, table: Mapping[str, Any], line: int) -> tuple[str, ...]:
        value = table.get("bin")
        names = tuple(value) if isinstance(value, list) else (value,)
        for name in names:
            if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_.+-]+|\[", name):
                raise PolicyFault(self.line_of("bin", line), "bin")
        if not names:
            raise PolicyFault(self.line_of("bin", line), "bin")
        return names

    def subs(self, table: Mapping[str, Any], line: int) -> tuple[tuple[str, ...], ...]:
        """``sub = ["remote", "get-url"]`` or several: ``subs = ["fetch", "remote update"]``, the longest first."""
        if "subs" in table and "sub" in table:
            raise PolicyFault(self.line_of("subs", line), "twice", what="sub")
        if "subs" not in table:
            return (self.words(table, "sub", line),)
        found = [tuple(words.split()) for words in self.words(table, "subs", line)]
        if not all(found):
            raise PolicyFault(self.line_of("subs", line), "words", setting="subs")
        return tuple(sorted(found, key=len, reverse=True))

    def exact(self, table: Mapping[str, Any], line: int) -> tuple[tuple[str, ...], ...]:
        """Whole argument lists: ``exact = ["aux", "-e -f"]``, words between blanks; "" is none at all."""
        return tuple(tuple(words.split()) for words in self.words(table, "exact", line, empty=True))

    def checks(self, table: Mapping[str, Any], line: int) -> tuple[str, ...]:
        value = table.get("requires", [])
        names = self.words({"requires": [value] if isinstance(value, str) else value}, "requires", line)
        for name in names:
            if name not in CHECKS:
                raise PolicyFault(
                    self.line_of("requires", line), "choice", setting="requires", choices=", ".join(CHECKS)
                )
        return names

    def env(self, table: Any, line: int) -> dict[str, str]:
        where = self.line_of("env", line)
        for name, value in self.table(table, "env", where).items():
            if not _ENV_NAME.fullmatch(name) or not isinstance(value, str) or not _ENV_VALUE.fullmatch(value):
                raise PolicyFault(where, "env", name=name)
            if value != _ENV_FIXED.get(name, value) or (name == "PATH" and not _ENV_PATH.fullmatch(value)):
                raise PolicyFault(where, "env", name=name)
        return dict(table)

    def limits(self, table: Any, base: Limits, line: int, key: str) -> Limits:
        return Limits(**self.numbers(table, _LIMITS, base, line, key))

    def rate(self, table: Any, base: Rate, line: int) -> Rate:
        return Rate(**self.numbers(table, _RATES, base, line, "rate"))

    def numbers(
        self, table: Any, bounds: Mapping[str, tuple[int, int]], base: Any, line: int, key: str
    ) -> dict[str, int]:
        where = self.line_of(key, line)
        self.keys(self.table(table, key, where), tuple(bounds), where)
        values = {name: table.get(name, getattr(base, name)) for name in bounds}
        for name, (low, high) in bounds.items():
            if type(values[name]) is not int or not low <= values[name] <= high:
                raise PolicyFault(where, "number", setting=name, low=low, high=high)
        return values

    def actors(self, value: Any, line: int, key: str) -> frozenset[Actor]:
        return frozenset(Actor(word) for word in self.choices(value, tuple(map(str, Actor)), line, key))

    def roles(self, table: Mapping[str, Any], line: int) -> frozenset[Any]:
        return frozenset(self.choices(table.get("roles", list(ROLES)), ROLES, line, "roles"))

    def choices(self, value: Any, known: Sequence[str], line: int, key: str) -> tuple[str, ...]:
        words = self.words({key: value}, key, line)
        for word in words:
            if word not in known:
                raise PolicyFault(self.line_of(key, line), "choice", setting=key, choices=", ".join(known))
        return words

    def id(self, table: Mapping[str, Any], line: int) -> str:
        value = table.get("id")
        if not isinstance(value, str) or not _ID.fullmatch(value) or value in ("unmatched", "default"):
            raise PolicyFault(self.line_of("id", line), "id")
        return value

    def string(self, table: Mapping[str, Any], key: str, line: int) -> str:
        value = table.get(key, "")
        if not isinstance(value, str) or not plain(value) or len(value) > 400:
            raise PolicyFault(self.line_of(key, line), "string", setting=key)
        return value

    def boolean(self, table: Mapping[str, Any], key: str, line: int, *, default: bool = False) -> bool:
        value = table.get(key, default)
        if not isinstance(value, bool):
            raise PolicyFault(self.line_of(key, line), "boolean", setting=key)
        return value

    def words(self, table: Mapping[str, Any], key: str, line: int, *, empty: bool = False) -> tuple[str, ...]:
        value = table.get(key, [])
        if not isinstance(value, list) or not all(isinstance(word, str) and (word or empty) for word in value):
            raise PolicyFault(self.line_of(key, line), "words", setting=key)
        if not key.startswith("examples_") and not all(map(plain, value)):
            raise PolicyFault(self.line_of(key, line), "string", setting=key)
        return tuple(value)

    def table(self, value: Any, key: str, line: int = 0) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise PolicyFault(line, "table", setting=key)
        return value

    # -- places -----------------------------------------------------------------------------------------------------------------------

    def blocks(self, kind: str) -> Iterator[tuple[Mapping[str, Any], int]]:
        """Every ``[[kind]]`` with the line of its header."""
        tables = self.document.get(kind, [])
        if not isinstance(tables, list) or not all(isinstance(one, dict) for one in tables):
            raise PolicyFault(0, "blocks", setting=kind)
        header = re.compile(rf"\s*\[\[\s*{kind}\s*\]\]\s*(#.*)?")
        lines = [number for number, line in enumerate(self.lines, start=1) if header.fullmatch(line)]
        known = lines if len(lines) == len(tables) else [0] * len(tables)
        yield from zip(tables, known, strict=True)

    def keys(self, table: Mapping[str, Any], known: Sequence[str], line: int) -> None:
        for key in table:
            if key not in known:
                raise PolicyFault(self.line_of(key, line), "key", setting=key)

    def unique(self, ids: Sequence[str], lines: Sequence[int]) -> None:
        seen: set[str] = set()
        for name, line in zip(ids, lines, strict=True):
            if name in seen:
                raise PolicyFault(line, "duplicate", rule=name)
            seen.add(name)

    def header(self, text: str) -> int:
        return next((number for number, line in enumerate(self.lines, start=1) if line.strip() == text), 0)

    def line_of(self, key: str, start: int) -> int:
        """The line of ``key`` in the block that begins at ``start``, or the block's own."""
        wanted = re.compile(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=.]")
        for number in range(start, len(self.lines)):
            line = self.lines[number]
            if wanted.match(line):
                return number + 1
            if number > start and line.lstrip().startswith("["):
                break
        return start


_RULE_KEYS = (
    "id", "scope", "bin", "exec", "sub", "subs", "prepend_global", "prepend", "append", "flags", "args", "need", "exact", "anything",
    "tokens",
    "dashes", "joined", "stdin", "env", "mode", "roles", "actors", "effect", "requires", "why", "limits", "rate", "examples_allow", "examples_deny",
)  # fmt: skip
_LIMITS = {
    "seconds": (1, 3600), "output_kb": (1, 1 << 20), "pids": (1, 512), "memory_mb": (16, 1 << 20), "parallel": (1, 16)
}  # fmt: skip
_RATES = {"per_minute": (1, 10_000), "per_day": (1, 1_000_000)}


def _only_versions(rule: Rule) -> bool:
    return bool(rule.exact) and all(len(words) == 1 and words[0] in _VERSION_WORDS for words in rule.exact)


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
