"""Rehearsals elsewhere: as an ordinary person, across restarts of the broker, and where the kernel cannot."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.broker import ROOT, Home, end_home
from support.rehearsals import merge, picture, rehearse
from support.waiting import poll

from appliance.broker import kernel
from appliance.broker.client import BrokerError

pytestmark = pytest.mark.skipif(not ROOT, reason="needs root, as CI has it")


@pytest.fixture
def person(names: dict[str, str]) -> Iterator[Home]:
    """A broker of an ordinary account, with a file in its workspace; not started."""
    folder = Path(tempfile.mkdtemp(prefix="croft-b-", dir="/tmp"))
    made = Home(folder, names, person=names["workspace"])
    made.configure()
    for path in (folder, *folder.rglob("*")):
        shutil.chown(path, names["workspace"], names["workspace"])
    yield made
    end_home(made)


def test_without_root_a_rehearsal_runs_in_a_user_namespace(person: Home) -> None:
    """Or says plainly why it cannot, where the kernel's policy forbids user namespaces; then nothing has run."""
    person.start()
    person.workspace_file("readme", "one\n", 0o644)
    before = picture(person.paths.workspace)
    script = "echo two >> readme; mkdir made; echo x > made/y; echo x > ~/mark; setsid -f sleep 61.5; kill -9 -1; id -u"
    try:
        result = rehearse(person, script)
    except BrokerError as error:
        refused = (error.code, error.message.partition(": ")[0])
    else:
        refused = None
    if refused:
        assert refused == ("no_view", "rehearsal is not available")
        assert picture(person.paths.workspace) == before
        return
    assert picture(person.paths.workspace) == before
    assert result.changes == {"readme": ("file", "file"), "made": ("", "folder"), "made/y": ("", "file")}
    assert result.output.split()[-1] == str(person.paths.workspace.stat().st_uid)
    assert merge(person, result)["conflicts"] == []
    assert (person.paths.workspace / "readme").read_text() == "one\ntwo\n"
    assert merge(person, result, "before")["conflicts"] == []
    assert picture(person.paths.workspace) == before
    assert not [one for one in Path("/proc").glob("[0-9]*/cmdline") if b"61.5" in _read(one)]


def test_a_kernel_that_will_not_is_named_and_nothing_runs(person: Home) -> None:
    """A machine whose limit of user namespaces is none, as some distributions have it; plain runs go on."""
    person.start(inside=_in_a_place_without_user_namespaces)
    person.workspace_file("readme", "one\n", 0o644)
    os.seteuid(person.paths.workspace.stat().st_uid)  # the only account that the broker knows in there
    try:
        with pytest.raises(BrokerError, match="rehearsal is not available: cannot separate a view of the") as told:
            rehearse(person, "echo x > readme")
        plain = person.call("spawn", argv=["true"])
    finally:
        os.seteuid(0)
    for fd in plain.fds:
        os.close(fd)
    assert told.value.code == "no_view"
    assert (person.paths.workspace / "readme").read_text() == "one\n"


def _in_a_place_without_user_namespaces() -> None:
    uid, gid = os.geteuid(), os.getegid()
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # the change of user just before took /proc/self away
    kernel.unshare(kernel.CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    Path("/proc/sys/user/max_user_namespaces").write_text("0")


def test_what_a_broker_leaves_that_is_killed_is_swept(broker: Home) -> None:
    """R1: the next broker ends the run and its view; their result is gone and said to be."""
    reply = broker.call("spawn", argv=["sleep", "61.75"], view="rehearsal")
    for fd in reply.fds:
        os.close(fd)
    broker.kill()
    broker.start()
    run = reply.data["run"]
    broker.call("kill", run=run)
    poll(lambda: not broker.call("runs").data["runs"], "the run is gone")
    poll(lambda: not [one for top in broker.cgroups() for one in top.glob("view-*")], "its view is gone", 40)
    with pytest.raises(BrokerError, match="nothing is left of this rehearsal"):
        broker.call("rehearsal", run=run)
    assert not [one for one in Path("/proc").glob("[0-9]*/cmdline") if b"61.75" in _read(one)]
    assert rehearse(broker, "echo x > fresh").changes == {"fresh": ("", "file")}


def test_a_result_is_taken_once_and_not_before_the_end(broker: Home) -> None:
    reply = broker.call("spawn", argv=["sleep", "30"], view="rehearsal")
    for fd in reply.fds:
        os.close(fd)
    with pytest.raises(BrokerError) as early:
        broker.call("rehearsal", run=reply.data["run"])
    assert early.value.code == "not_over"
    broker.call("kill", run=reply.data["run"])
    result = rehearse(broker, "echo x > fresh")
    with pytest.raises(BrokerError, match="nothing is left"):
        broker.call("rehearsal", run=result.run)


def test_more_rehearsals_than_there_is_room_for_are_refused(broker: Home) -> None:
    """They lie in memory: four at once."""
    held = [broker.call("spawn", argv=["sleep", "30"], view="rehearsal") for _ in range(4)]
    for reply in held:
        for fd in reply.fds:
            os.close(fd)
    with pytest.raises(BrokerError, match="4 rehearsals are held already"):
        broker.call("spawn", argv=["true"], view="rehearsal")
    assert broker.call("spawn", argv=["true"]).data["run"]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
