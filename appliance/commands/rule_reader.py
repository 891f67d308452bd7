"""One ``[[rule]]`` of policy.toml on its way to a Rule (SECURITY 5.3).

Rule: what no rule may be, however it is written, is refused here: above all one that lets a program run others at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from appliance.commands import programs
from appliance.commands.host_verbs import HOST_VERBS
from appliance.commands.model import Actor, Limits, Rate, Verdict
from appliance.commands.policy_source import PolicyFault, Source
from appliance.commands.rules import Flag, Operand, Rule, Takes
from appliance.commands.values import BadType, Exclusions, parse_type

CHECKS = ("clean-git-config",)
MODES = {"auto": Verdict.ALLOW, "ask": Verdict.ASK, "deny": Verdict.DENY}
_EFFECTS = ("read", "write", "run", "network")
_FLAG = re.compile(r"(--?[A-Za-z0-9][A-Za-z0-9_-]*|-)(?:([ =+])(\S.*))?")
_OPERAND = re.compile(r"(\S+?)([?*+]?)")
_VERSION_WORDS = frozenset({"--version", "-version", "-V", "-v", "-VV", "version"})
_RULE_KEYS = (
    "id", "scope", "bin", "exec", "sub", "subs", "prepend_global", "prepend", "append", "flags", "args", "need", "exact", "anything",
    "tokens",
    "dashes", "joined", "stdin", "env", "mode",
    "roles", "actors", "effect", "requires", "why", "limits", "rate", "examples_allow", "examples_deny",
)  # fmt: skip


class RuleReader:
    """Reads rules of one document. ``exclusions`` are the names that no path of a rule may hold."""

    def __init__(self, source: Source, exclusions: Exclusions) -> None:
        self.source, self.exclusions = source, exclusions

    def rule(self, table: Mapping[str, Any], line: int) -> Rule:
        self.source.keys(table, _RULE_KEYS, line)
        scope, mode = table.get("scope", "workspace"), table.get("mode")
        if scope not in ("workspace", "host"):
            raise PolicyFault(self.source.line_of("scope", line), "choice", setting="scope", choices="workspace, host")
        if mode not in MODES:
            raise PolicyFault(self.source.line_of("mode", line), "choice", setting="mode", choices="auto, ask, deny")
        effect = table.get("effect", "read" if mode == "auto" else "run")
        if effect not in _EFFECTS:
            raise PolicyFault(
                self.source.line_of("effect", line), "choice", setting="effect", choices=", ".join(_EFFECTS)
            )
        dashes = table.get("dashes", "insert")
        if dashes not in ("insert", "typed", "none"):
            raise PolicyFault(
                self.source.line_of("dashes", line), "choice", setting="dashes", choices="insert, typed, none"
            )
        flags = self.flags(table, line)
        rule = Rule(
            id=self.source.id(table, line),
            mode=MODES[mode],
            programs=self.programs(table, line),
            subs=self.subs(table, line),
            exec=self.source.string(table, "exec", line),
            scope=scope,
            actors=self.source.actors(table.get("actors", list(Actor)), line, "actors"),
            roles=self.source.roles(table, line),
            effect=effect,
            why=self.source.string(table, "why", line),
            prepend_global=self.source.words(table, "prepend_global", line),
            prepend=self.source.words(table, "prepend", line),
            append=self.append(table, line),
            flags=flags,
            operands=self.operands(table, line),
            need=self.source.words(table, "need", line),
            exact=self.exact(table, line),
            anything=self.source.boolean(table, "anything", line),
            tokens=frozenset(self.source.words(table, "tokens", line)),
            dashes=dashes,
            stdin=self.source.boolean(table, "stdin", line),
            joined=self.source.boolean(table, "joined", line, default=True),
            env=self.source.env(table.get("env", {}), line),
            requires=self.checks(table, line),
            limits=self.source.limits(table["limits"], Limits(), line, "limits") if "limits" in table else None,
            rate=self.source.rate(table["rate"], Rate(), line) if "rate" in table else None,
            examples_allow=self.source.words(table, "examples_allow", line),
            examples_deny=self.source.words(table, "examples_deny", line),
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
            raise PolicyFault(self.source.line_of("exec", line), "exec", rule=rule.id)
        if auto and rule.anything:
            raise PolicyFault(self.source.line_of("anything", line), "auto_anything", rule=rule.id)
        if auto and any(operand.type.text for operand in rule.operands):
            raise PolicyFault(self.source.line_of("args", line), "auto_text", rule=rule.id)
        if auto and any(flag.type is not None and flag.type.text for flag in (rule.flags or {}).values()):
            raise PolicyFault(self.source.line_of("flags", line), "auto_text", rule=rule.id)
        if auto and rule.effect != "read" and rule.scope == "workspace":
            raise PolicyFault(self.source.line_of("effect", line), "auto_effect", rule=rule.id)
        if auto and rule.scope == "workspace":
            for program in (*rule.programs, *([] if "{bin}" in rule.exec else [rule.exec])):
                if programs.runs_others(program) and not _only_versions(rule):
                    raise PolicyFault(line, "interpreter", rule=rule.id, program=program)
        for name in rule.need:
            if name not in (rule.flags or {}):
                raise PolicyFault(self.source.line_of("need", line), "need", rule=rule.id, flag=name)
        if rule.append and rule.dashes != "insert":
            raise PolicyFault(self.source.line_of("append", line), "append", rule=rule.id)

    def sound_host(self, rule: Rule, line: int) -> None:
        for program in rule.programs:
            for sub in rule.subs:
                if (program, *sub) not in HOST_VERBS:
                    raise PolicyFault(line, "host_verb", rule=rule.id, verb=" ".join((program, *sub)))
        if rule.exec or rule.prepend or rule.prepend_global or rule.append or rule.anything:
            raise PolicyFault(line, "host_exec", rule=rule.id)

    def flags(self, table: Mapping[str, Any], line: int) -> dict[str, Flag]:
        found: dict[str, Flag] = {}
        for spec in self.source.words(table, "flags", line):
            flag = self.flag(spec, line)
            if flag.name in found:
                raise PolicyFault(self.source.line_of("flags", line), "twice", what=flag.name)
            found[flag.name] = flag
        return found

    def flag(self, spec: str, line: int) -> Flag:
        parts = _FLAG.fullmatch(spec)
        if not parts or (parts[1] == "-" and parts[2] != "+"):
            raise PolicyFault(self.source.line_of("flags", line), "flag", flag=spec)
        takes = {None: Takes.NOTHING, " ": Takes.VALUE, "=": Takes.EQUALS, "+": Takes.JOINED}[parts[2]]
        if (takes is Takes.EQUALS) > parts[1].startswith("--") or (takes is Takes.JOINED and len(parts[1]) > 2):
            raise PolicyFault(self.source.line_of("flags", line), "flag", flag=spec)
        try:
            return Flag(parts[1], takes, parse_type(parts[3], self.exclusions) if parts[3] else None)
        except BadType as error:
            raise PolicyFault(self.source.line_of("flags", line), "type", cause=str(error)) from error

    def operands(self, table: Mapping[str, Any], line: int) -> tuple[Operand, ...]:
        found = []
        for spec in self.source.words(table, "args", line):
            parts = _OPERAND.fullmatch(spec)
            if not parts:
                raise PolicyFault(self.source.line_of("args", line), "type", cause=spec)
            least, most = {"": (1, 1), "?": (0, 1), "*": (0, 1 << 30), "+": (1, 1 << 30)}[parts[2]]
            try:
                found.append(Operand(parse_type(parts[1], self.exclusions), least, most))
            except BadType as error:
                raise PolicyFault(self.source.line_of("args", line), "type", cause=str(error)) from error
        return tuple(found)

    def programs(self, table: Mapping[str, Any], line: int) -> tuple[str, ...]:
        value = table.get("bin")
        names = tuple(value) if isinstance(value, list) else (value,)
        for name in names:
            if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_.+-]+|\[", name):
                raise PolicyFault(self.source.line_of("bin", line), "bin")
        if not names:
            raise PolicyFault(self.source.line_of("bin", line), "bin")
        return names

    def subs(self, table: Mapping[str, Any], line: int) -> tuple[tuple[str, ...], ...]:
        """``sub = ["remote", "get-url"]`` or several: ``subs = ["fetch", "remote update"]``, the longest first."""
        if "subs" in table and "sub" in table:
            raise PolicyFault(self.source.line_of("subs", line), "twice", what="sub")
        if "subs" not in table:
            return (self.source.words(table, "sub", line),)
        found = [tuple(words.split()) for words in self.source.words(table, "subs", line)]
        if not all(found):
            raise PolicyFault(self.source.line_of("subs", line), "words", setting="subs")
        return tuple(sorted(found, key=len, reverse=True))

    def append(self, table: Mapping[str, Any], line: int) -> tuple[str, ...]:
        """``"--exclude={exclude}"`` stands for as many words as there are excluded names."""
        found: list[str] = []
        for word in self.source.words(table, "append", line):
            found += (
                [word.replace("{exclude}", name) for name in self.exclusions.names] if "{exclude}" in word else [word]
            )
        return tuple(found)

    def exact(self, table: Mapping[str, Any], line: int) -> tuple[tuple[str, ...], ...]:
        """Whole argument lists: ``exact = ["aux", "-e -f"]``, words between blanks; "" is none at all."""
        return tuple(tuple(words.split()) for words in self.source.words(table, "exact", line, empty=True))

    def checks(self, table: Mapping[str, Any], line: int) -> tuple[str, ...]:
        value = table.get("requires", [])
        names = self.source.words({"requires": [value] if isinstance(value, str) else value}, "requires", line)
        for name in names:
            if name not in CHECKS:
                raise PolicyFault(
                    self.source.line_of("requires", line), "choice", setting="requires", choices=", ".join(CHECKS)
                )
        return names


def _only_versions(rule: Rule) -> bool:
    return bool(rule.exact) and all(len(words) == 1 and words[0] in _VERSION_WORDS for words in rule.exact)
