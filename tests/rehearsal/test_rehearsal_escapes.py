"""What a hostile command can do in a rehearsal: nothing real, and nothing without a bound. By a real broker as root."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.broker import ROOT, Home, end_home
from support.rehearsals import merge, picture, rehearse
from support.waiting import poll

pytestmark = pytest.mark.skipif(not ROOT, reason="needs root, as CI has it")


@pytest.fixture(scope="module")
def shared(names: dict[str, str]) -> Iterator[Home]:
    """One broker for all examples: each leaves the workspace as it was. Not beneath /tmp, which a view covers."""
    folder = Path(tempfile.mkdtemp(prefix="croft-r-", dir="/var/lib"))
    folder.chmod(0o755)
    made = Home(folder, names)
    try:
        made.start()
        made.workspace_file("precious", "precious\n", 0o644)
        yield made
    finally:
        end_home(made)


ESCAPES = {
    "a link out of the workspace": "ln -s $HOME/mark out; echo x > out; ln -s /tmp tmp; echo x > tmp/mark",
    "dots": "echo x > ../mark; echo x > ../../mark; cd ..; rm -rf workspace/precious",
    "the root of a process": "echo x > /proc/self/root$PWD/precious; echo x > /proc/1/root$PWD/precious",
    "the folder of a process": "for one in /proc/[0-9]*; do echo x > $one/cwd/precious; echo x > $one/root$PWD/precious; done",
    "hard links": "ln precious linked; echo x > linked; ln /etc/hostname stolen",
    "marks of the overlay": (
        'python3 -c "import os\n'
        "for name in ('trusted.overlay.redirect', 'user.overlay.redirect', 'trusted.overlay.opaque', 'user.overlay.opaque'):\n"
        " try: os.setxattr('.', name, b'/etc')\n"
        ' except OSError: pass"'
    ),
    "a mount": "unshare -rm sh -c 'umount $PWD; umount -l $PWD; mount -t tmpfs none /mnt; mount -o remount,rw /; echo x > precious'",
    "a way up by its own namespace": "unshare -rm sh -c 'mount --bind / /mnt; echo x > /mnt$PWD/precious'",
    "chroot": 'unshare -r chroot / sh -c "echo x > $PWD/precious"',
    "a device": "mknod disk b 8 0; unshare -r mknod disk b 8 0; mknod zero c 1 5",
    "another place": "for one in /etc /usr /var /var/lib /opt /srv /mnt /root /home /run /dev/mqueue; do echo x > $one/mark; done",
    "setuid": "cp /bin/sh sh; chmod 4755 sh; ./sh -p -c id; su -c id; mount",
}


@pytest.mark.parametrize("script", ESCAPES.values(), ids=ESCAPES)
def test_nothing_real_changes(shared: Home, script: str) -> None:
    """SYS-2, POL-9: whatever is tried, the workspace, the home and the machine stay as they are."""
    before = _everything(shared)
    rehearse(shared, f"( {script} ) 2>&1; true")
    assert _everything(shared) == before
    assert not [
        place for place in ("/tmp", "/etc", "/var", "/var/lib", "/run", "/dev/shm") if Path(place, "mark").exists()
    ]


def _everything(home: Home) -> list[object]:
    return [picture(home.paths.workspace), picture(home.paths.ide_home), sorted(home.paths.state.iterdir())]


def test_home_and_temporary_files_are_copies_that_are_thrown_away(shared: Home) -> None:
    script = "echo x > ~/mark && echo x > /tmp/mark && echo x > /var/tmp/mark && echo x > /dev/shm/mark && cat ~/mark /tmp/mark"
    result = rehearse(shared, script)
    assert result.output == "x\nx\n"
    assert result.changes == {}
    assert not (shared.paths.ide_home / "mark").exists()
    again = rehearse(shared, "cat ~/mark /tmp/mark 2>&1 || echo gone")
    assert again.output.endswith("gone\n"), "each rehearsal begins anew"


def test_there_is_no_network_but_its_own_loopback(shared: Home) -> None:
    """Neither the machine's loopback nor the world."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0croft-{os.getpid()}")
        abstract.listen()
        name = f"\\0croft-{os.getpid()}"
        tried = [("socket.AF_INET", f"('127.0.0.1', {listener.getsockname()[1]})"), ("socket.AF_UNIX", f"'{name}'")]
        tried.append(("socket.AF_INET", "('192.0.2.1', 80)"))
        tries = "".join(
            f"try:\n s = socket.socket({family}); s.settimeout(2); s.connect({to}); print('reached')\n"
            "except OSError as error: print(type(error).__name__)\n"
            for family, to in tried
        )
        own = "l = socket.create_server(('127.0.0.1', 0)); socket.create_connection(l.getsockname()); print('own')"
        shared.workspace_file("net.py", f"import socket\n{tries}{own}\n")
        said = rehearse(shared, "python3 net.py; ls /sys/class/net").output.split()
    assert "reached" not in said
    assert "own" in said


