"""The machine's processes, by what their command lines say."""

from __future__ import annotations

from pathlib import Path


def alive(mark: str) -> list[str]:
    """Command lines that hold ``mark``; words end in a NUL, and a zombie has none."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if mark.encode() in line:
                found.append(line.decode("utf-8", "replace"))
    return found
