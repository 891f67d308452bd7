"""A small disk of its own for the folder of the editor's socket, which the workspace's account may write.

Without it that account could fill /run, where the machine's own programs keep what they need to go on. Under systemd
run-croft-ide.mount does the same.

Rule: mounted before anything starts and left alone while anything runs (DECIDED 8); where it cannot be mounted the
folder is a plain one.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from appliance.broker import kernel, layout
from appliance.broker.accounts import Accounts
from appliance.settings import Paths, Settings

BYTES, FILES = 1 << 20, 64


def mount(settings: Settings, accounts: Accounts) -> None:
    """Make the folder and mount the disk, unless it is there. Raises SettingsError for a folder that is not ours."""
    layout.ensure(settings, accounts)
    place = folder(settings.paths)
    if not accounts.switching or place.is_mount():
        return
    options = f"size={BYTES},nr_inodes={FILES},mode=2750,uid={accounts.workspace.uid},gid={accounts.web_gid}"
    try:
        kernel.mount_tmpfs(str(place), options)
    except OSError as error:
        sys.stderr.write(f"croft: the editor's socket gets no disk of its own: {error.strerror}\n")


def unmount(paths: Paths) -> None:
    """Everything has ended. What somebody still looks at goes when they stop."""
    place = folder(paths)
    if os.geteuid() == 0 and place.is_mount():
        kernel.unmount(str(place))


def folder(paths: Paths) -> Path:
    return paths.socket("ide").parent
