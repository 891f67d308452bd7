"""Whole Debian systems for the installer's tests: a plain one without systemd as PID 1, and a booted one with it.

Rule: nothing of this touches the host but a network link and address-translation rules of its own, which it removes
again.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("CROFT_TEST_CACHE", "/var/tmp/croft-tests"))
CA = Path("/etc/ssl/certs/ca-certificates.crt")
_TRUST = {
    "PIP_CERT": "/root/ca.crt",
    "NODE_EXTRA_CA_CERTS": "/root/ca.crt",
    "npm_config_cafile": "/root/ca.crt",
    "PIP_DEFAULT_TIMEOUT": "180",
}
_PACKAGES = {
    "bookworm": "ca-certificates,iproute2,procps,curl",
    "trixie": "systemd,systemd-sysv,dbus,udev,ca-certificates,iproute2,procps,openssh-server,openssh-client",
}


def run(*argv: str, timeout: float = 900, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a program of the host."""
    return subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=check, stdin=subprocess.DEVNULL)


def base(suite: str) -> Path:
    """The unpacked base system of ``suite``, made once and kept in CACHE."""
    CACHE.mkdir(parents=True, exist_ok=True)
    tree = CACHE / f"debian-{suite}"
    with (CACHE / f"{suite}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (tree / ".complete").exists():
            shutil.rmtree(tree, ignore_errors=True)
            run("debootstrap", "--variant=minbase", f"--include={_PACKAGES[suite]}", suite, str(tree), _mirror())
            (tree / ".complete").touch()
    return tree


def _mirror() -> str:
    """The package mirror this machine is configured for."""
    lists = [*Path("/etc/apt/sources.list.d").glob("*"), Path("/etc/apt/sources.list")]
    words = [word for path in lists if path.is_file() for word in path.read_text("utf-8").split()]
    return next(
        word
        for word in words
        if word.startswith("http") and "/debian" in word and "security" not in word and "snapshot" not in word
    )


def ide_bundle() -> Path:
    """A bundle for --ide-bundle, from the tree in CROFT_TEST_IDE, pruned as the installer prunes."""
    tree = Path(os.environ.get("CROFT_TEST_IDE", "/opt/croft/ide"))
    assert (tree / "node/bin/node").exists(), f"set CROFT_TEST_IDE to a tree with node/ and code/; {tree} has none"
    bundle = CACHE / "ide-bundle.tar"
    with (CACHE / "ide.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not bundle.exists() or bundle.stat().st_mtime < (tree / "node/bin/node").stat().st_ctime:
            _pack(tree, bundle)
    return bundle


def _pack(tree: Path, bundle: Path) -> None:
    from appliance.host.install.prune import prune

    work = CACHE / "ide-work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    run("cp", "-a", "--reflink=auto", str(tree / "node"), str(tree / "code"), str(work))
    prune(work)
    run("tar", "-C", str(work), "-cf", f"{bundle}.new", "node", "code")
    Path(f"{bundle}.new").rename(bundle)
    shutil.rmtree(work)


class Machine:
    """One disposable system in ``tree``, whose name tells several machines apart."""

    def __init__(self, suite: str, tree: Path) -> None:
        self.tree, self.name = tree, f"{tree.name[:4]}{os.getpid() % 100000}"  # with ve- before it a link's name
        run("cp", "-a", "--reflink=auto", str(base(suite)), str(tree))
        (tree / "etc/resolv.conf").unlink(missing_ok=True)
        shutil.copy("/etc/resolv.conf", tree / "etc/resolv.conf")
        shutil.copy(CA, tree / "root/ca.crt")
        shutil.copy(ide_bundle(), tree / "ide.tar")
        self.copy_source()

    def copy_source(self) -> None:
        """The checkout's own files at /src, as a clone would have them."""
        listed = run("git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard").stdout
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():
                target = self.tree / "src" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, target)

    def command(self, *argv: str) -> list[str]:
        """The host's command line that runs ``argv`` inside, without a booted init."""
        settings = [f"--setenv={key}={value}" for key, value in _TRUST.items()]
        return [
            "systemd-nspawn",
            "-q",
            "-D",
            str(self.tree),
            "--keep-unit",
            "--register=no",
            f"--machine={self.name}",
            "--resolv-conf=off",
            "--as-pid2",
            "--chdir=/src",
            "--pipe",
            *settings,
            *_apt_cache(self.tree),
            *argv,
        ]

    def do(self, *argv: str, check: bool = True, timeout: float = 900) -> subprocess.CompletedProcess[str]:
        """Run ``argv`` inside; on failure its output is in the error."""
        done = run(*self.command(*argv), check=False, timeout=timeout)
        said = done.stdout[-6000:] + done.stderr[-3000:]
        assert not check or done.returncode == 0, f"{argv} ended with {done.returncode}:\n{said}"
        return done


class Booted(Machine):
    """The same with systemd as PID 1, a network of its own (``network`` are its first three numbers), and reboots."""

    def __init__(self, suite: str, tree: Path, network: str = "10.88.25", calls: str = "") -> None:
        """``calls``: system calls that it may make beyond the usual ones."""
        super().__init__(suite, tree)
        self.network, self._calls = network, f"add_key keyctl bpf {calls}".strip()
        file = tree / "etc/systemd/network/10-host.network"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(
            f"[Match]\nName=host0\n[Network]\nAddress={network}.2/24\nGateway={network}.1\nLinkLocalAddressing=no\n"
        )
        run("systemctl", f"--root={tree}", "enable", "systemd-networkd.service")
        self._process: subprocess.Popen[bytes] | None = None
        self.init = 0

    def boot(self) -> None:
        """Start it and wait until systemd says it is up."""
        with (self.tree.parent / f"{self.tree.name}.console").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    "systemd-nspawn",
                    "-q",
                    "-D",
                    str(self.tree),
                    "--boot",
                    f"--machine={self.name}",
                    "--keep-unit",
                    "--register=no",
                    "--resolv-conf=off",
                    f"--system-call-filter={self._calls}",
                    "--network-veth",
                    *_apt_cache(self.tree),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            )
        link = f"ve-{self.name}"
        wait(lambda: Path(f"/sys/class/net/{link}").exists(), "the network link", 20)
        run("ip", "addr", "replace", f"{self.network}.1/24", "dev", link)
        run("ip", "link", "set", link, "up")
        wait(self._find_init, "the container's init", 20)
        wait(
            lambda: self.do("systemctl", "is-system-running", check=False).stdout.strip() in ("running", "degraded"),
            "systemd to be up",
            90,
        )

    def command(self, *argv: str) -> list[str]:
        settings = [f"{key}={value}" for key, value in _TRUST.items()]
        return [
            "nsenter",
            "-t",
            str(self.init),
            "-a",
            "env",
            "-i",
            "-C",
            "/src",
            *settings,
            "HOME=/root",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            *argv,
        ]

    def reboot(self) -> None:
        """Stop it cleanly and start it again."""
        self.stop()
        self.boot()

    def stop(self) -> None:
        """Power it off; kill it when it does not."""
        if self._process is None:
            return
        if self.init:
            os.kill(self.init, signal.SIGRTMIN + 4)  # systemd(1): poweroff.target
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process, self.init = None, 0

    def _find_init(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "systemd-nspawn ended; see the console file"
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for child in children:
            if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                self.init = int(child)
        return bool(self.init)


@contextmanager
def translated(network: str) -> Iterator[None]:
    """The machine's network reaches the outside through this host, for as long as this lasts."""
    rules = [
        ("-t", "nat", "POSTROUTING", "-s", f"{network}.0/24", "!", "-d", f"{network}.0/24", "-j", "MASQUERADE"),
        ("-t", "filter", "FORWARD", "-s", f"{network}.0/24", "-j", "ACCEPT"),
        ("-t", "filter", "FORWARD", "-d", f"{network}.0/24", "-j", "ACCEPT"),
    ]
    forward = Path("/proc/sys/net/ipv4/ip_forward")
    before = forward.read_text()
    forward.write_text("1")
    for table, name, chain, *rest in rules:
        run("iptables", "-w", table, name, "-I", chain, *rest)
    try:
        yield
    finally:
        for table, name, chain, *rest in rules:
            run("iptables", "-w", table, name, "-D", chain, *rest, check=False)
        if before.strip() == "0" and not Path("/sys/class/net/docker0").exists():
            forward.write_text(before)


def wait(condition, what: str, seconds: float) -> None:  # type: ignore[no-untyped-def]
    """Poll until ``condition()`` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.1)


def _apt_cache(tree: Path) -> Sequence[str]:
    """Packages fetched once serve every machine of the same suite."""
    suite = "trixie" if "trixie" in (tree / "etc/os-release").read_text() else "bookworm"
    folder = CACHE / f"apt-{suite}"
    (folder / "partial").mkdir(parents=True, exist_ok=True)
    return (f"--bind={folder}:/var/cache/apt/archives",)
