"""Who runs what: the accounts named in the settings, resolved once.

Rule: only here is it decided whether the broker changes user. As root every part has its own account; otherwise all
parts run as the person who started them.
"""

from __future__ import annotations

import grp
import os
import pwd
from dataclasses import dataclass, replace

from appliance.errors import SettingsError
from appliance.settings import Settings


@dataclass(frozen=True)
class Account:
    """One user of the machine with its groups."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]


@dataclass(frozen=True)
class Accounts:
    """The accounts of an appliance. ``switching`` is False when all of them are the same person."""

    daemon: Account
    workspace: Account
    proxy: Account
    ai: Account
    web_gid: int
    switching: bool


def resolve(settings: Settings) -> Accounts:
    """Look the accounts up. Raises SettingsError naming the one that is missing or must not be used."""
    if os.geteuid() != 0:
        person = _account(pwd.getpwuid(os.geteuid()).pw_name)
        return Accounts(person, person, person, person, person.gid, False)
    daemon, workspace, proxy, ai = (
        _other(name)
        for name in (settings.users_daemon, settings.users_workspace, settings.users_proxy, settings.users_ai)
    )
    if len({daemon.uid, workspace.uid, proxy.uid, ai.uid}) != 4:
        raise SettingsError("users.daemon, users.workspace, users.proxy and users.ai must be four different accounts")
    web = _group(web_group(settings))
    # The models belong to the engine's group: the daemon fetches them, the engine reads them.
    return Accounts(_joined(_joined(daemon, web), ai.gid), workspace, _joined(proxy, web), ai, web, True)


def web_group(settings: Settings) -> str:
    """The group that the daemon and the proxy share, ``croft-web`` where the daemon is ``croft``."""
    return f"{settings.users_daemon}-web"


def _other(name: str) -> Account:
    account = _account(name)
    if account.uid == 0:
        raise SettingsError(f"the account {name} is root, which no part of Croft may be")
    return account


def _account(name: str) -> Account:
    try:
        entry = pwd.getpwnam(name)
    except KeyError as error:
        raise SettingsError(
            f"there is no account {name}", hint="Run the installer, or set users.* in croft.toml."
        ) from error
    return Account(name, entry.pw_uid, entry.pw_gid, tuple(os.getgrouplist(name, entry.pw_gid)))


def _joined(account: Account, gid: int) -> Account:
    return replace(account, groups=tuple(sorted({*account.groups, gid})))


def _group(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError as error:
        raise SettingsError(f"there is no group {name}", hint="Run the installer.") from error
