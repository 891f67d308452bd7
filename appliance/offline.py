"""What the command line can do with the daemon down: make a sign-in link, check the audit log (DECIDED 9).

Rule: as the daemon's user, never as root, and under the database lock, so that it and a daemon never write together.
"""

from __future__ import annotations

import asyncio
import os
import pwd
from typing import Any

from appliance.settings import Settings


def become_daemon_user(settings: Settings) -> None:
    """Give up root for good. Does nothing for an ordinary person (a checkout)."""
    if os.geteuid() != 0:
        return
    try:
        account = pwd.getpwnam(settings.users_daemon)
    except KeyError:
        return  # no such account: not an installed appliance, everything belongs to root
    os.setgroups([])
    os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
    os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)


def login_link(settings: Settings, email: str) -> dict[str, Any]:
    """Like ``POST /api/links``, straight on the database. Raises CroftError."""
    return asyncio.run(_login_link(settings, email))


def audit_verify(settings: Settings) -> dict[str, Any]:
    """Like ``GET /api/audit/verify``. Raises CroftError."""
    return asyncio.run(_audit_verify(settings))


async def _login_link(settings: Settings, email: str) -> dict[str, Any]:
    from appliance.identity.links import Links
    from appliance.identity.users import Users
    from appliance.store import open_store

    async with open_store(settings) as store:
        users = Users(store.database, store.audit, store.clock)
        links = Links(store.database, users, store.audit, store.clock, store.boot_id)
        user = None
        if email or not await users.none_yet():
            user = await users.find(email) if email else await users.owner()
        secret, kind, seconds = await links.create(user, "console")
        return {
            "url": f"{settings.ui_origin}/sign-in/link?t={secret}",
            "kind": kind,
            "seconds": seconds,
            "email": user.email if user else None,
        }


async def _audit_verify(settings: Settings) -> dict[str, Any]:
    from appliance.store import open_store, read_anchor

    async with open_store(settings) as store:
        fault = await store.audit.verify(read_anchor(settings))
        return {"ok": fault is None, "fault": {"seq": fault.seq, "what": fault.what} if fault else None}
