"""Running: what comes back, what is kept, what ends it, and that the environment is ours alone."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
from aiohttp import ClientPayloadError
from support.processes import alive
from support.waiting import until

from appliance.commands.language import load
from appliance.commands.output import STDERR, STDOUT, saved
from appliance.identity.api_tokens import checked
from appliance.identity.users import Role


async def test_an_allowed_command_runs_at_once(room):
    run = await room.propose("echo", "hello", wait=10)
    assert (run["state"], run["exit_code"], run["verdict"], run["rule"]) == ("done", 0, "allow", "quick-echo")
    assert (run["bytes"], run["truncated"]) == (6, False)
    assert await room.output(run["id"]) == b"hello\n"
    again = await room.ask("POST", f"/api/commands/{run['id']}/rerun", status=201)
    assert (await room.over(again["run"]["id"]))["state"] == "done"


async def test_streams_are_told_apart_and_the_status_is_reported(room):
    run = await room.shell("echo out; echo err >&2; exit 3")
    assert (run["state"], run["exit_code"], run["stdout_bytes"], run["stderr_bytes"]) == ("failed", 3, 4, 4)
    assert run["ended"] == "Ended with exit status 3."
    assert await room.output(run["id"], query="?stream=stderr") == b"err\n"
    frames = [frame async for some in saved(room.front.commands.history.output(run["id"]), 0) for frame in some]
    assert sorted((frame.stream, frame.data) for frame in frames) == [(STDOUT, b"out\n"), (STDERR, b"err\n")]


async def test_a_pipeline_that_rules_allow(room):
    """POL-15: joined by us, every stage by its own rule, pipefail."""
    run = await room.propose(line="seq 5 | wc -l", wait=10)
    assert (run["state"], await room.output(run["id"])) == ("done", b"5\n")
    run = await room.propose(line="cat gone | wc -l", wait=10)
    assert (run["state"], run["exit_code"]) == ("failed", 1)
    assert [one["exit_code"] for one in run["stage_statuses"]] == [1, 0]


async def test_the_environment_is_made_from_nothing(room, monkeypatch):
    """POL-7: whatever the daemon's own environment holds, none of it reaches a run."""
    hostile = [
        *(f"LD_{name}" for name in ("PRELOAD", "LIBRARY_PATH", "AUDIT", "BIND_NOW", "DEBUG", "PROFILE", "ORIGIN_PATH")),
        *(
            f"GIT_{name}"
            for name in ("DIR", "SSH", "SSH_COMMAND", "EDITOR", "ASKPASS", "EXTERNAL_DIFF", "CONFIG_COUNT", "EXEC_PATH")
        ),
        *(
            f"npm_config_{name}"
            for name in ("prefix", "userconfig", "script_shell", "registry", "cache", "node_options")
        ),
        *(f"PYTHON{name}" for name in ("PATH", "STARTUP", "HOME", "INSPECT", "WARNINGS", "BREAKPOINT", "USERBASE")),
        *("NODE_OPTIONS", "NODE_PATH", "NODE_EXTRA_CA_CERTS", "BASH_ENV", "ENV", "IFS", "CDPATH", "PS4", "SHELLOPTS"),
        *("BASHOPTS", "EDITOR", "VISUAL", "MANPAGER", "LESSOPEN", "LESSCLOSE", "BROWSER", "PERL5OPT", "PERL5LIB"),
        *("RUBYOPT", "RUBYLIB", "JAVA_TOOL_OPTIONS", "GOFLAGS", "CC", "MAKEFLAGS", "PROMPT_COMMAND", "TMPDIR"),
        *("SSH_AUTH_SOCK", "SSH_ASKPASS", "DBUS_SESSION_BUS_ADDRESS", "DOCKER_HOST", "KUBECONFIG", "AWS_SECRET_KEY"),
        *("HTTP_PROXY", "https_proxy", "SSLKEYLOGFILE", "TERMINFO", "HISTFILE"),
    ]
    assert len(hostile) >= 60
    for name in hostile:
        monkeypatch.setenv(name, "/tmp/evil")
    run = await room.propose("env")
    run = (await room.approve(run, wait=10))["run"]
    names = {line.split("=")[0] for line in (await room.output(run["id"])).decode().splitlines()}
    assert names <= {"LANG", "PATH", "HOME", "USER", "LOGNAME", "SHELL", "CROFT_RUN"} | {
        "PAGER", "GIT_PAGER", "GIT_TERMINAL_PROMPT", "TERM"
    }  # fmt: skip
    async with room.front.ask(
        "POST", "/api/commands", room.cookies["operator"], json={"argv": ["env"], "env": {"LD_PRELOAD": "x"}}
    ) as response:
        assert response.status == 400


