"""The accounts Croft runs as: system users that nobody can sign in as.

Rule: an account that is not in the journal is somebody else's, whatever its name; it is refused, never reused or
removed.
"""

from __future__ import annotations

from dataclasses import dataclass

from appliance.broker import fence, nft
from appliance.host.install.host import Host, InstallError
from appliance.host.install.journal import Journal

DAEMON, WORKSPACE, PROXY, AI, WEB = "croft", "workspace", "croft-proxy", "croft-ai", "croft-web"


@dataclass(frozen=True)
class User:
    """One account. An interactive one gets a shell for terminals; it has expired, so no sign-in reaches it."""

    name: str
    comment: str
    home: str = "/nonexistent"
    shell: str = "/usr/sbin/nologin"


USERS = (
    User(DAEMON, "Croft daemon"),
    User(WORKSPACE, "Croft workspace", "/var/lib/croft/home", "/bin/bash"),
    User(PROXY, "Croft web proxy"),
    User(AI, "Croft engine"),
)
# Who belongs to which group: daemon and proxy reach the sockets between them, the daemon fetches what the engine reads.
MEMBERS = ((WEB, DAEMON), (WEB, PROXY), (AI, DAEMON))


@dataclass
class EnsureAccounts:
    """Four users and one group, with ids from the system range."""

    host: Host
    journal: Journal
    id: str = "accounts"
    title: str = "System accounts"

    def check(self) -> bool:
        groups = self._groups()
        return (
            self.journal.get(self.id, "complete", False)
            and set(self._users()) >= {user.name for user in USERS}
            and all(member in groups.get(group, (0, frozenset[str]()))[1] for group, member in MEMBERS)
        )

    def plan(self) -> list[str]:
        return [
            *(f"create the system user {user.name}" for user in USERS if user.name not in self._users()),
            f"create the group {WEB} with {DAEMON} and {PROXY}; put {DAEMON} into the group {AI}",
        ]

    def apply(self) -> None:
        self.refuse_strangers()
        # Recorded before they are made: from here on these names are ours.
        self.journal.put(self.id, names=[user.name for user in USERS])
        if WEB not in self._groups():
            self.host.run("groupadd", *self._prefix, "--system", *self._old("--gid", f"{WEB}:gid"), WEB)
        for user in USERS:
            if user.name not in self._users():
                self._create(user)
        for user in USERS:
            # Expired in 1970: sshd, su, cron and login all refuse it; the broker, which is root, needs none of them.
            # (useradd ignores the date for system accounts.)
            self.host.run("usermod", *self._prefix, "--expiredate", "1", user.name)
        for group, member in MEMBERS:
            self.host.run("usermod", *self._prefix, "--append", "--groups", group, member)
        self.journal.put(self.id, complete=True)

    def refuse_strangers(self) -> None:
        """Raises InstallError when a name is taken by an account that was not made here."""
        known = {WEB, *self.journal.get(self.id, "names", [])} if self.journal.touched(self.id) else set()
        wanted = {user.name for user in USERS} - known
        taken = sorted((wanted & set(self._users())) | (({WEB, *wanted} - known) & set(self._groups())))
        if taken:
            raise InstallError(
                f"cannot create the account {taken[0]}: it exists and is not Croft's",
                hint=f"Rename or remove it (`getent passwd {taken[0]}`), then run this again.",
            )

    def undo(self) -> None:
        if self.host.path(str(nft.PROGRAM)).exists() and WORKSPACE in self._users():
            fence.remove(self._users()[WORKSPACE])  # left behind by a broker that was killed
        for user in USERS:
            if user.name in self._users():
                self.host.run("userdel", *self._prefix, user.name)
        for name in (WEB, *(user.name for user in USERS)):
            if name in self._groups():
                self.host.run("groupdel", *self._prefix, name)

    def ids(self) -> dict[str, int]:
        """The uid of each user and the gid of each group that exist, as NAME:uid and NAME:gid."""
        users = {f"{user.name}:uid": self._users()[user.name] for user in USERS if user.name in self._users()}
        groups = {
            f"{name}:gid": gid
            for name, (gid, _) in self._groups().items()
            if name in {WEB, *(user.name for user in USERS)}
        }
        return {**users, **groups}

    def _create(self, user: User) -> None:
        if user.name not in self._groups():
            self.host.run("groupadd", *self._prefix, "--system", *self._old("--gid", f"{user.name}:gid"), user.name)
        self.host.run(
            "useradd",
            *self._prefix,
            "--system",
            *self._old("--uid", f"{user.name}:uid"),
            "--gid",
            user.name,
            "--no-create-home",
            "--home-dir",
            user.home,
            "--shell",
            user.shell,
            "--comment",
            user.comment,
            user.name,
        )

    def _old(self, option: str, key: str) -> tuple[str, ...]:
        """The id that kept data still carries, while nobody else has it."""
        number = self.journal.get("kept", "ids", {}).get(key)
        table = self._users().values() if key.endswith(":uid") else [gid for gid, _ in self._groups().values()]
        return () if number is None or number in table else (option, str(number))

    @property
    def _prefix(self) -> tuple[str, ...]:
        return () if str(self.host.root) == "/" else ("--prefix", str(self.host.root))

    def _users(self) -> dict[str, int]:
        rows = (line.split(":") for line in self.host.read("/etc/passwd").splitlines())
        return {row[0]: int(row[2]) for row in rows if len(row) >= 7}

    def _groups(self) -> dict[str, tuple[int, frozenset[str]]]:
        rows = (line.split(":") for line in self.host.read("/etc/group").splitlines())
        return {row[0]: (int(row[2]), frozenset(filter(None, row[3].split(",")))) for row in rows if len(row) >= 4}
