"""C1, C2, C5: what a command costs over HTTP, against the same program started directly, and how fast its output streams."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path

from measure import Figure, NotRun, free_port, interleave, medians, ratio, wait_for

from appliance.database import migrations
from appliance.settings import Paths

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT / "tests"))

from support.accounts import throwaway_accounts  # noqa: E402
from support.broker import home_folder  # noqa: E402
from support.daemon import POLICY, Daemon  # noqa: E402

CALLS = 10  # a round; all rounds together stay below the budget of 120 a minute
BYTES = 400 << 20
LINES = 1_000_000
INSERT = "INSERT INTO audit (at, uptime, boot_id, event, actor, detail, intent, hash) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
NAIVE_LINES = 50_000

# Straight from one pipe to one client, an event for each line: what C5's second ratio is against.
NAIVE = """
import asyncio, json, sys
from aiohttp import web

async def stream(request):
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    process = await asyncio.create_subprocess_exec("seq", sys.argv[2], stdout=asyncio.subprocess.PIPE)
    async for line in process.stdout:
        data = json.dumps({"stream": "stdout", "text": line.decode()})
        await response.write(f"event: output\\ndata: {data}\\n\\n".encode())
    await process.wait()
    return response

app = web.Application()
app.router.add_get("/", stream)
web.run_app(app, path=sys.argv[1], print=None)
"""


class _Unix(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=120)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@contextmanager
def _daemon(rule: str = "") -> Iterator[Daemon]:
    with throwaway_accounts("m") as names, home_folder(names) as home:
        home.start()
        with Daemon.beside(home, POLICY + rule) as daemon:
            yield daemon


def _call(connection: _Unix, argv: list[str], wait: float = 20.0) -> dict[str, object]:
    return dict(_post(connection, "/api/commands", {"argv": argv, "wait": wait})["run"])


def _post(connection: _Unix, path: str, body: dict[str, object]) -> dict[str, dict[str, object]]:
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    said: dict[str, dict[str, object]] = json.loads(answer.read())
    if answer.status != 201:
        raise NotRun(f"the command was not run: {said}")
    return said


def one_command(rounds: int) -> list[Figure]:
    """C1, and C2 against a new ssh connection where there is an sshd.

    Measured, each as the median of CALLS in a row, variants in turn: ``HTTP``, from sending ``POST /api/commands`` (argv
    ``true``, on a kept connection to the control socket) to the answer with the exit status, by which time both audit records
    and the row of the run are on disk; ``direct``, ``subprocess.run(["true"])`` with its output captured; ``writes``, the
    two audit records that such a run leaves, each in a transaction of its own with ``synchronous=FULL``, inserted by SQLite
    alone into the same tables in the same folder; ``bare``, the same call of a server that does these steps and nothing else
    (bare.py); ``ssh``, ``ssh HOST true`` to an sshd on the loopback, with a key and no PAM.
    """
    with _daemon() as daemon, _ssh() as ssh, _bare() as bare:
        connection = _Unix(daemon.broker.paths.socket("control"))

        def over_http() -> float:
            return _median(lambda: _done(_call(connection, ["true"])))

        def direct() -> float:
            return _median(lambda: subprocess.run(["true"], capture_output=True, check=True))

        over_http()
        store, rows = _audit_of_its_own(daemon.broker.paths)

        def two_writes() -> float:
            return _median(lambda: [store.execute(INSERT, row) for row in rows])

        variants = {"HTTP": over_http, "direct": direct, "writes": two_writes, "bare": bare} | (
            {"ssh": ssh} if ssh else {}
        )
        found = interleave(variants, rounds)
        store.close()
    found["direct and writes"] = [a + b for a, b in zip(found["direct"], found["writes"], strict=True)]
    detail = {f"{name}, ms": value * 1000 for name, value in medians(found).items()}
    detail["bare / direct and writes"] = ratio(found, "bare", "direct and writes")
    figures = [
        Figure("C1", "HTTP call that runs true / subprocess.run and two synced writes", 1.6, 1.3, True,
               ratio(found, "HTTP", "direct and writes"), detail=detail)
    ]  # fmt: skip
    goal = ("C2", "the same / a new ssh connection", 1 / 140, 1 / 180, True)
    if ssh:
        return [*figures, Figure(*goal, ratio(found, "HTTP", "ssh"))]
    return [*figures, Figure(*goal, why="there is no sshd here")]


def _audit_of_its_own(paths: Paths) -> tuple[sqlite3.Connection, list[tuple[object, ...]]]:
    """A store beside the daemon's with the same tables, and the two records that the last run left in the daemon's."""
    with closing(sqlite3.connect(f"file:{paths.database}?mode=ro", uri=True)) as daemons:
        rows = daemons.execute(
            "SELECT at, uptime, boot_id, event, actor, detail, intent, hash FROM audit "
            "WHERE event IN ('command.run', 'outcome') ORDER BY seq DESC LIMIT 2"
        ).fetchall()
    store = sqlite3.connect(paths.state / "bench.db", isolation_level=None)
    store.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")
    store.executescript("".join(sql for _, _, sql in migrations()))
    return store, rows[::-1]


def streaming(rounds: int) -> list[Figure]:
    """C5: bytes as ``cmd | cat`` passes them, and lines in events.

    Bytes: from asking for the command until the last byte is in the client's memory, its record on the disk included; against
    starting both programs until both have ended, the output thrown away. Lines: the same of an event stream, against a plain
    server with an event for each line. Both answers are read by the same client in pieces of up to 1 MiB and not looked at.
    """
    rule = """