def test_sockets_of_the_machine_and_the_workspace_do_not_answer(shared: Home) -> None:
    """A socket would lead to the editor, which runs outside: hidden where Croft's lie, dead in the copies."""
    with socket.socket(socket.AF_UNIX) as inside, socket.socket(socket.AF_UNIX) as home:
        places = (shared.paths.workspace / "s.sock", shared.paths.ide_home / "s.sock")
        for one, place in zip((inside, home), places, strict=True):
            one.bind(str(place))
            one.listen()
            place.chmod(0o777)
        try:
            listed = [*map(str, places), str(shared.paths.socket("editor")), str(shared.paths.socket("broker"))]
            shared.workspace_file(
                "sock.py",
                f"import socket\nfor place in {listed!r}:\n"
                " try: socket.socket(socket.AF_UNIX).connect(place); print('reached', place)\n"
                " except OSError as error: print(type(error).__name__)\n",
            )
            said = rehearse(shared, f"python3 sock.py; ls -A {shared.paths.run} | wc -l").output
        finally:
            for place in places:
                place.unlink()
    assert "reached" not in said
    assert said.splitlines()[-1] == "0", "Croft's sockets are not even seen"


def test_no_process_outside_is_seen_or_signalled(shared: Home, names: dict[str, str]) -> None:
    """A process of the same user would be a way out: by its root, by ptrace, by kill."""
    with subprocess.Popen(["sleep", "60"], user=names["workspace"], group=names["workspace"]) as bystander:
        said = rehearse(shared, f"ls -d /proc/[0-9]* | wc -l; kill -9 {bystander.pid}; kill -9 -1; true").output
        assert int(said.split()[0]) <= 5
        assert bystander.poll() is None
        bystander.kill()


@pytest.mark.parametrize("place", [".", "$HOME", "/tmp", "/dev/shm"])
def test_a_full_disk_in_the_view_is_bounded(shared: Home, place: str) -> None:
    """The copies share one disk in memory of fixed size, whatever the run's own bound of memory is."""
    before = picture(shared.paths.workspace)
    script = f"yes > {place}/big 2>/dev/null; stat -c %s {place}/big; rm -f {place}/big"
    result = rehearse(shared, script, memory_mb=1024)
    assert result.changes == {}
    assert 1 << 20 < int(result.output.split()[-1]) <= 256 << 20
    assert picture(shared.paths.workspace) == before


def test_memory_and_processes_are_those_of_any_run(shared: Home) -> None:
    """SYS-5: what is written counts as memory of the run; a fork bomb dies with it."""
    before = picture(shared.paths.workspace)
    rehearse(shared, "yes > big", memory_mb=48, seconds=10)
    rehearse(shared, "bomb() { bomb | bomb & }; bomb; sleep 30", pids=40, seconds=2)
    rehearse(shared, "setsid -f sleep 61.25; exit 0")
    assert picture(shared.paths.workspace) == before
    assert not [one for one in Path("/proc").glob("[0-9]*/cmdline") if b"61.25" in _read(one)]


def test_views_are_bounded_in_number_and_leave_nothing_behind(shared: Home) -> None:
    """No mount, no process, no group, no descriptor of a view outlives its result."""
    rehearse(shared, "true")
    poll(lambda: not _views(shared), "the first one's groups are gone", 10)
    mounts, fds = Path("/proc/mounts").read_text(), _descriptors(shared)
    for _ in range(6):
        rehearse(shared, "echo x > fresh")
    poll(lambda: _descriptors(shared) == fds, "descriptors are closed", 10)
    assert Path("/proc/mounts").read_text() == mounts
    poll(lambda: not _views(shared), "groups are gone", 10)


def test_a_hidden_file_of_the_merge_is_no_way_in(shared: Home) -> None:
    """A link where the merge stages its files leads nowhere."""
    result = rehearse(shared, "echo new > fresh")
    staging = shared.paths.workspace / f".croft-rehearsal-{result.run}"
    staging.symlink_to("/tmp")
    try:
        with pytest.raises(AssertionError, match="cannot use the file"):
            merge(shared, result)
        assert not (shared.paths.workspace / "fresh").exists()
        assert not Path("/tmp/0").exists()
    finally:
        staging.unlink()


def _views(home: Home) -> list[Path]:
    return [one for top in home.cgroups() for one in top.glob("view-*")]


def _descriptors(home: Home) -> int:
    return len(list(Path(f"/proc/{home.pid}/fd").iterdir()))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
