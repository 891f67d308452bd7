"""The packets of the broker's socket and the typed table that every request must fit.

Rule: a request is refused unless every key is known, present where required and of exactly the declared type. Nothing
is coerced, and nothing that failed here reaches a verb.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from appliance.errors import CroftError, Invalid

MAX_PACKET = 64 * 1024
MAX_FDS = 4
MAX_ID = 1 << 53  # what every JSON reader holds exactly

Check = Callable[[str, Any], Any]
Object = dict[str, Any]


@dataclass
class Reply:
    """What a verb answers: JSON fields, and descriptors that are closed once they are sent."""

    data: Object = field(default_factory=dict)
    fds: list[int] = field(default_factory=list)


class Peer(NamedTuple):
    """Who asks, as the kernel says (SO_PEERCRED)."""

    pid: int
    uid: int
    gid: int


class Field(NamedTuple):
    """One key of a request. Without ``required`` a missing key is simply not passed on."""

    check: Check
    required: bool = True


class Verb(NamedTuple):
    """One operation: the keys it takes and what runs it (a Reply in the broker, a plain object in the file helper)."""

    run: Callable[..., Any]
    takes: Mapping[str, Field] = MappingProxyType({})


def decode(packet: bytes) -> Object:
    """The JSON object in one packet. Raises Invalid for anything else, duplicate keys and unencodable text included."""
    if len(packet) > MAX_PACKET:
        raise Invalid(f"the packet is larger than {MAX_PACKET} bytes")
    try:
        value = json.loads(packet.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Invalid("the packet is not one valid JSON object") from error
    if not isinstance(value, dict):
        raise Invalid("the packet is not one valid JSON object")
    return value


def encode(message: Object) -> bytes:
    """One packet. Raises Invalid when the message does not fit."""
    packet = json.dumps(message, separators=(",", ":"), allow_nan=False).encode("ascii")
    if len(packet) > MAX_PACKET:
        raise Invalid("the answer does not fit in one packet")
    return packet


def request_id(message: Object) -> int:
    """The request's number. Raises Invalid."""
    return int(whole(0, MAX_ID)("id", message.get("id")))


def arguments(verbs: Mapping[str, Verb], message: Object) -> tuple[Verb, Object]:
    """The verb that ``message`` names and its checked arguments. Raises Invalid."""
    name = message.get("op")
    if not isinstance(name, str) or name not in verbs:
        raise Invalid("there is no such operation", code="unknown_op")
    verb = verbs[name]
    rest = {key: value for key, value in message.items() if key not in ("id", "op")}
    return verb, check_object(verb.takes, rest)


def check_object(takes: Mapping[str, Field], given: Object) -> Object:
    """``given`` with every value checked. Raises Invalid for unknown, missing or ill-typed keys."""
    if set(given) - set(takes):
        raise Invalid(f"unknown key: {min(set(given) - set(takes))[:64]!r}")
    missing = [key for key, row in takes.items() if row.required and key not in given]
    if missing:
        raise Invalid(f"missing key: {missing[0]!r}")
    return {key: takes[key].check(key, value) for key, value in given.items()}


def failure(number: int, error: CroftError) -> Object:
    """The answer to a refused or failed request."""
    return {"id": number, "ok": False, "error": {"code": error.code, "message": error.message}}


# Checks: each is called with the key and the value, and returns the value or raises Invalid.


def whole(low: int, high: int) -> Check:
    def check(key: str, value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise Invalid(f"{key} must be a whole number from {low} to {high}")
        return value

    return check


def number(low: float, high: float) -> Check:
    def check(key: str, value: Any) -> float:
        if type(value) not in (int, float) or not low <= value <= high:
            raise Invalid(f"{key} must be a number from {low:g} to {high:g}")
        return float(value)

    return check


def text(pattern: str | None = None, longest: int = 4096) -> Check:
    compiled = re.compile(pattern) if pattern else None

    def check(key: str, value: Any) -> str:
        if not isinstance(value, str) or len(value) > longest or not _clean(value):
            raise Invalid(f"{key} must be text of at most {longest} characters without NUL")
        if compiled and not compiled.fullmatch(value):
            raise Invalid(f"{key} has a form that is not allowed")
        return value

    return check


def one_of(choices: Sequence[str | int | None]) -> Check:
    def check(key: str, value: Any) -> Any:
        if not any(type(value) is type(choice) and value == choice for choice in choices):
            raise Invalid(f"{key} must be one of {', '.join(map(str, choices))}")
        return value

    return check


def flag(key: str, value: Any) -> bool:
    if type(value) is not bool:
        raise Invalid(f"{key} must be true or false")
    return value


def words(most: int) -> Check:
    item = text(longest=MAX_PACKET)

    def check(key: str, value: Any) -> list[str]:
        if not isinstance(value, list) or not 1 <= len(value) <= most:
            raise Invalid(f"{key} must be a list of 1 to {most} texts")
        return [str(item(key, one)) for one in value]

    return check


def many(most: int, item: Check) -> Check:
    """A list of 1 to ``most`` values that each pass ``item``."""

    def check(key: str, value: Any) -> list[Any]:
        if not isinstance(value, list) or not 1 <= len(value) <= most:
            raise Invalid(f"{key} must be a list of 1 to {most}")
        return [item(key, one) for one in value]

    return check


def table(most: int) -> Check:
    name, item = text(r"[A-Za-z_][A-Za-z0-9_]*", 64), text(longest=4096)

    def check(key: str, value: Any) -> dict[str, str]:
        if not isinstance(value, dict) or len(value) > most:
            raise Invalid(f"{key} must be an object of at most {most} texts")
        return {str(name(key, one)): str(item(one, value[one])) for one in value}

    return check


def nested(takes: Mapping[str, Field]) -> Check:
    def check(key: str, value: Any) -> Object:
        if not isinstance(value, dict):
            raise Invalid(f"{key} must be an object")
        return check_object(takes, value)

    return check


def _unique(pairs: list[tuple[str, Any]]) -> Object:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate key")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _clean(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return "\0" not in value
