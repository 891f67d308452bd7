"""croft.toml and the folders that everything else expects.

Rule: an owner's own lines in croft.toml survive; only settings named on the command line are written over.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from appliance import settings as settings_module
from appliance.broker import accounts as broker_accounts
from appliance.broker import layout
from appliance.errors import CroftError
from appliance.host.install.accounts import DAEMON, EnsureAccounts
from appliance.host.install.host import Host, InstallError
from appliance.host.install.journal import Journal
from appliance.settings import Paths

FOLDER, FILE, POLICY = "/etc/croft", "/etc/croft/croft.toml", "/etc/croft/policy"
STATE, LOGS = "/var/lib/croft", "/var/log/croft"
_HEADER = "# Settings of this appliance. `croft doctor --settings` lists every one; restart Croft after a change.\n"

Value = str | int


@dataclass
class EnsureConfig:
    """The settings file, readable by root and the daemon only."""

    host: Host
    journal: Journal
    accounts: EnsureAccounts
    values: Mapping[str, Value]
    purge: bool = False
    id: str = "settings"
    title: str = "Settings"

    def check(self) -> bool:
        # Kept from an earlier installation, it is taken over (and can be taken back) by applying.
        return (
            self.journal.touched(self.id)
            and self._text() == self.host.read(FILE) != ""
            and self.host.path(POLICY).is_dir()
        )

    def plan(self) -> list[str]:
        return [f"write {FILE} with {', '.join(f'{name} = {value}' for name, value in self.values.items())}"]

    def apply(self) -> None:
        self.journal.put(self.id, begun=True)
        ids = self.accounts.ids()
        _folder(self.host.path(FOLDER), 0, ids[f"{DAEMON}:gid"], 0o750)
        _folder(self.host.path(POLICY), ids[f"{DAEMON}:uid"], ids[f"{DAEMON}:gid"], 0o750)
        text = self._text()
        settings_module.parse(tomllib.loads(text), Paths.system())
        self.host.write(FILE, text, 0o640, ids[f"{DAEMON}:gid"])

    def undo(self) -> None:
        if self.purge:
            _erase(self.host, FOLDER)
        elif self.host.path(FOLDER).exists():
            _close_off(self.host.path(FOLDER))

    def _text(self) -> str:
        text = self.host.read(FILE) or _HEADER
        for name, value in self.values.items():
            text = with_value(text, name, value)
        return text


@dataclass
class EnsureFolders:
    """State, logs and sockets. The rows are the broker's own, so that the two cannot disagree.

    Those under /run are not looked at: a restart empties it, and tmpfiles or the broker makes them again.
    """

    host: Host
    journal: Journal
    accounts: EnsureAccounts
    purge: bool = False
    id: str = "folders"
    title: str = "Folders"
    _table: list[layout.Folder] = field(default_factory=list)

    def check(self) -> bool:
        try:
            lasting = [folder for folder in self._rows() if not folder.path.is_relative_to("/run")]
            return all(map(_is_as_planned, lasting)) and not self.journal.touched("kept")
        except CroftError:
            return False

    def plan(self) -> list[str]:
        return [f"create {STATE}, {LOGS} and /run/croft with what lies in them"]

    def apply(self) -> None:
        self.journal.put(self.id, begun=True)
        self._give_back()
        settings = settings_module.load(Paths.system())
        layout.ensure(settings, broker_accounts.resolve(settings))

    def undo(self) -> None:
        _erase(self.host, "/run/croft")
        if self.purge:
            _erase(self.host, STATE)
            _erase(self.host, LOGS)
        elif self.host.path(STATE).exists():
            # The ids of removed accounts may be given to others; nobody but root gets at the data until then.
            self.journal.put("kept", ids=self.accounts.ids())
            _close_off(self.host.path(STATE))
            _close_off(self.host.path(LOGS))

    def _rows(self) -> list[layout.Folder]:
        settings = settings_module.load(Paths.system())
        return list(layout.table(settings, broker_accounts.resolve(settings)))

    def _give_back(self) -> None:
        """Data kept by an earlier uninstall belongs to the new ids of the same accounts."""
        kept, now = self.journal.get("kept", "ids", {}), self.accounts.ids()
        uids = {kept[key]: now[key] for key in kept if key.endswith(":uid") and kept[key] != now[key]}
        gids = {kept[key]: now[key] for key in kept if key.endswith(":gid") and kept[key] != now[key]}
        for top in (STATE, FOLDER) if uids or gids else ():
            for folder, folders, names in os.walk(self.host.path(top)):
                for name in (*folders, *names, "."):
                    _chown(Path(folder, name), uids, gids)
        ids = now
        for top, mode in ((STATE, 0o1771), (LOGS, 0o750), (FOLDER, 0o750)):
            if self.host.path(top).is_dir():
                _folder(self.host.path(top), 0, ids[f"{DAEMON}:gid"], mode)
        self.journal.forget("kept")


def with_value(text: str, name: str, value: Value) -> str:
    """``text`` of croft.toml with one setting changed or added; every other line stays as it is."""
    section, _, key = name.rpartition(".")
    shown = str(value).lower() if isinstance(value, bool) else str(value) if isinstance(value, int) else f'"{value}"'
    lines, inside, last = text.splitlines(), section == "", 0 if section == "" else None
    for number, line in enumerate(lines):
        bare = line.strip()
        if bare.startswith("["):
            inside = bare.split("#")[0].strip() == f"[{section}]"
        if inside and (section or not bare.startswith("[")):
            last = number + 1 if bare else last
            if bare.partition("=")[0].strip() == key:
                changed = [*lines[:number], f"{key} = {shown}", *lines[number + 1 :]]
                return text if _same(bare, shown) else "\n".join(changed) + "\n"
    if last is None:
        return "\n".join([*lines, "", f"[{section}]", f"{key} = {shown}"]) + "\n"
    return "\n".join([*lines[:last], f"{key} = {shown}", *lines[last:]]) + "\n"


def _same(line: str, shown: str) -> bool:
    return line.partition("=")[2].split("#")[0].strip() == shown


def _is_as_planned(folder: layout.Folder) -> bool:
    try:
        seen = folder.path.lstat()
    except FileNotFoundError:
        return False
    return (seen.st_uid, seen.st_gid, seen.st_mode & 0o7777) == (folder.uid, folder.gid, folder.mode)


def _folder(path: Path, uid: int, gid: int, mode: int) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.chown(path, uid, gid, follow_symlinks=False)
    path.chmod(mode)


def _close_off(path: Path) -> None:
    if path.exists():
        _folder(path, 0, 0, 0o700)


def refuse_mounted(host: Host, folder: str) -> None:
    """What lies on a disk mounted in ``folder``, or in another folder that is shown there, may not be ours. Raises InstallError."""
    rows = [line.split() for line in Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines()]
    places = [re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), row[4]) for row in rows]  # proc(5)
    found = [place for place in places if Path(place).is_relative_to(host.path(folder).resolve())]
    if found:
        raise InstallError(
            f"cannot remove {folder}: something is mounted at {found[0]}", hint="Unmount it; then run this again."
        )


def _erase(host: Host, folder: str) -> None:
    """By rm, which follows any depth of folders: Python's own goes no deeper than a thousand, and workspaces hold what they like."""
    refuse_mounted(host, folder)
    host.run("rm", "-rf", "--", str(host.path(folder)), timeout=3600)


def _chown(path: Path, uids: Mapping[int, int], gids: Mapping[int, int]) -> None:
    seen = path.lstat()
    uid, gid = uids.get(seen.st_uid, seen.st_uid), gids.get(seen.st_gid, seen.st_gid)
    if (uid, gid) != (seen.st_uid, seen.st_gid):
        os.chown(path, uid, gid, follow_symlinks=False)
        if not path.is_symlink():
            path.chmod(seen.st_mode & 0o7777)