async def test_output_beyond_the_cap_is_thrown_away_and_said(room):
    run = await room.propose("yes", wait=0.6)
    assert run["state"] == "running"
    ended = (await room.ask("POST", f"/api/commands/{run['id']}/cancel"))["run"]
    assert (ended["state"], ended["truncated"]) == ("cancelled", True)
    assert ended["bytes"] > 1 << 20
    assert len(await room.output(run["id"])) == 256 << 10


async def test_a_ten_megabyte_line_and_bytes_that_are_no_text(room):
    run = await room.shell(r"head -c 10000000 /dev/zero | tr '\0' x; printf '\377\376 \303\050 \360\237'")
    assert (run["state"], run["bytes"], run["truncated"]) == ("done", 10_000_008, True)
    run = await room.shell(r"printf '\377\376 \303\050 \360\237'")
    assert await room.output(run["id"]) == b"\xff\xfe \xc3\x28 \xf0\x9f"
    texts = "".join(data["text"] for name, data, _ in await events(room, run["id"]) if name == "output")
    assert texts == "\ufffd\ufffd \ufffd( \ufffd"


async def test_a_run_is_ended_with_all_it_started(room):
    """POL-12: a grandchild in a session of its own, without environment and pipes, dies within two seconds."""
    mark = f"41{os.getpid()}"
    run = await room.shell(f"setsid -f env -i sleep {mark} >/dev/null 2>&1 </dev/null; sleep {mark}", wait=0)
    await until(lambda: len(alive(mark)) >= 2, "both sleep")
    began = time.monotonic()
    ended = (await room.ask("POST", f"/api/commands/{run['id']}/cancel"))["run"]
    assert time.monotonic() - began < 2
    assert (ended["state"], ended["ended"]) == ("cancelled", "Cancelled; everything it had started was ended.")
    assert alive(mark) == []


async def test_limits_end_what_exceeds_them(room, shared_broker):
    """POL-12: time, memory and processes; what it was is said."""
    mark = f"42{os.getpid()}"
    room.front.policy = limited(room, "seconds = 1")
    run = await room.shell(f"setsid -f sleep {mark}; sleep {mark}")
    assert (run["state"], run["cause"], alive(mark)) == ("killed", "timeout", [])
    assert "Took longer than" in run["ended"]
    room.front.policy = limited(room, "memory_mb = 32")
    run = await room.propose("/usr/bin/python3", "-c", "x = b'x' * (300 << 20)")
    run = (await room.approve(run, wait=20))["run"]
    assert (run["state"], run["cause"]) == ("killed", "oom")
    script = shared_broker.workspace_file("bomb.sh", "#!/bin/sh\nwhile :; do setsid /bin/sh $0 & done 2>/dev/null\n")
    room.front.policy = limited(room, "pids = 30, seconds = 2")
    run = await room.propose("sh", str(script))
    run = (await room.approve(run, wait=20))["run"]
    assert run["state"] in ("killed", "done", "failed")
    assert alive(str(script)) == []
    assert (await room.propose("true", wait=5))["state"] == "done"


def limited(room, limits: str):
    text = (
        "version = 1\n[defaults]\nlimits = { parallel = 12 }\nasked_limits = { parallel = 12, " + limits + " }\n"
        '[[rule]]\nid = "true"\nbin = "true"\nexec = "/usr/bin/true"\nexact = [""]\nmode = "auto"\n'
    )
    return load(text)


async def test_what_cannot_start_says_why_and_is_kept(room):
    run = await room.propose("no-such-program-at-all")
    run = (await room.approve(run))["run"]
    assert (run["state"], run["cause"]) == ("failed", "not_started")
    assert "No such file or directory" in run["ended"]


