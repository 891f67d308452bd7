"""What may pass through docker.sock: a pure function from one parsed request to the request that is sent in its place.

Rule: nothing of what the client wrote is copied to the engine. The path is put together from a row of ROUTES and a
checked id, the query and the body from the few values that row knows. What no row describes is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode

from appliance.broker.containers import NAME, PROJECT_LABEL, SERVICE_LABEL

MAX_HEAD = 16 * 1024
MAX_BODY = 64 * 1024
MAX_WORDS = 256
OLDEST_API = 24  # before 1.24 `start` took a host configuration: privileges, mounts, anything

_REQUEST_LINE = re.compile(rb"(GET|HEAD|POST) (/[!-\"$-~]{0,8191}) HTTP/1\.1")
_HEADER = re.compile(rb"([A-Za-z0-9-]{1,64}):[ \t]*([\x20-\x7e\t]*?)[ \t]*")
_PATH = re.compile(r"(?:/v1\.([1-9][0-9]))?(/[A-Za-z0-9_./-]+)")
_CONTAINER = r"(?P<container>[A-Za-z0-9][A-Za-z0-9_.-]{0,127})"
_EXEC = r"(?P<exec>[0-9a-f]{64})"

Value = Callable[[str], str]
Body = Callable[[Any, str], dict[str, Any]]


class Refused(Exception):
    """The answer to a request that does not pass."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True)
class Head:
    """Request line and headers, read strictly. ``length`` is the size of the body in bytes."""

    method: str
    target: str
    length: int


@dataclass(frozen=True)
class Plan:
    """The request to send: ``path`` is a template for the full id of ``container`` or ``exec``, looked up first.

    ``service`` restricts the container to one service; ``cut`` names the fields that are left of a JSON answer.
    """

    method: str
    path: str
    query: str
    body: dict[str, Any] | None = None
    container: str = ""
    exec: str = ""
    service: str = ""
    cut: tuple[str, ...] = ()


@dataclass(frozen=True)
class Route:
    """One row: what may be asked, with which query, and what its body is made into."""

    method: str
    path: str
    query: Mapping[str, Value] = field(default_factory=dict)
    forced: Mapping[str, str] = field(default_factory=dict)
    body: Body | None = None
    service: str = ""
    cut: tuple[str, ...] = ()


def parse_head(data: bytes) -> Head:
    """The part before the empty line. Raises Refused for anything that two readers could understand in two ways."""
    first, *lines = data.split(b"\r\n")
    found = _REQUEST_LINE.fullmatch(first)
    if not found:
        raise Refused(400, "not a request this socket understands")
    headers: dict[str, str] = {}
    for line in lines:
        header = _HEADER.fullmatch(line)
        if not header or header[1].decode().lower() in headers:
            raise Refused(400, "a header is malformed or there twice")
        headers[header[1].decode().lower()] = header[2].decode()
    if "transfer-encoding" in headers or "expect" in headers or "trailer" in headers:
        raise Refused(400, "the body must come with Content-Length alone")
    length = headers.get("content-length", "0")
    if not re.fullmatch(r"[0-9]{1,9}", length):
        raise Refused(400, "Content-Length is not a number")
    if int(length) > MAX_BODY:
        raise Refused(413, "the body is too large")
    if int(length) and found[1] != b"POST":
        raise Refused(400, "only POST has a body")
    return Head(found[1].decode(), found[2].decode(), int(length))


def decide(head: Head, body: bytes, user: str) -> Plan:
    """What to send for this request. ``user`` is ``uid:gid`` of the workspace. Raises Refused."""
    path, _, query = head.target.partition("?")
    found = _PATH.fullmatch(path)
    if not found or (found[1] and int(found[1]) < OLDEST_API):
        raise Refused(403, "this path is not served here")
    for route in ROUTES:
        named = re.fullmatch(route.path, found[2])
        if named and head.method in route.method.split("|"):
            ids = named.groupdict()
            prefix = f"/v1.{found[1]}" if found[1] else ""
            return Plan(
                head.method,
                prefix + _template(route.path),
                _query(route, query),
                _body(route, body, user),
                ids.get("container", ""),
                ids.get("exec", ""),
                route.service,
                route.cut,
            )
    raise Refused(403, "only reading, starting and stopping Croft's own containers is served here")


