"""A domain on Debian 13 with systemd: certificates by ACME through the installer, and what is done while there are none.

Not run here: waiting until Caddy asks again by itself (two hours; with a short life in tests/proxy/test_acme.py), and swap
after a reboot (systemd does not look at swap in a container).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from compare import assert_same, snapshot
from machine import Booted, wait
from support.pebble import Pebble, issuer

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

NAME = "cloud.example.org"
HOSTS = (NAME, f"ide.{NAME}")
INSTALL = ("./install.sh", "--unattended", "--runtime", "process", "--no-engine", "--ide-bundle", "/ide.tar")
ASKED = (*INSTALL, "--domain", NAME, "--email", "owner@example.org")
ROOT = "/usr/local/share/pebble.pem"
CADDYFILE, STORED = "/run/croft/proxy/Caddyfile", "/var/lib/croft/caddy/caddy/certificates"


@pytest.fixture(scope="module")
def before(named: Booted) -> dict[str, str]:
    named.do("sh", "-c", "apt-get -q update && apt-get install -yq --no-install-recommends python3 && apt-get clean")
    return snapshot(named)


@pytest.fixture(scope="module")
def authority(named: Booted, before: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    """On the host; the owner has named it in croft.toml before installing."""
    folder = tmp_path_factory.mktemp("authority")
    made = Pebble(folder, 80, 443, address=f"{named.network}.1", hosts=f"{named.network}.2")
    (named.tree / ROOT[1:]).write_bytes((folder / "cert.pem").read_bytes())
    yield made
    made.stop()


def configure(machine: Booted, authority: Pebble) -> None:
    file = machine.tree / "etc/croft/croft.toml"
    file.parent.mkdir()
    file.write_text(f'[proxy]\nacme_directory = "{authority.wanted["acme_directory"]}"\nacme_root = "{ROOT}"\n')


def issuers(machine: Booted) -> list[str]:
    """Who signed what a visitor from outside is given."""
    return [issuer(443, host, f"{machine.network}.2") for host in HOSTS]


def by(machine: Booted, words: str) -> bool:
    return all(words in name for name in issuers(machine))


def problems(machine: Booted) -> dict[str, str]:
    said = machine.do("croft", "status", "--json", check=False).stdout
    return {row["code"]: row["why"] for row in json.loads(said)["problems"]}


def settled(machine: Booted) -> bool:
    """The proxy runs without our own authority, healthy, and nothing is wrong with its certificates."""
    rows = json.loads(machine.do("croft", "status", "--json", check=False).stdout or '{"services": []}')["services"]
    proxy = next((row for row in rows if row["name"] == "proxy"), {"health": ""})
    text = (machine.tree / CADDYFILE[1:]).read_text() if (machine.tree / CADDYFILE[1:]).exists() else ""
    text = machine.do("cat", CADDYFILE, check=False).stdout or text
    return proxy["health"] == "healthy" and "issuer internal" not in text and not acme(machine)


def acme(machine: Booted) -> set[str]:
    return {code for code in problems(machine) if code.startswith("acme_")}


def test_both_hosts_have_public_certificates_when_the_installer_ends(named: Booted, authority: Pebble) -> None:
    """And nobody has to restart anything afterwards; the second run finds nothing to do."""
    configure(named, authority)
    authority.start()
    out = named.do(*ASKED).stdout
    assert f"Croft answers at https://{NAME}" in out
    assert "stands in" not in out, out
    assert re.search(rf"https://{re.escape(NAME)}/sign-in/link\?t=\S+", out), "the owner's first link"
    wait(lambda: settled(named), "the proxy without the stand-in", 60)
    wait(lambda: by(named, "Pebble"), "certificates for both hosts", 20)
    assert re.search(r"Nothing to do: all (\d+) steps were already so", named.do(*ASKED).stdout)


def test_a_reboot_keeps_them(named: Booted, authority: Pebble) -> None:
    authority.stop()
    named.reboot()
    wait(lambda: by(named, "Pebble"), "the front door after a reboot", 90)


def test_everything_is_taken_back(named: Booted, authority: Pebble, before: dict[str, str]) -> None:
    """SYS-9: what no snapshot of the disk has, too: /run, logs, mounts, links, packet filter, units, swap."""
    named.do("/opt/croft/venv/install.sh", "--uninstall", "--purge", "--unattended")
    named.do("rm", ROOT)
    assert_same(before, snapshot(named))


def test_without_the_authority_our_own_stands_in_and_the_installer_says_why(named: Booted, authority: Pebble) -> None:
    (named.tree / ROOT[1:]).write_bytes((authority.folder / "cert.pem").read_bytes())
    configure(named, authority)
    out = named.do(*ASKED).stdout
    assert f"Croft answers at https://{NAME}" in out
    said = out.partition("Its own authority stands in for the public one meanwhile: ")[2].partition("\n")[0]
    assert "connection refused" in said, (said, problems(named))
    assert "It is tried again by itself." in said
    assert by(named, "Caddy Local Authority")
    assert "connection refused" in problems(named)["acme_failing"]


def test_it_goes_over_to_the_public_ones_by_itself(named: Booted, authority: Pebble) -> None:
    """As when the life of the stand-in is over, which a test cannot wait for: its certificates are gone at a restart."""
    authority.start()
    for host in HOSTS:
        named.do("rm", "-r", f"{STORED}/local/{host}")
    named.do("systemctl", "kill", "--signal=KILL", "croft-proxy.service")
    wait(lambda: by(named, "Pebble"), "certificates", 60)
    wait(lambda: settled(named), "the proxy without the stand-in", 60)
    assert by(named, "Pebble")


SWAP = """
import sys; sys.path.insert(0, "/src")
from dataclasses import replace
from appliance.host.install.host import Host
from appliance.host.install.journal import Journal
from appliance.host.install.system import EnsureSwap
from appliance.host import machine
host = Host()
small = replace(machine.read(host.root), memory_mb=1900, swap_mb=0, container="")
step = EnsureSwap(host, Journal(host), small)
sys.exit(not getattr(step, sys.argv[1])() if sys.argv[1] == "check" else getattr(step, sys.argv[1])())
"""


def test_swap_is_made_used_and_taken_back(named: Booted, authority: Pebble) -> None:
    """The step itself, on this machine as if it were a small one of its own: a container gets none from the installer."""
    fstab = named.do("cat", "/etc/fstab").stdout
    assert "swapfile" not in fstab

    def step(word: str) -> int:
        return named.do("python3", "-I", "-c", SWAP, word, check=False).returncode

    assert step("check") == 1
    try:
        assert step("apply") == 0
        assert re.search(
            r"^/var/lib/croft-install/swapfile\s+file\s+209\d{4}", named.do("cat", "/proc/swaps").stdout, re.M
        )
        assert named.do("stat", "-c", "%a %U", "/var/lib/croft-install/swapfile").stdout == "600 root\n"
        assert (
            named.do("cat", "/etc/fstab").stdout == fstab + "/var/lib/croft-install/swapfile none swap sw 0 0 # croft\n"
        )
        assert step("check") == 0
        assert step("apply") == 0, "again"
    finally:
        assert step("undo") == 0
    assert "croft" not in named.do("cat", "/proc/swaps").stdout
    assert named.do("cat", "/etc/fstab").stdout == fstab
    assert not Path(named.tree, "var/lib/croft-install/swapfile").exists()


def test_purge_leaves_nothing(named: Booted, authority: Pebble, before: dict[str, str]) -> None:
    named.do("./install.sh", "--uninstall", "--purge", "--unattended")
    named.do("rm", ROOT)
    assert_same(before, snapshot(named))
