"""The allow-list of docker.sock as the pure function it is: whatever goes in, only a known request comes out."""

from __future__ import annotations

import contextlib
import json
import re
from urllib.parse import parse_qs, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.broker.docker_rules import ROUTES, Head, Plan, Refused, decide, parse_head

USER = "996:996"
ALLOWED = re.compile(
    r"(/v1\.[0-9]{2})?(/_ping|/version|/info|/events|/containers/json|/exec/\{exec\}/(start|json)"
    r"|/containers/\{container\}/(json|stats|top|logs|start|stop|restart|pause|unpause|exec))"
)
CHANGING = re.compile(r".*/(start|stop|restart|pause|unpause|exec)\Z")

paths = st.lists(
    st.sampled_from(
        [
            "/v1.41",
            "/v1.24",
            "/v1.23",
            "/containers",
            "/json",
            "/create",
            "/croft-ide",
            "/..",
            "/.",
            "//",
            "/exec",
            "/start",
            "/info",
            "/events",
            "/" + "a" * 64,
            "/update",
            "/attach",
            "/archive",
            "/images",
            "/logs",
            "/version",
            "%2e%2e",
            "{container}",
            "?all=1",
            "?filters={}",
            "?t=5",
            "&t=6",
            "#",
            ";",
            " ",
            "\\",
            "\0",
        ]
    ),
    max_size=6,
).map("".join)
bodies = st.one_of(
    st.binary(max_size=40),
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
        lambda inner: (
            st.dictionaries(
                st.sampled_from(["Cmd", "User", "Privileged", "Env", "Tty", "Detach", "HostConfig", "cmd"]),
                inner,
                max_size=4,
            )
            | st.lists(inner, max_size=3)
        ),
        max_leaves=6,
    ).map(lambda value: json.dumps(value).encode()),
)


def checked(plan: Plan) -> None:
    assert ALLOWED.fullmatch(plan.path), plan.path
    assert plan.method == ("POST" if CHANGING.match(plan.path) else plan.method)
    assert plan.method != "POST" or CHANGING.match(plan.path)
    if plan.path.endswith(("/containers/json", "/events")):
        filters = json.loads(parse_qs(plan.query)["filters"][0])
        assert filters["label"]["com.docker.compose.project=croft"] is True
    if plan.path.endswith("/exec"):
        assert plan.body
        assert plan.body["User"] == USER
        assert plan.body["Privileged"] is plan.body["AttachStdin"] is False
        assert set(plan.body) <= {
            "User",
            "Privileged",
            "AttachStdin",
            "Tty",
            "Cmd",
            "AttachStdout",
            "AttachStderr",
            "WorkingDir",
        }
    elif not plan.path.endswith("/exec/{exec}/start"):
        assert plan.body is None


@given(st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE"]), paths, bodies)
def test_whatever_is_asked_only_known_requests_are_made(method: str, target: str, body: bytes) -> None:
    """SYS-2."""
    with contextlib.suppress(Refused):
        checked(decide(Head(method, target, len(body)), body, USER))


@given(
    st.sampled_from([route for route in ROUTES if route.query]),
    st.dictionaries(
        st.sampled_from(["all", "filters", "t", "tail", "since", "follow", "stream", "ps_args", "size"]),
        st.one_of(st.text(max_size=8), st.sampled_from(["1", "True", "{}", '{"label":["a"]}', '{"type":["image"]}'])),
        max_size=4,
    ),
)
def test_a_query_can_only_narrow(route, query: dict[str, str]) -> None:
    path = re.sub(r"\(\?P<\w+>.*\)", "croft-ide", route.path)
    try:
        plan = decide(Head(route.method.split("|")[0], f"{path}?{urlencode(query)}", 0), b"", USER)
    except Refused:
        return
    checked(plan)
    assert set(parse_qs(plan.query, keep_blank_values=True)) <= set(route.query)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_head_or_refused(data: bytes) -> None:
    try:
        head = parse_head(data)
    except Refused:
        return
    assert head.method in ("GET", "HEAD", "POST")
    assert head.target.isascii()
    assert " " not in head.target
    assert 0 <= head.length <= 65536


@pytest.mark.parametrize("version", ["", "/v1.24", "/v1.41", "/v1.52"])
def test_versions_since_start_took_no_body_pass(version: str) -> None:
    """Before API 1.24 `start` took a host configuration: any mount, any privilege."""
    assert decide(Head("POST", f"{version}/containers/croft-ide/start", 0), b"", USER).path.startswith(version)
    for old in ("/v1.23", "/v1.12", "/v1.9", "/v0.99"):
        with pytest.raises(Refused):
            decide(Head("POST", f"{old}/containers/croft-ide/start", 0), b"", USER)