def owned(document: Any, service: str) -> bool:
    """Whether an inspected container is the project's, and ``service``'s if one is named."""
    labels = document.get("Config", {}).get("Labels") or {}
    return labels.get(PROJECT_LABEL) == NAME and (not service or labels.get(SERVICE_LABEL) == service)


def harmless(document: Any, user: str) -> bool:
    """Whether an exec was made the way this filter makes them, not by somebody else on the same container."""
    process = document.get("ProcessConfig", {})
    return process.get("user") == user and process.get("privileged") is False and document.get("OpenStdin") is False


def _template(pattern: str) -> str:
    return pattern.replace(_CONTAINER, "{container}").replace(_EXEC, "{exec}")


def _query(route: Route, text: str) -> str:
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=True, max_num_fields=16) if text else []
    except ValueError as error:
        raise Refused(400, "the query is malformed") from error
    given = dict(pairs)
    if len(given) != len(pairs):
        raise Refused(400, "a query parameter is there twice")
    unknown = set(given) - set(route.query)
    if unknown:
        raise Refused(403, "a query parameter is not served here")
    values = {key: route.query[key](value) for key, value in given.items()}
    return urlencode({**route.forced, **values})


def _body(route: Route, body: bytes, user: str) -> dict[str, Any] | None:
    if route.body is None:
        if body.strip() not in (b"", b"{}", b"null"):
            raise Refused(403, "this request takes no body")
        return None
    try:
        return route.body(json.loads(body.decode("utf-8"), object_pairs_hook=_unique), user)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "the body is not valid JSON") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The engine's reader takes keys in any case; two spellings of one key would be read differently here and there."""
    if len({key.lower() for key, _ in pairs}) != len(pairs):
        raise ValueError("duplicate key")
    return dict(pairs)


def _matching(pattern: str) -> Value:
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise Refused(403, "a query parameter has a value that is not served here")
        return value

    return check


def _flag(value: str) -> str:
    return "1" if _matching("0|1|true|false|True|False")(value) in ("1", "true", "True") else "0"