async def test_no_shell_is_on_the_path(room, shared_broker, tmp_path):
    """POL-1: under strace the broker and everything it starts exec exactly the programs of the stages."""
    log = tmp_path / "trace"
    tracer = await asyncio.create_subprocess_exec(
        *["strace", "-f", "-qq", "-e", "trace=execve", "-o", str(log), "-p", str(shared_broker.pid)],
        stderr=subprocess.DEVNULL,
    )
    try:
        status = Path(f"/proc/{shared_broker.pid}/status")
        await until(lambda: "TracerPid:\t0\n" not in status.read_text(), "strace is attached")
        run = await room.propose(line="seq 3 | wc -l", wait=10)
        assert run["state"] == "done"
    finally:
        tracer.send_signal(signal.SIGINT)
        await tracer.wait()
    started = [line.split('"')[1] for line in log.read_text().splitlines() if "execve(" in line and " = 0" in line]
    assert sorted(started) == ["/usr/bin/seq", "/usr/bin/wc"]


async def test_every_run_is_announced_and_closed_in_the_audit_log(room):
    """LOG-2, LOG-5: intent before, outcome after, no secret of the command line in either."""
    secret = "ghp_abcdefghijklmnopqrstuvwxyz0123456789"
    run = await room.propose("echo", f"--token={secret}", "password=hunter22")
    run = (await room.approve(run, wait=10))["run"]
    records = await room.audit()
    (intent,) = [one for one in records if one.event == "command.run" and one.detail["run"] == run["id"]]
    (outcome,) = [one for one in records if one.intent == intent.seq]
    assert (outcome.detail["result"], outcome.detail["exit_code"]) == ("done", 0)
    assert outcome.seq > intent.seq
    assert secret not in json.dumps([one.detail for one in records])
    assert "hunter22" not in json.dumps([one.detail for one in records])
    assert await room.front.audit.verify() is None


async def test_history_is_searched_and_people_see_their_own(room):
    mine = await room.propose("echo", "needle", who="viewer", wait=5)
    theirs = await room.propose("echo", "haystack", who="admin", wait=5)
    found = (await room.ask("GET", "/api/commands?q=needle"))["runs"]
    assert [run["id"] for run in found] == [mine["id"]]
    assert [run["id"] for run in (await room.ask("GET", "/api/commands", "viewer"))["runs"]] == [mine["id"]]
    for path in ("", "/stream", "/output"):
        await room.ask("GET", f"/api/commands/{theirs['id']}{path}", "viewer", 404)
    older = (await room.ask("GET", f"/api/commands?before={theirs['created_at']}"))["runs"]
    assert theirs["id"] not in [run["id"] for run in older]


async def test_open_pages_are_told_of_the_runs_their_reader_may_see(room):
    """A viewer's page does not learn when others run something; an operator's does."""
    runs = {who: (await room.propose("echo", who, who=who, wait=5))["id"] for who in ("viewer", "admin")}
    for who, seen in (("viewer", {"viewer"}), ("operator", {"viewer", "admin"}), ("admin", {"viewer", "admin"})):
        told = {topic: data async for topic, data in first_events(room, who, "runs,approvals")}
        ids = {row["id"] for row in told["runs"]["changed"]}
        assert {name for name, run in runs.items() if run in ids} == seen
        assert told["approvals"].keys() == (set() if who == "viewer" else {"undecided", "words"})


async def first_events(room, who: str, topics: str) -> AsyncIterator[tuple[str, dict]]:
    """What an open page is shown first, of each topic."""
    path, left, name = f"/api/events?topics={topics}", len(topics.split(",")), ""
    async with room.front.ask("GET", path, room.cookies[who]) as response:
        async for line in lines(response.content):
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                yield name, json.loads(line[6:])
                left -= 1
                if not left:
                    return


async def test_what_a_stream_tells_can_be_resumed(room):
    run = await room.shell("for i in 1 2 3 4 5 6; do echo line $i; sleep 0.02; done")
    told = [(data["text"], id_) for name, data, id_ in await events(room, run["id"]) if name == "output"]
    assert "".join(text for text, _ in told) == "".join(f"line {n}\n" for n in range(1, 7))
    cut = len(told) // 2
    rest = await events(room, run["id"], after=told[cut - 1][1]) if cut else []
    assert [data["text"] for name, data, _ in rest if name == "output"] == [text for text, _ in told[cut:]]
    anywhere = await events(room, run["id"], after=told[-1][1] - 3)
    assert [data["text"] for name, data, _ in anywhere if name == "output"] == [told[-1][0]]


