"""What could stand next in a line that is being typed: programs, words, flags and paths that rules name, and recent lines.

Rule: only what this person may use is offered, and offering decides nothing: the whole line is judged as always.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct

from appliance.commands.judge import Policy
from appliance.commands.model import Actor, Role, Verdict
from appliance.commands.rules import Rule
from appliance.commands.tokenizer import quoted
from appliance.commands.words import flags

MOST = 12


class Offer(Struct, frozen=True):
    """``line`` is the whole line once taken; ``shown`` names it; ``kind``: recent, program, word, flag or path."""

    line: str
    shown: str
    kind: str
    verdict: str = ""


def complete(policy: Policy, line: str, role: Role, recent: Iterable[str], entries: Sequence[str] = ()) -> list[Offer]:
    """Offers for the end of ``line``. ``entries`` are names in the folder that :func:`folder_of` said; folders end in "/"."""
    head, word = _last(line)
    found = [Offer(one, one, "recent") for one in recent if line and one.startswith(line) and one != line]
    words = head.rpartition("|")[2].split()
    rules = [rule for rule in policy.rules if _usable(rule, role)]
    if not words:
        found += _programs(head, word, rules)
    else:
        found += _next_words(head, word, words, rules)
        found += [Offer(head + quoted(name), name, "path") for name in entries if word and name.startswith(word)]
    seen: dict[str, Offer] = {}
    for offer in found:
        seen.setdefault(offer.line, offer)
    return list(seen.values())[:MOST]


def folder_of(line: str) -> str | None:
    """The folder whose names could complete the last word; None where a word is no path yet."""
    head, word = _last(line)
    if not head.strip() or not word or word.startswith(("-", "/", "'", '"')) or ".." in word.split("/"):
        return None
    return word.rpartition("/")[0]


def _last(line: str) -> tuple[str, str]:
    """The line up to its last word, and that word."""
    cut = max(line.rfind(" "), line.rfind("|")) + 1
    return line[:cut], line[cut:]


def _usable(rule: Rule, role: Role) -> bool:
    return rule.mode is not Verdict.DENY and rule.scope == "workspace" and rule.concerns(Actor.HUMAN, role)


def _programs(head: str, word: str, rules: Sequence[Rule]) -> Iterator[Offer]:
    names: dict[str, Rule] = {}
    for rule in rules:
        for name in rule.programs:
            if name.startswith(word) and name != word and bool(rule.stdin) <= ("|" in head):
                known = names.get(name)
                names[name] = rule if known is None or rule.mode is Verdict.ALLOW else known
    for name in sorted(names, key=lambda name: (names[name].mode is not Verdict.ALLOW, name)):
        yield Offer(f"{head}{name} ", name, "program", str(names[name].mode))


def _next_words(head: str, word: str, words: Sequence[str], rules: Sequence[Rule]) -> Iterator[Offer]:
    typed = words[1:]
    for rule in rules:
        if words[0] not in rule.programs:
            continue
        for sub in rule.subs:
            if len(typed) < len(sub) and list(sub[: len(typed)]) == list(typed) and sub[len(typed)].startswith(word):
                yield Offer(f"{head}{sub[len(typed)]} ", sub[len(typed)], "word", str(rule.mode))
            elif list(typed[: len(sub)]) == list(sub) and word.startswith("-"):
                for flag in flags(rule):
                    name = flag.split(" ")[0].split("[")[0].split("<")[0]
                    if name.startswith(word) and name != word:
                        yield Offer(f"{head}{name} ", flag, "flag", str(rule.mode))