def _filters(allowed: frozenset[str], forced: Mapping[str, list[str]]) -> Value:
    """The engine joins labels by AND, so adding ours to whatever is asked for can only narrow the answer."""

    def check(text: str) -> str:
        try:
            given = json.loads(text, object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise Refused(400, "filters is not valid JSON") from error
        if not isinstance(given, dict) or set(given) - allowed:
            raise Refused(403, "a filter is not served here")
        merged = {key: _words(value) for key, value in given.items()}
        labels = merged.pop("label", []) + forced["label"]
        merged = {**merged, **forced, "label": labels}
        return json.dumps({key: dict.fromkeys(words, True) for key, words in merged.items()})

    return check


def _words(value: Any) -> list[str]:
    """The two forms the engine takes: a list of texts, or an object of flags."""
    if isinstance(value, dict) and all(one is True for one in value.values()):
        value = list(value)
    if not isinstance(value, list) or len(value) > MAX_WORDS or not all(isinstance(one, str) for one in value):
        raise Refused(403, "a filter has a value that is not served here")
    return list(value)


_EXEC_HARMLESS: Mapping[str, tuple[Any, ...]] = {
    "Privileged": (False, None),
    "AttachStdin": (False, None),
    "Env": (None, []),
    "DetachKeys": (None, ""),
    "ConsoleSize": (None,),
}


def _exec_create(given: Any, user: str) -> dict[str, Any]:
    """A command as the workspace's user, with nothing on its stdin, in the container's own environment."""
    known = {"Container", "User", "Cmd", "Tty", "AttachStdout", "AttachStderr", "WorkingDir", *_EXEC_HARMLESS}
    if not isinstance(given, dict) or set(given) - known:
        raise Refused(403, "exec takes a command and nothing that changes its powers")
    for key, allowed in _EXEC_HARMLESS.items():
        if given.get(key) not in allowed:
            raise Refused(403, f"exec may not set {key}")
    if given.get("User") not in (None, "", user, user.split(":")[0]):
        raise Refused(403, "exec runs as the workspace's user")
    words, folder = given.get("Cmd"), given.get("WorkingDir") or ""
    if not _is_argv(words) or not isinstance(folder, str) or "\0" in folder:
        raise Refused(400, "Cmd must be a list of words")
    made = {
        "User": user,
        "Privileged": False,
        "AttachStdin": False,
        "Tty": given.get("Tty") is True,
        "Cmd": words,
        "AttachStdout": given.get("AttachStdout") is not False,
        "AttachStderr": given.get("AttachStderr") is not False,
    }
    return made | ({"WorkingDir": folder} if folder else {})


def _exec_start(given: Any, user: str) -> dict[str, Any]:
    if not isinstance(given, dict) or set(given) - {"Detach", "Tty"}:
        raise Refused(403, "exec start takes Detach and Tty")
    return {key: given.get(key) is True for key in ("Detach", "Tty")}


def _is_argv(words: Any) -> bool:
    return (
        isinstance(words, list)
        and 0 < len(words) <= MAX_WORDS
        and all(isinstance(word, str) and "\0" not in word for word in words)
    )


_LABEL = [f"{PROJECT_LABEL}={NAME}"]
_LIST_FILTERS = _filters(frozenset({"label", "name", "id", "status", "health"}), {"label": _LABEL})
_EVENT_FILTERS = _filters(frozenset({"label", "container", "event", "type"}), {"label": _LABEL, "type": ["container"]})
_TIME = _matching(r"[0-9]{1,12}(\.[0-9]{1,9})?")
_SECONDS = {"t": _matching(r"[0-9]|[1-5][0-9]|60")}
_OF = f"/containers/{_CONTAINER}"
_INFO = (
    "ID",
    "ServerVersion",
    "OSType",
    "Architecture",
    "NCPU",
    "MemTotal",
    "CgroupDriver",
    "CgroupVersion",
    "LiveRestoreEnabled",
    "Driver",
    "SystemTime",
)

ROUTES: tuple[Route, ...] = (
    Route("GET|HEAD", "/_ping"),
    Route("GET", "/version"),
    Route("GET", "/info", cut=_INFO),
    Route(
        "GET",
        "/containers/json",
        forced={"filters": _LIST_FILTERS("{}")},
        query={
            "all": _flag,
            "limit": _matching("-1|[0-9]{1,4}"),
            "size": _matching("0|False|false"),
            "trunc_cmd": _flag,
            "filters": _LIST_FILTERS,
        },
    ),
    Route("GET", f"{_OF}/json"),
    Route("GET", f"{_OF}/stats", query={"stream": _flag, "one-shot": _flag}),
    Route("GET", f"{_OF}/top"),
    Route(
        "GET",
        f"{_OF}/logs",
        query={
            "stdout": _flag,
            "stderr": _flag,
            "follow": _flag,
            "timestamps": _flag,
            "since": _TIME,
            "until": _TIME,
            "tail": _matching("all|[0-9]{1,6}"),
        },
    ),
    Route("POST", f"{_OF}/start"),
    Route("POST", f"{_OF}/stop", query=_SECONDS),
    Route("POST", f"{_OF}/restart", query=_SECONDS),
    Route("POST", f"{_OF}/pause"),
    Route("POST", f"{_OF}/unpause"),
    Route("POST", f"{_OF}/exec", body=_exec_create, service="ide"),
    Route("POST", f"/exec/{_EXEC}/start", body=_exec_start, service="ide"),
    Route("GET", f"/exec/{_EXEC}/json", service="ide"),
    Route(
        "GET",
        "/events",
        forced={"filters": _EVENT_FILTERS("{}")},
        query={"since": _TIME, "until": _TIME, "filters": _EVENT_FILTERS},
    ),
)