async def test_a_stream_follows_a_proposal_into_its_run(room):
    run = await room.propose("sh", "-c", "echo late")
    reading = asyncio.create_task(events(room, run["id"]))
    await asyncio.sleep(0)
    await room.approve(run, wait=10)
    seen = await asyncio.wait_for(reading, 10)
    states = [data["run"]["state"] for name, data, _ in seen if name == "state"]
    assert (states[0], states[-1]) == ("waiting", "done")
    assert [data["text"] for name, data, _ in seen if name == "output"] == ["late\n"]


async def test_two_hundred_readers_do_not_slow_the_run(room, shared_broker):
    """Readers that do not read hold nobody up: the run ends, and a good reader has everything."""
    cookies = [room.cookies["operator"]]
    for _ in range(6):
        cookies.append((await room.front.sign_in_as("operator"))[1])
    run = await room.shell("sleep 0.5; seq 30000; echo end", wait=0)
    readers = []
    for number in range(199):
        reader, writer = await room.front.raw()
        cookie = cookies[number // 30]
        writer.write(
            f"GET /api/commands/{run['id']}/stream HTTP/1.1\r\nHost: croft.localhost\r\nSec-Fetch-Site: same-origin\r\n"
            f"Cookie: __Host-croft={cookie}\r\n\r\n".encode()
        )
        readers.append((reader, writer))
    for reader, _ in readers:
        assert b"200 OK" in await asyncio.wait_for(reader.readline(), 20)
    began = time.monotonic()
    seen = await asyncio.wait_for(events(room, run["id"], cookie=cookies[-1]), 20)
    text = "".join(data["text"] for name, data, _ in seen if name == "output")
    assert text.endswith("30000\nend\n")
    assert time.monotonic() - began < 15
    for _, writer in readers:
        writer.close()


async def test_much_output_is_followed_by_readers_quick_and_slow(room):
    """As one file while it is written, to whoever asks; one that does not read holds up neither the run nor the others."""
    room.front.policy = limited(room, "output_kb = 32768")
    run = await room.shell("seq 1000000; seq 3 >&2; sleep 0.2; echo end", wait=0)
    path = f"/api/commands/{run['id']}/output"
    lazy, writer = await room.front.raw()
    writer.write(asked_for(f"{path}?follow=1", room.cookies["operator"]))
    out, err, both = await asyncio.gather(*(room.output(run["id"], query=q) for q in FOLLOWED))
    assert out == b"".join(b"%d\n" % number for number in range(1, 1_000_001)) + b"end\n"
    assert err == b"1\n2\n3\n"
    assert len(both) == len(out) + len(err)
    assert (await room.over(run["id"]))["state"] == "done"
    assert await room.output(run["id"]) == both
    await lazy.readuntil(b"\r\n\r\n")
    assert await unchunked(lazy) == both
    writer.write(asked_for(path, room.cookies["operator"], method="HEAD"))
    assert (await lazy.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")
    writer.write(asked_for(path, room.cookies["operator"], version="1.0"))
    assert (await lazy.read()).partition(b"\r\n\r\n")[2] == both
    writer.close()


FOLLOWED = ("?follow=1&stream=stdout", "?follow=1&stream=stderr", "?follow=1")


def asked_for(path: str, cookie: str, method: str = "GET", version: str = "1.1") -> bytes:
    return (
        f"{method} {path} HTTP/{version}\r\nHost: croft.localhost\r\nSec-Fetch-Site: same-origin\r\n"
        f"Cookie: __Host-croft={cookie}\r\n\r\n"
    ).encode()


async def unchunked(reader) -> bytes:
    """The content of a chunked answer (RFC 9112, 7.1)."""
    parts = []
    while size := int(await reader.readline(), 16):
        parts.append(await reader.readexactly(size))
        assert await reader.readexactly(2) == b"\r\n"
    assert await reader.readexactly(2) == b"\r\n"
    return b"".join(parts)


async def test_a_reader_that_goes_away_in_the_middle_is_let_go(room):
    """Nothing of it stays open, and the run goes on."""
    room.front.policy = limited(room, "output_kb = 32768")
    run = await room.shell("seq 1000000; sleep 0.2; seq 1000000; sleep 0.2", wait=0)
    before = descriptors()
    for _ in range(5):
        reader, writer = await room.front.raw()
        writer.write(asked_for(f"/api/commands/{run['id']}/output?follow=1", room.cookies["operator"]))
        assert b"200 OK" in await reader.readline()
        writer.transport.abort()
    assert (await room.over(run["id"]))["state"] == "done"
    assert len(await room.output(run["id"])) == 2 * 6_888_896
    await until(lambda: descriptors() <= before, "everything is closed")


@pytest.mark.parametrize("held", ["session", "token"])
async def test_a_download_ends_with_what_it_was_asked_with(room, held):
    """DECIDED 19, AUTH-9: within two seconds, though the run goes on."""
    front = room.front
    session, cookie = await front.sign_in_as("operator")
    user = await front.member("operator")
    wanted = checked("download", ("commands",), 1, Role.operator)
    token, text = await front.api_tokens.create(user, wanted, user.id, "page")
    bearer = {"Authorization": f"Bearer {text}", "Origin": None, "Sec-Fetch-Site": None}
    ask = partial(front.ask, **({"cookie": cookie} if held == "session" else {"headers": bearer}))
    async with ask("POST", "/api/commands", json={"argv": ["sh", "-c", "echo here; sleep 60"]}) as response:
        run = (await response.json())["run"]
    await room.approve(run)
    async with ask("GET", f"/api/commands/{run['id']}/output?follow=1") as response:
        assert await response.content.readany() == b"here\n"
        if held == "session":
            await front.sessions.end([session], "revoked", "test")
        else:
            await front.api_tokens.revoke([token], "test")
        with pytest.raises(ClientPayloadError):
            await asyncio.wait_for(response.content.readany(), 2)
    assert (await room.ask("GET", f"/api/commands/{run['id']}"))["run"]["state"] == "running"
    await room.ask("POST", f"/api/commands/{run['id']}/cancel", status=200)


async def test_downloads_count_as_open_streams(room, monkeypatch):
    """WEB-16: with the others of a session; one that has ended makes room."""
    monkeypatch.setattr("webui.streams.STREAMS_MAX", 1)
    run = await room.shell("echo here; sleep 60", wait=0)
    path = f"/api/commands/{run['id']}/output"
    async with room.front.ask("GET", f"{path}?follow=1", room.cookies["operator"]) as response:
        await response.content.readany()
        assert (await room.ask("GET", path, status=429))["error"]["code"] == "too_many_requests"
        await room.ask("POST", f"/api/commands/{run['id']}/cancel", status=200)
        assert await response.read() == b""
    assert await room.output(run["id"]) == b"here\n"


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_memory_is_flat_while_output_is_thrown_away(room):
    """A gigabyte beyond the cap costs no memory."""
    await room.shell("head -c 50000000 /dev/zero")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run = await room.shell("head -c 1000000000 /dev/zero")
    assert (run["state"], run["bytes"]) == ("done", 1_000_000_000)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 5 << 10


async def events(room, run: str, after: int = 0, cookie: str = "") -> list[tuple[str, dict, int | None]]:
    """Every event of a run's stream until it ends."""
    found, name, number = [], "", None
    headers = {"Last-Event-ID": str(after)} if after else {}
    path = f"/api/commands/{run}/stream"
    async with room.front.ask("GET", path, cookie or room.cookies["operator"], headers=headers) as response:
        assert response.status == 200
        async for line in lines(response.content):
            if line.startswith("id: "):
                number = int(line[4:])
            elif line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                found.append((name, json.loads(line[6:]), number))
                number = None
    return found


async def lines(content):
    """Lines of any length."""
    rest = b""
    async for chunk in content.iter_any():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.decode()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"argv": []},
        {"argv": ["true"], "line": "true"},
        {"stages": [["true"], []]},
        {"argv": ["true"], "cwd": "../out"},
        {"argv": ["true"], "cwd": "/etc"},
        {"argv": ["true"], "scope": "moon"},
        {"argv": ["true"], "view": "moon"},
        {"argv": ["x" * 60_000]},
        {"argv": [1]},
        {"line": 3},
    ],
)
async def test_a_malformed_request_is_refused_with_words(room, body):
    async with room.front.ask("POST", "/api/commands", room.cookies["operator"], json=body) as response:
        error = (await response.json())["error"]
        assert response.status in (400, 403), error
        assert error["message"]
