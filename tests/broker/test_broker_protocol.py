"""The broker's socket against anything a client can send, and against clients that do not play along."""

from __future__ import annotations

import array
import json
import os
import pwd
import select
import socket
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.broker import protocol
from appliance.broker.client import BrokerClient, BrokerError
from appliance.broker.protocol import Field, Verb
from appliance.errors import Invalid, Unavailable

MAX = 64 * 1024


def connect(home) -> socket.socket:
    found = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    found.settimeout(10)
    found.connect(str(home.socket))
    return found


def ask(connection: socket.socket, packet: bytes) -> dict:
    connection.sendall(packet)
    return json.loads(connection.recv(MAX))


def refused(connection: socket.socket, packet: bytes) -> str:
    answer = ask(connection, packet)
    assert answer["ok"] is False
    return answer["error"]["message"]


def test_hello(broker):
    hello = broker.call("hello").data
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert (hello["pid"], hello["boot_id"], hello["runtime"]) == (broker.pid, boot, "process")


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"x",
        b"[]",
        b"null",
        b"{}",
        b'{"id":1}',
        b'{"op":"hello"}',
        b'{"id":"1","op":"hello"}',
        b'{"id":true,"op":"hello"}',
        b'{"id":-1,"op":"hello"}',
        b'{"id":1.0,"op":"hello"}',
        b'{"id":1,"op":"hello","id":1}',
        b'{"id":1,"op":["hello"]}',
        b'{"id":1,"op":"shell"}',
        b'{"id":1,"op":"hello","extra":1}',
        b'{"id":NaN,"op":"hello"}',
        b"\xff\xfe",
        b"[" * 60_000,
        b'{"id":1,"op":"start"}',
        b'{"id":1,"op":"start","service":"sshd"}',
        b'{"id":1,"op":"start","service":["ide"]}',
        b'{"id":1,"op":"start","service":"ide","memory_mb":900}',
        b'{"id":1,"op":"start","service":"ide","cpus":2}',
        b'{"id":1,"op":"start","service":"ide","model_mb":-1}',
        b'{"id":1,"op":"start","service":"ide","model_mb":null}',
        b'{"id":1,"op":"share","model_mb":"2"}',
        b'{"id":1,"op":"share","model_mb":1048577}',
        b'{"id":1,"op":"share","service":"ide"}',
        b'{"id":1,"op":"start","service":"ide","mount":"/"}',
        b'{"id":1,"op":"start","service":"ide","user":"root"}',
        b'{"id":1,"op":"stop","service":"ide","grace":61}',
        b'{"id":1,"op":"stop","service":"ide","grace":true}',
        b'{"id":1,"op":"spawn","argv":"ls"}',
        b'{"id":1,"op":"spawn","argv":[]}',
        b'{"id":1,"op":"spawn","argv":["a\\u0000b"]}',
        b'{"id":1,"op":"spawn","argv":["\\udc80"]}',
        b'{"id":1,"op":"spawn","argv":[1]}',
        b'{"id":1,"op":"spawn","argv":["ls"],"limits":{"uid":0}}',
        b'{"id":1,"op":"spawn","argv":["ls"],"limits":{"pids":100000}}',
        b'{"id":1,"op":"spawn","argv":["ls"],"limits":{"seconds":0}}',
        b'{"id":1,"op":"spawn","argv":["ls"],"view":"host"}',
        b'{"id":1,"op":"spawn","argv":["ls"],"env":{"A=B":"x"}}',
        b'{"id":1,"op":"spawn","argv":["ls"],"stdin":"/etc/shadow"}',
        b'{"id":1,"op":"spawn","argv":["ls"],"uid":0}',
        b'{"id":1,"op":"kill","run":"1"}',
        b'{"id":1,"op":"kill","run":"run-../../1"}',
        b'{"id":1,"op":"kill","run":"run-0123456789abcdef"}',
        b'{"id":1,"op":"logs","service":"../../etc/shadow"}',
        b'{"id":' + b"9" * 5000 + b',"op":"hello"}',
        b'{"id":1,"op":"' + b"h" * 65_000 + b'"}',
    ],
)
def test_malformed_requests_are_refused_and_the_broker_goes_on(broker, packet):
    """SYS-2: only the fixed verbs with exactly typed arguments."""
    with connect(broker) as connection:
        if packet:
            refused(connection, packet)
            assert ask(connection, b'{"id":7,"op":"hello"}')["id"] == 7
        else:
            connection.send(b"")  # an empty packet reads like an end: the broker hangs up
            assert connection.recv(10) == b""
    assert broker.call("hello").data["pid"] == broker.pid


def test_a_packet_that_is_too_large_is_refused_whole(broker):
    with connect(broker) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        body = json.dumps({"id": 1, "op": "hello", "x": "y" * MAX}).encode()
        assert "too large" in refused(connection, body)
        assert ask(connection, b'{"id":2,"op":"hello"}')["ok"] is True


def test_descriptors_from_a_client_never_arrive(broker):
    """Many descriptors, sent often: the broker holds none of them."""
    before = sum(1 for _ in os.scandir(f"/proc/{broker.pid}/fd"))
    pipes = [os.pipe() for _ in range(100)]
    flat = array.array("i", [fd for pair in pipes for fd in pair])
    with connect(broker) as connection:
        for number in range(20):
            connection.sendmsg([b'{"id":%d,"op":"hello"}' % number], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, flat)])
            assert json.loads(connection.recv(MAX))["ok"] is False
        # No more than this connection; what the broker was busy with at first may be done by now.
        assert sum(1 for _ in os.scandir(f"/proc/{broker.pid}/fd")) <= before + 1
    for fd in flat:
        os.close(fd)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