[[rule]]
id = "zeros"
bin = "head"
exec = "/usr/bin/head"
flags = ["-c int(1..1000000000)"]
args = ["enum(/dev/zero)"]
dashes = "none"
mode = "auto"
limits = { output_kb = 524288, parallel = 12 }
[[rule]]
id = "lines"
bin = "seq"
exec = "/usr/bin/seq"
args = ["int(1000000..1000000)"]
mode = "auto"
limits = { output_kb = 524288, parallel = 12 }
"""
    policy = POLICY.replace('bin = "seq"', 'bin = "seq-not"')
    with throwaway_accounts("m") as names, home_folder(names) as home:
        home.start()
        with Daemon.beside(home, policy + rule) as daemon, _naive(home.folder) as naive:
            connection = _Unix(home.paths.socket("control"))

            def bytes_over_http() -> float:
                began = time.perf_counter()
                run = _call(connection, ["head", "-c", str(BYTES), "/dev/zero"], 0)
                count = _drain(home.paths.socket("control"), f"/api/commands/{run['id']}/output?follow=1")
                if count != BYTES:
                    raise NotRun(f"{count} of {BYTES} bytes came")
                return BYTES / (time.perf_counter() - began)

            def bytes_to_cat() -> float:
                began = time.perf_counter()
                first = subprocess.Popen(["head", "-c", str(BYTES), "/dev/zero"], stdout=subprocess.PIPE)
                subprocess.run(["cat"], stdin=first.stdout, stdout=subprocess.DEVNULL, check=True)
                first.wait()
                return BYTES / (time.perf_counter() - began)

            def lines_over_http() -> float:
                began = time.perf_counter()
                run = _call(connection, ["seq", str(LINES)], 0)
                _drain(home.paths.socket("control"), f"/api/commands/{run['id']}/stream")
                return LINES / (time.perf_counter() - began)

            def line_by_line() -> float:
                began = time.perf_counter()
                _drain(naive, "/")
                return NAIVE_LINES / (time.perf_counter() - began)

            found = interleave(
                {"bytes": bytes_over_http, "cat": bytes_to_cat, "lines": lines_over_http, "events": line_by_line},
                rounds,
            )
            grown = _growth(daemon, connection)
    detail = {f"{name}/s": value for name, value in medians(found).items()}
    return [
        Figure("C5", "streamed bytes / cmd | cat", 0.45, 0.60, False, ratio(found, "bytes", "cat"), detail=detail),
        Figure("C5b", "lines of a million / one event a line", 60, 100, False, ratio(found, "lines", "events")),
        Figure("C5c", "daemon memory grown while 1 GB is thrown away, MB", 5, 1, True, grown),
    ]


def _growth(daemon: Daemon, connection: _Unix) -> float:
    def peak() -> float:
        text = Path(f"/proc/{daemon.process.pid}/status").read_text()
        return int(text.split("VmHWM:")[1].split()[0]) / 1024

    before = peak()
    for _ in range(2):
        _call(connection, ["head", "-c", "1000000000", "/dev/zero"], 60)
    return peak() - before


def _drain(path: Path, target: str) -> int:
    connection = _Unix(path)
    connection.request("GET", target)
    answer, count, place = connection.getresponse(), 0, bytearray(1 << 20)
    while size := answer.readinto(place):
        count += size
    connection.close()
    return count


def _done(run: dict[str, object]) -> None:
    if run["state"] != "done":
        raise NotRun(f"the run ended as {run['state']}")


def _median(work: object) -> float:
    spent = []
    for _ in range(CALLS):
        began = time.perf_counter()
        work()  # type: ignore[operator]
        spent.append(time.perf_counter() - began)
    return statistics.median(spent)


@contextmanager
def _naive(folder: Path) -> Iterator[Path]:
    path = folder / "naive.sock"
    process = subprocess.Popen([sys.executable, "-c", NAIVE, str(path), str(NAIVE_LINES)])
    try:
        wait_for(path.exists, "the plain server", 20)
        yield path
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _bare() -> Iterator[Callable[[], float]]:
    """A function that has the bare server run ``true``, in seconds."""
    folder = Path(tempfile.mkdtemp(prefix="croft-bare-"))
    process = subprocess.Popen([sys.executable, str(Path(__file__).with_name("bare.py")), str(folder)])
    try:
        wait_for((folder / "bare.sock").exists, "the bare server", 20)
        connection = _Unix(folder / "bare.sock")
        yield lambda: _median(lambda: _post(connection, "/", {"argv": ["true"]}))
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder)


@contextmanager
def _ssh() -> Iterator[object]:
    """A function that runs ``true`` over a new ssh connection, in seconds; None without an sshd."""
    program = shutil.which("sshd") or "/usr/sbin/sshd"
    if not (os.geteuid() == 0 and Path(program).exists() and shutil.which("ssh")):
        yield None
        return
    folder, port = Path(tempfile.mkdtemp(prefix="croft-ssh-")), free_port()
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    (folder / "authorized").write_bytes((folder / "user.pub").read_bytes())
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    options = {
        "Port": port, "ListenAddress": "127.0.0.1", "HostKey": folder / "host", "AuthorizedKeysFile": folder / "authorized",
        "StrictModes": "no", "UsePAM": "no", "PidFile": "none", "PermitRootLogin": "yes",
    }  # fmt: skip
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    server = subprocess.Popen([program, "-D", "-e", "-f", "/dev/null", *words], stderr=subprocess.DEVNULL)
    client = [
        "ssh", "-p", str(port), "-i", str(folder / "user"), "-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes",
        "-o", f"UserKnownHostsFile={folder / 'known'}", "-o", "LogLevel=ERROR", "root@127.0.0.1", "true",
    ]  # fmt: skip

    def once() -> float:
        began = time.perf_counter()
        subprocess.run(client, check=True, capture_output=True)
        return time.perf_counter() - began

    try:
        wait_for(lambda: subprocess.run(client, check=False, capture_output=True).returncode == 0, "sshd", 20)
        yield once
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder)
