"""The file helper: what it does beneath the workspace and what no path makes it do."""

from __future__ import annotations

import base64
import json
import os
import socket
import threading
from pathlib import Path

import pytest

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="changing user needs root; the root pass of CI runs this")


class Files:
    """A plain client of one helper."""

    def __init__(self, fd: int) -> None:
        self.socket = socket.socket(fileno=fd)
        self.socket.settimeout(10)
        self._number = 0

    def __call__(self, op: str, fds: tuple[int, ...] = (), **arguments: object) -> dict:
        self._number += 1
        socket.send_fds(self.socket, [json.dumps({"id": self._number, "op": op, **arguments}).encode()], list(fds))
        answer = json.loads(self.socket.recv(65_536))
        assert answer["id"] == self._number
        return answer

    def code(self, op: str, **arguments: object) -> str:
        answer = self(op, **arguments)
        assert answer["ok"] is False, answer
        return answer["error"]["code"]

    def text(self, path: str) -> str:
        return base64.b64decode(self("read", path=path)["data"]).decode()


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.fixture
def files(broker):
    (fd,) = broker.call("files").fds
    found = Files(fd)
    yield found
    found.socket.close()


def helper_pid(home) -> int:
    record = json.loads((home.paths.run / "broker/processes.json").read_text())
    return next(row["pid"] for row in record["processes"] if row["kind"] == "files")


def test_write_read_list_stat(files, broker):
    assert files("write", path="a/b/c.txt", data=b64("hello"), folders=True)["size"] == 5
    assert files.text("a/b/c.txt") == "hello"
    first = files("stat", path="a/b/c.txt")
    assert (first["kind"], first["size"]) == ("file", 5)
    assert files.code("write", path="a/b/c.txt", data=b64("other")) == "exists"
    second = files("write", path="a/b/c.txt", data=b64("other!"), mode="replace", version=first["version"])
    assert files.code("write", path="a/b/c.txt", data=b64("x"), mode="replace", version=first["version"]) == "changed"
    assert files("read", path="a/b/c.txt", offset=2, length=3)["data"] == b64("her")
    assert second["version"] == files("stat", path="a/b/c.txt")["version"]
    assert [row["name"] for row in files("list", path="a/b")["entries"]] == ["c.txt"]
    on_disk = broker.paths.workspace / "a/b/c.txt"
    assert on_disk.stat().st_uid == broker.paths.workspace.stat().st_uid
    on_disk.chmod(0o755)
    files("write", path="a/b/c.txt", data=b64("#!"), mode="replace")
    assert on_disk.stat().st_mode & 0o777 == 0o755


def test_large_content_comes_by_descriptor_and_large_folders_in_parts(files, broker):
    memory = os.memfd_create("content")
    os.write(memory, b"x" * 300_000)
    assert files("write", fds=(memory,), path="big", mode="new")["size"] == 300_000
    os.close(memory)
    assert files("read", path="big", offset=299_990)["end"] is True
    many = broker.paths.workspace / "many"
    many.mkdir()
    for number in range(1000):
        (many / f"{number:04}-{'x' * 200}").touch()
    names, more = [], True
    while more:
        part = files("list", path="many", after=names[-1] if names else "")
        names += [row["name"] for row in part["entries"]]
        more = part["more"]
    assert names == sorted([entry.name for entry in os.scandir(many)])


@pytest.mark.parametrize(
    "path", ["../outside", "/etc/passwd", "out/passwd", "self/root/etc/passwd", "inner/../../outside", "chain/passwd"]
)
def test_no_path_leads_out(files, broker, path):
    workspace = broker.paths.workspace
    (broker.folder / "state" / "outside").write_text("secret")
    (workspace / "inner").mkdir()
    (workspace / "out").symlink_to("/etc")
    (workspace / "chain").symlink_to("out")
    (workspace / "self").symlink_to("/proc/self")
    assert files.code("read", path=path) in ("outside", "invalid")
    assert files.code("stat", path=path) in ("outside", "invalid")
    assert files.code("write", path=path, data=b64("x"), mode="replace") in ("outside", "invalid")
    assert (broker.folder / "state" / "outside").read_text() == "secret"


