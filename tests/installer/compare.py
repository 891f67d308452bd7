"""A machine before and after: what must compare equal, and whether Croft answers on it.

Rule: what is left out of the comparison is named here, once.
"""

from __future__ import annotations

from machine import Booted, run

# What running and looking leave behind anywhere; everything else must compare equal.
_VOLATILE = (
    "/proc",
    "/sys",
    "/dev",
    "/run",
    "/tmp",
    "/src",
    "/root",
    "/ide.tar",
    "/images.tar",
    "/var/tmp",
    "/var/cache",
    "/var/log",
    "/var/lib/apt",
    "/var/lib/dpkg",
    "/var/lib/systemd",
    "/var/lib/docker",
    "/var/lib/containerd",
    "/etc/machine-id",
    "/var/lib/private",
    "/etc/ld.so.cache",
    "/etc/.pwd.lock",
    "/etc/passwd-",
    "/etc/group-",
    "/etc/shadow-",
    "/etc/gshadow-",
    "/var/backups",
    "/etc/subuid",
    "/etc/subgid",
)


def snapshot(machine: Booted) -> dict[str, str]:
    """What must compare equal before and after, on the disk and in memory."""
    return on_disk(machine) | _in_memory(machine)


def on_disk(machine: Booted) -> dict[str, str]:
    """Packages, accounts, units, and every file with its content."""
    prune = " -o ".join(f"-path {path}" for path in _VOLATILE)
    return {
        "packages": machine.do("dpkg-query", "-W", "-f", "${db:Status-Abbrev} ${Package} ${Version}\n").stdout,
        "users": machine.do("cat", "/etc/passwd").stdout,
        "groups": machine.do("cat", "/etc/group").stdout,
        "units": machine.do("systemctl", "list-unit-files", "--no-pager", "--no-legend").stdout,
        "fstab": machine.do("cat", "/etc/fstab").stdout,
        "files": machine.do(
            "sh",
            "-c",
            rf"find / \( {prune} \) -prune -o -type f -exec md5sum {{}} + | sort -k2; "
            rf"find / \( {prune} \) -prune -o \( -type d -o -type l \) "
            r"-printf '%p %m %U %G %l\n' | sort",
        ).stdout,
    }


# What systemd, cron, apt and ssh write of their own accord where Croft writes, too.
_NOT_OURS = (
    r"^/run/(systemd|udev|user|log|lock|credentials|host|dbus|mount|utmp|agetty|adduser)"
    r"|^/var/log/(journal|apt|dpkg|lastlog|[bw]tmp|alternatives)"
)


def _in_memory(machine: Booted) -> dict[str, str]:
    """What no snapshot of the disk has: /run, logs, mounts, network links, the packet filter, units, swap."""
    listed = rf"find /run /var/log -printf '%p %y %m %U %G\n' | grep -vE '{_NOT_OURS}' | sort"
    ruleset = run("nsenter", "-t", str(machine.init), "-n", "nft", "-s", "list", "ruleset").stdout
    return {
        "run and logs": machine.do("sh", "-c", listed, check=False).stdout,
        "mounts": machine.do("sh", "-c", "cut -d ' ' -f 2-4 /proc/mounts | sort").stdout,
        "links": machine.do("sh", "-c", "ip -o link | awk '{print $2}' | sed 's/@.*//'").stdout,
        "packet filter": ruleset,
        "forwarding": machine.do(
            "sh", "-c", "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding"
        ).stdout,
        "loaded units": machine.do(
            "sh", "-c", "systemctl list-units --all --plain --no-legend 'croft*' '*docker*' 'caddy*'"
        ).stdout,
        "slices": machine.do("sh", "-c", "find /sys/fs/cgroup -type d -name '*croft*'").stdout,
        "swap": machine.do("cat", "/proc/swaps").stdout,
    }


def assert_same(before: dict[str, str], after: dict[str, str], allowed: tuple[str, ...] = ()) -> None:
    for what, text in before.items():
        gone = set(text.splitlines()) - set(after[what].splitlines())
        new = {
            line
            for line in set(after[what].splitlines()) - set(text.splitlines())
            if not any(path in line for path in allowed)
        }
        left = [f"- {line}" for line in sorted(gone)] + [f"+ {line}" for line in sorted(new)]
        left = [line for line in left if "__pycache__" not in line]
        assert not left, f"{what} differ:\n" + "\n".join(left[:40])


def serves(machine: Booted) -> bool:
    answer = machine.do(
        "python3",
        "-I",
        "-c",
        "import sys; sys.path.insert(0, '/src')\n"
        "from appliance.host.install.behind import answers\nprint(answers('croft.localhost'))",
        check=False,
    )
    return answer.returncode == 0 and answer.stdout.strip() == ""
