"""The folders that must exist before anything starts, with their owners.

Rule: a folder is made once and never recreated (containers hold it by inode), and one that exists is used only if it
is a real folder of the expected owner: some of their parents can be written by the daemon.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.broker.accounts import Accounts
from appliance.errors import SettingsError
from appliance.settings import Settings


@dataclass(frozen=True)
class Folder:
    path: Path
    uid: int
    gid: int
    mode: int


def table(settings: Settings, accounts: Accounts) -> Iterator[Folder]:
    """Every folder, parents first (DECIDED 8 for the sockets)."""
    paths, own = settings.paths, os.geteuid()
    daemon, workspace, proxy, web = accounts.daemon, accounts.workspace, accounts.proxy, accounts.web_gid
    ai = accounts.ai
    yield Folder(paths.run, own, _gid(accounts, 0), 0o755)
    yield Folder(paths.run / "broker", own, daemon.gid, 0o750)
    yield Folder(paths.run / "web", daemon.uid, web, 0o2750)
    yield Folder(paths.run / "ide", workspace.uid, web, 0o2750)
    yield Folder(paths.run / "editor", daemon.uid, workspace.gid, 0o2750)
    yield Folder(paths.run / "control", daemon.uid, daemon.gid, 0o750)
    yield Folder(paths.run / "ai", ai.uid, daemon.gid, 0o2750)
    yield Folder(paths.run / "proxy", own, proxy.gid, 0o755)
    yield Folder(paths.log, own, daemon.gid, 0o750)
    yield Folder(paths.state, own, daemon.gid, 0o1771)
    yield Folder(paths.policy, daemon.uid, daemon.gid, 0o750)
    yield Folder(paths.workspace, workspace.uid, workspace.gid, 0o750)
    yield Folder(paths.ide_home, workspace.uid, workspace.gid, 0o750)
    yield Folder(paths.caddy_data, proxy.uid, proxy.gid, 0o700)
    # Root's, though daemon and engine write in it: its own folder either could replace by a link, which a container would mount.
    # Sticky: the engine reads what the daemon puts there, and cannot put something else in its place.
    yield Folder(paths.state / "models", own, ai.gid, 0o3770)


def ensure(settings: Settings, accounts: Accounts) -> None:
    """Make what is missing and check what is there. Raises SettingsError."""
    for folder in table(settings, accounts):
        try:
            _ensure(folder)
        except OSError as error:
            raise SettingsError(f"cannot use the folder {folder.path}: {error.strerror}") from error


def open_folder(path: Path, uid: int) -> int:
    """A descriptor of ``path`` itself, never of what a link there names. Raises SettingsError for another owner."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    owner = os.fstat(fd).st_uid
    if owner != uid:
        os.close(fd)
        raise SettingsError(f"cannot use the folder {path}: it belongs to uid {owner}, not {uid}")
    return fd


def _ensure(folder: Folder) -> None:
    missing = not os.path.lexists(folder.path)
    if missing:
        folder.path.parent.mkdir(parents=True, exist_ok=True)
        folder.path.mkdir(mode=0o700)
    fd = open_folder(folder.path, os.geteuid() if missing else folder.uid)
    try:
        if missing or folder.uid == os.geteuid():
            os.fchown(fd, folder.uid, folder.gid)
            if stat.S_IMODE(os.fstat(fd).st_mode) != folder.mode:
                os.fchmod(fd, folder.mode)
    finally:
        os.close(fd)


def _gid(accounts: Accounts, root_gid: int) -> int:
    return root_gid if accounts.switching else accounts.daemon.gid