def test_links_inside_are_read_but_never_written_through(files, broker):
    files("write", path="real", data=b64("one"))
    (broker.paths.workspace / "link").symlink_to("real")
    assert files.text("link") == "one"
    assert files.code("write", path="link", data=b64("two"), mode="replace") == "invalid"
    assert files.text("real") == "one"


def test_pipes_and_devices_do_not_block_it(files, broker):
    os.mkfifo(broker.paths.workspace / "pipe")
    assert files.code("read", path="pipe") == "invalid"
    assert files.code("write", path="pipe", data=b64("x"), mode="replace") == "invalid"
    assert files.code("read", path="gone") == "not_found"
    assert files.code("read", path=".") == "invalid"
    assert files.code("write", path="x/..", data=b64("x")) == "invalid"
    assert files.code("write", path="new", data="!!!") == "invalid"
    assert files.code("exec", path="pipe") == "unknown_op"
    assert [entry.name for entry in os.scandir(broker.paths.workspace)] == ["pipe"]


def test_a_folder_swapped_for_a_link_gains_nothing(files, broker):
    workspace, done = broker.paths.workspace, threading.Event()
    outside = broker.folder / "state" / "target"
    outside.mkdir(mode=0o777)
    outside.chmod(0o777)
    (workspace / "work").mkdir(mode=0o777)
    (workspace / "work").chmod(0o777)
    (workspace / "evil").symlink_to(outside)

    def swap() -> None:
        work, side, evil = workspace / "work", workspace / "side", workspace / "evil"
        while not done.is_set():
            work.rename(side)
            evil.rename(work)
            work.rename(evil)
            side.rename(work)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        written = sum(files("write", path=f"work/{number}", data=b64("x"))["ok"] for number in range(300))
    finally:
        done.set()
        thread.join()
    assert written
    assert [entry.name for entry in os.scandir(outside)] == []


def test_a_path_that_is_missing_at_any_depth_leads_somewhere(files):
    """POL-9, POL-16: one that is made of a thousand names must not end who judges paths."""
    files("write", path="here/file", data=b64("x"), folders=True)
    deep = "/".join(["no"] * 1300)
    found = files("resolve", paths=[f"here/{deep}", deep, "here/file/no", "here/../no", "a/../no"])["paths"]
    assert found[0] == {"path": f"here/{deep}", "kind": "missing"}
    assert found[1] == {"path": deep, "kind": "missing"}
    assert found[2] == {"code": "invalid"}
    assert found[3] == {"path": "no", "kind": "missing"}
    assert found[4] == {"code": "not_found"}
    assert files("stat", path="here/file")["size"] == 1


@root_only
def test_the_helper_has_no_privilege_network_or_children(files, broker):
    files("stat", path=".")
    pid = helper_pid(broker)
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    assert status["Uid"].split() == [str(broker.paths.workspace.stat().st_uid)] * 4
    assert all(int(status[kind], 16) == 0 for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"))
    assert status["NoNewPrivs"] == "1"
    assert str(Path(f"/proc/{pid}/ns/net").readlink()) != str(Path("/proc/self/ns/net").readlink())
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert "Max processes             0                    0" in limits
    assert sum(1 for _ in os.scandir(f"/proc/{pid}/fd")) == 4


def test_helpers_are_bounded_and_end_with_their_client(broker, poll):
    sockets = [socket.socket(fileno=broker.call("files").fds[0]) for _ in range(4)]
    pid = helper_pid(broker)
    with pytest.raises(Exception, match="too many"):
        broker.call("files")
    for one in sockets:
        one.close()
    poll(lambda: not Path(f"/proc/{pid}").exists())
    poll(lambda: json.loads((broker.paths.run / "broker/processes.json").read_text())["processes"] == [])
