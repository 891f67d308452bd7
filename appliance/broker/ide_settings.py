"""What lies ready when the editor starts: first settings, written once and never again, and Croft's extension.

Rule: this runs as the workspace's user inside a forked child, beneath that user's home by openat2, so that a link
planted there can only ever point its owner at its own files.
"""

from __future__ import annotations

import json
import os

from appliance.broker import editor_extension, kernel

_FOLDERS = (".local", ".local/share", ".local/share/code-server", ".local/share/code-server/User")
DEFAULTS = {
    "chat.disableAIFeatures": True,  # the built-in pane; Croft has its own assistant
    "workbench.secondarySideBar.defaultVisibility": "hidden",
    "workbench.startupEditor": "none",
    "telemetry.telemetryLevel": "off",
    "window.autoDetectColorScheme": True,  # light or dark as each person's device is
}


def prepare(home: int) -> None:
    """Everything, beneath the folder ``home`` describes. Raises OSError."""
    write_defaults(home)
    editor_extension.install(home)


def write_defaults(home: int) -> None:
    """Write settings.json beneath the folder ``home`` describes, unless there is one. Raises OSError."""
    for folder in _FOLDERS:
        parent, _, name = folder.rpartition("/")
        fd = kernel.open_beneath(home, parent or ".", os.O_PATH | os.O_DIRECTORY)
        try:
            os.mkdir(name, 0o750, dir_fd=fd)
        except FileExistsError:
            continue
        finally:
            os.close(fd)
    try:
        fd = kernel.open_beneath(home, f"{_FOLDERS[-1]}/settings.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
    except FileExistsError:
        return
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        json.dump(DEFAULTS, file, indent=4)
