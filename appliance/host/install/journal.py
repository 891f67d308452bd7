"""What the installer has done to this machine, so that it can resume and undo.

Rule: a fact is on disk before the change it describes is made; a killed run never leaves an unrecorded change.
"""

from __future__ import annotations

import fcntl
import json
import os
from typing import Any

from appliance.host.install.host import Host, InstallError

FOLDER = "/var/lib/croft-install"
FILE = f"{FOLDER}/journal.json"
_VERSION = 1


class Journal:
    """Facts by step, kept in one JSON file."""

    def __init__(self, host: Host) -> None:
        self._host = host
        text = host.read(FILE)
        try:
            self._data: dict[str, Any] = json.loads(text) if text else {"version": _VERSION, "steps": {}}
        except json.JSONDecodeError as error:
            raise InstallError("cannot read the installer's journal: it is damaged", hint=f"Restore {FILE}.") from error
        if self._data.get("version") != _VERSION:
            raise InstallError(
                "cannot read the installer's journal: a newer installer wrote it", hint="Use the newest install.sh."
            )

    @property
    def empty(self) -> bool:
        """Whether nothing was ever installed by this installer."""
        return not set(self._data["steps"]) - {"kept"}

    def options(self) -> dict[str, Any]:
        """What the last installation was asked for."""
        options: dict[str, Any] = self._data.get("options", {})
        return options

    def set_options(self, options: dict[str, Any]) -> None:
        """Remember what was asked for."""
        self._data["options"] = options
        self._save()

    def get(self, step: str, fact: str, default: Any = None) -> Any:
        """A fact of a step."""
        return self._data["steps"].get(step, {}).get(fact, default)

    def put(self, step: str, **facts: Any) -> None:
        """Record facts of a step, durably."""
        self._data["steps"].setdefault(step, {}).update(facts)
        self._save()

    def touched(self, step: str) -> bool:
        """Whether the step ever began to change something."""
        return step in self._data["steps"]

    def forget(self, step: str) -> None:
        """The step was undone."""
        self._data["steps"].pop(step, None)
        self._save()

    def erase(self) -> None:
        """Remove the journal itself, last of all."""
        folder = self._host.path(FOLDER)
        for path in folder.glob("*"):
            path.unlink()
        folder.rmdir()

    def _save(self) -> None:
        self._host.path(FOLDER).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._host.write(FILE, json.dumps(self._data, indent=1, sort_keys=True) + "\n", 0o600)


def lock(host: Host) -> int:
    """Hold the right to install until the process ends. Raises InstallError when another run has it."""
    folder = host.path(FOLDER)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise InstallError(
            "another installation is running", hint="Follow it with: tail -f /var/log/croft/install.log"
        ) from error
    return handle