ops = st.sampled_from(
    [
        "hello",
        "services",
        "start",
        "stop",
        "logs",
        "spawn",
        "kill",
        "freeze",
        "thaw",
        "runs",
        "files",
        "terminals",
        "image-pull",
        "share",
    ]
) | st.text(max_size=10)
keys = st.sampled_from(
    ["service", "argv", "cwd", "env", "limits", "stdin", "view", "run", "signal", "grace", "model_mb", "safe"]
)


@settings(max_examples=300, deadline=None)
@given(packet=st.binary(min_size=1, max_size=2000) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_get_one_refusal(shared_broker, packet):
    with connect(shared_broker) as connection:
        answer = ask(connection, packet)
    assert answer["ok"] is False
    assert set(answer["error"]) == {"code", "message"}
    assert shared_broker.process.poll() is None


@settings(max_examples=300, deadline=None)
@given(op=ops, rest=st.dictionaries(keys, json_values, max_size=5))
def test_any_arguments_get_one_answer(shared_broker, op, rest):
    """Spawning is left in: what it starts is bounded like any run."""
    if op == "hello" and not rest:
        return
    with connect(shared_broker) as connection:
        packet, fds, _, _ = _ask_with_fds(connection, json.dumps({"id": 5, "op": op, **rest}).encode())
    for fd in fds:
        os.close(fd)
    answer = json.loads(packet)
    assert answer.get("event") or answer["ok"] is True or answer["error"]["message"]
    assert shared_broker.process.poll() is None


def _ask_with_fds(connection: socket.socket, packet: bytes):
    connection.sendall(packet)
    return socket.recv_fds(connection, MAX, 8)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
@pytest.mark.parametrize("who", ["nobody", "workspace", "proxy"])
def test_other_users_are_not_answered(broker, names, who):
    """The folder already keeps them out; even where it is opened up, the peer check does."""
    for path, mode in ((broker.socket.parent, 0o755), (broker.socket, 0o666)):
        path.chmod(mode)
    code = (
        f"import socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.connect({str(broker.socket)!r})\n"
        'try:\n    s.send(b\'{"id":1,"op":"hello"}\'); print(len(s.recv(100)))\nexcept OSError: print(0)'
    )
    user = pwd.getpwnam(names.get(who, who))
    done = subprocess.run(
        ["/usr/bin/python3", "-c", code],
        user=user.pw_uid,
        group=user.pw_gid,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "0"
    daemon = pwd.getpwnam(names["daemon"])
    done = subprocess.run(
        ["/usr/bin/python3", "-c", code],
        user=daemon.pw_uid,
        group=daemon.pw_gid,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) > 0


def test_a_client_that_never_reads_is_dropped_and_holds_nobody_up(broker, poll):
    with connect(broker) as lazy:
        sent = 0
        lazy.settimeout(0.2)
        with pytest.raises(OSError):  # noqa: PT012
            while sent < 20_000:
                lazy.send(b'{"id":1,"op":"services"}')
                sent += 1
                if sent % 100 == 0:
                    assert broker.call("hello").data["pid"] == broker.pid
        poll(lambda: select.select([lazy], [], [], 0)[0])
    assert broker.call("hello").data["pid"] == broker.pid


def test_the_number_of_clients_is_bounded(broker, poll):
    many = [connect(broker) for _ in range(16)]
    assert ask(many[15], b'{"id":1,"op":"hello"}')["ok"]
    with connect(broker) as extra:
        assert extra.recv(10) == b""
    for one in many:
        one.close()
    poll(lambda: _welcome(broker))


def _welcome(broker) -> bool:
    try:
        return broker.call("hello").data["pid"] == broker.pid
    except Unavailable:
        return False  # the broker has not read yet that the others left


async def test_a_lost_broker_fails_waiting_calls_and_completes_closed(home):
    home.start()
    client = BrokerClient(home.socket)
    await client.connect()
    assert (await client.call("hello")).data["pid"] == home.pid
    with pytest.raises(BrokerError) as caught:
        await client.call("nonsense")
    assert caught.value.code == "unknown_op"
    home.kill()
    await client.closed
    with pytest.raises(Unavailable):
        await client.call("hello")
    with pytest.raises(Unavailable):
        await client.connect()


def test_checks_coerce_nothing():
    verbs = {"v": Verb(lambda **_: None, {"n": Field(protocol.whole(1, 5)), "t": Field(protocol.text("a+"), False)})}
    assert protocol.arguments(verbs, {"id": 1, "op": "v", "n": 5, "t": "aa"})[1] == {"n": 5, "t": "aa"}
    for bad in (
        {"n": "5"},
        {"n": 5.0},
        {"n": True},
        {"n": 6},
        {},
        {"n": 1, "t": "b"},
        {"n": 1, "t": "a\n"},
        {"n": 1, "u": 1},
    ):
        with pytest.raises(Invalid):
            protocol.arguments(verbs, {"id": 1, "op": "v", **bad})
