"""What the command prints, and where: nothing it was told drives a terminal, and no odd stream breaks it (WEB-15)."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.folders import short_folder

from appliance import cli
from appliance.settings import Paths

CHECKOUT = Path(__file__).resolve().parents[2]
EVIL = "\x1b]52;c;ZXZpbA==\x07\x9b2J\x90\x7f\u202e\u2066"


@pytest.fixture
def home() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


@contextmanager
def daemon(home: Path, *answers: bytes) -> Iterator[None]:
    """One that was taken over: gives ``answers``, a connection each."""
    path = Paths.under(home).socket("control")
    path.parent.mkdir(parents=True)
    with socket.create_server(str(path), family=socket.AF_UNIX) as server:
        server.settimeout(20)

        def run() -> None:
            for answer in answers:
                with server.accept()[0] as connection:
                    connection.recv(65536)
                    connection.sendall(answer)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65536):
                        pass  # a request that comes in two pieces is read to its end

        thread = threading.Thread(target=run)
        thread.start()
        yield
        thread.join(20)
        assert not thread.is_alive(), "it was not asked for everything"


def whole(body: Any, status: int = 200) -> bytes:
    text = json.dumps(body).encode()
    return b"HTTP/1.1 %d x\r\nContent-Length: %d\r\n\r\n%b" % (status, len(text), text)


def stream(*events: Any) -> bytes:
    text = b"".join(b"event: x\ndata: %b\n\n" % json.dumps(event).encode() for event in events)
    return b"HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(text), text)


def drives(text: str) -> bool:
    return any(not char.isprintable() and char != "\n" for char in text)


def test_json_drives_no_terminal(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And whoever reads it still gets every character."""
    log = {"lines": [{"text": EVIL}]}
    with daemon(
        home,
        whole({"users": [{"name": EVIL}]}),
        whole({"error": {"code": "x", "message": EVIL, "hint": EVIL}}, 403),
        whole(log),
        whole(log),
        stream({"text": EVIL}),
    ):
        for words, code in ((["users", "list"], 0), (["users", "list"], 1), (["services", "logs", "ide"], 0)):
            assert cli.main([*words, "--json", "--home", str(home)]) == code
            said = "".join(capsys.readouterr())
            assert not drives(said)
            assert json.dumps(EVIL)[1:-1].replace("\x7f", r"\u007f") in said
        assert cli.main(["services", "logs", "ide", "-f", "--json", "--home", str(home)]) == 0
        said = capsys.readouterr().out
        assert not drives(said)
        assert [json.loads(line)["text"] for line in said.splitlines()] == [EVIL, EVIL]


RUN = {
    "id": "r1", "state": "running", "exit_code": None, "signal": None, "truncated": False, "scope": "workspace",
    "stages": [["ls"]], "cwd": "", "reason": "", "rule": "", "hash": "",
}  # fmt: skip


def test_output_drives_no_terminal(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A daemon that was taken over sends what it should have filtered."""
    done = {"run": RUN | {"state": "done", "exit_code": 0}}
    with daemon(
        home, whole({"run": RUN}), stream({"stream": "stdout", "text": f"a{EVIL}\ud800b\n".replace("\x90", "")}, done)
    ):
        assert cli.main(["run", "--home", str(home), "--", "ls"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("a")
    assert said.endswith("b\n")
    assert not drives(said)


@pytest.mark.parametrize("rest", [b"0\r\n\r\n", b"", b'9\r\ndata: {"a\r\n', b'9\r\ndata: {"a\r\n0\r\n\r\n', b"9\r\nda"])
@pytest.mark.parametrize("state", ["running", "waiting"])
def test_a_run_out_of_sight_is_no_refusal(
    home: Path, capsys: pytest.CaptureFixture[str], rest: bytes, state: str
) -> None:
    """The daemon goes in the middle: said so, not taken for an end, and nothing is withdrawn."""
    begun = stream({"stream": "stdout", "text": "begun\n"}).removesuffix(b"0\r\n\r\n") + rest
    with daemon(home, whole({"run": RUN | {"state": state}}), begun):
        assert cli.main(["run", "--home", str(home), "--", "ls"]) == 1
    said = capsys.readouterr()
    assert said.out == ("begun\n" if state == "running" else "")
    assert "croft: Croft stopped answering" in said.err


def test_an_answer_out_of_sight_is_a_failure(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with daemon(home, whole({"conversation": {"id": "c"}}), whole({"answer": {"id": "a"}}), stream()):
        assert cli.main(["chat", "--home", str(home), "hello"]) == 1
    assert "croft: Croft stopped answering" in capsys.readouterr().err


def croft(script: str, *words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """The real command, called as ``$croft`` by a shell that has its own way with the streams."""
    clean = {"PATH": os.environ["PATH"], "PYTHONPATH": str(CHECKOUT), "HOME": "/nonexistent", "LANG": "C.UTF-8"}
    command = f"{sys.executable} -m appliance {' '.join(words)}"
    return subprocess.run(
        ["bash", "-c", script], capture_output=True, env={**clean, "croft": command, **environment}, timeout=60, check=False
    )  # fmt: skip


@pytest.mark.parametrize(
    ("script", "code", "said"),
    [
        ("(sleep 0.5; $croft) | true; exit ${PIPESTATUS[0]}", 130, b""),
        ("$croft > /dev/full", 1, b"croft: cannot go on: No space left on device\n"),
        ("$croft >&-", 0, b""),
        ("$croft <&-", 0, b""),
    ],
)
@pytest.mark.parametrize("flag", ["", "--json"])
def test_streams_that_take_nothing(script: str, code: int, said: bytes, flag: str) -> None:
    done = croft(script, "version", "" if b"cannot" in said else flag)
    assert done.returncode == code
    assert done.stderr.startswith(said) if said else done.stderr == b""


def test_a_question_without_any_input(home: Path) -> None:
    done = croft("$croft <&-", "chat", "--home", str(home), "hello")
    assert (done.returncode, done.stderr.splitlines()[0]) == (1, b"croft: Croft is not running")


@pytest.mark.parametrize("flag", ["", "--json"])
def test_an_output_without_the_letters(flag: str) -> None:
    asked = ("policy", "explain", flag, "--", "'echo \u0645\u200b'")
    done = croft(f"{sys.executable} -m appliance {' '.join(asked)}", PYTHONIOENCODING="ascii")
    assert done.returncode == 20
    assert b"\\u0645" in done.stdout
    assert not done.stderr


def test_what_is_no_text_is_refused_in_words(home: Path) -> None:
    for script, words in (
        ("printf '\\xff' | $croft", ("chat", "--home", str(home), "hello")),
        ("$croft $'\\xff'", ("run", "--home", str(home), "--", "ls")),
        ("$croft $'\\xff'", ("jobs", "pause", "--home", str(home))),
    ):
        done = croft(script, *words, PYTHONIOENCODING="utf-8:strict")
        assert (done.returncode, done.stderr.splitlines()[0]) == (1, b"croft: what was given is not text")
    for name in ("'a b'", "\u00e9", "$'a\\nb'"):
        for words in (("jobs", "pause"), ("chat", "hello", "--continue")):
            done = croft(f"$croft {name} </dev/null", words[0], words[1], "--home", str(home), *words[2:])
            assert done.stderr.splitlines()[0] == b"croft: Croft is not running"
