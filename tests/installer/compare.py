"""A machine before and after: what must compare equal, and whether Croft answers on it.

Rule: what is left out of the comparison is named here, once.
"""

from __future__ import annotations

from machine import Booted

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
    """What must compare equal before and after: packages, accounts, units, and every file with its content."""
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


def assert_same(before: dict[str, str], after: dict[str, str], allowed: tuple[str, ...] = ()) -> None:
    for what, text in before.items():
        gone = set(text.splitlines()) - set(after[what].splitlines())
        new = {
            line
            for line in set(after[what].splitlines()) - set(text.splitlines())
            if not any(path in line for path in allowed)
        }
        left = {line for line in gone | new if "__pycache__" not in line}
        assert not left, f"{what} differ:\n" + "\n".join(sorted(left)[:40])


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
