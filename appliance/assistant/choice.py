"""Which model is in use: one small file in the models folder, written by the daemon, read by whatever serves the model.

Rule: the file is the only truth, is replaced as a whole, and names a plain file beside itself. A reader takes nothing else from
it: no path, no option. Standard library only, so that the process that loads the model may read it too.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from pathlib import Path

from msgspec import Struct
from msgspec.structs import asdict

NAME = "choice.json"
CONTEXT_MOST = 131_072
NEED_MOST_MB = 1 << 20
# A name that no tool reads as a path, an option or a hidden file.
FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}\.gguf\Z")
MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,100}\Z")
_SIZE_MOST = 4096


class Choice(Struct, frozen=True):
    """``model`` is its name for people and for requests, ``file`` lies in the models folder, ``context`` is in tokens,
    ``tools`` says whether its publisher says that it calls tools, ``need_mb`` is the memory that serving it takes (MiB, 0 if unknown)."""

    model: str
    file: str
    context: int
    tools: bool = False
    need_mb: int = 0


def read(folder: Path) -> Choice | None:
    """What is chosen in the models folder ``folder``; None where nothing is, or the file is damaged."""
    try:
        fd = os.open(folder / NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            return _checked(json.loads(file.read(_SIZE_MOST)))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def is_unclear(folder: Path) -> bool:
    """Whether something stands where the choice should and is none: damaged, or planted by whoever else writes there."""
    return os.path.lexists(folder / NAME) and read(folder) is None


def _checked(found: dict[str, object]) -> Choice:
    model, file, context = str(found["model"]), str(found["file"]), found["context"]
    if not MODEL.match(model) or not FILE.match(file) or not isinstance(context, int):
        raise ValueError("not a choice")
    if not 0 < context <= CONTEXT_MOST:
        raise ValueError("no such context")
    need = found.get("need_mb", 0)
    if not isinstance(need, int) or not 0 <= need <= NEED_MOST_MB:
        raise ValueError("no such need")
    return Choice(model, file, context, found.get("tools") is True, need)


def write(folder: Path, choice: Choice | None) -> None:
    """Replace what is chosen; None chooses nothing. On disk when this returns. Raises OSError, also where something that is not ours
    stands in its place, and ValueError."""
    path = folder / NAME
    if choice is None:
        path.unlink(missing_ok=True)
        return
    _checked(asdict(choice))
    scratch = folder / f".{NAME}.{secrets.token_hex(8)}"
    fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    try:
        with os.fdopen(fd, "w") as file:
            os.fchmod(fd, 0o640)  # whatever the umask took away: the folder's group reads it
            json.dump(asdict(choice), file)
            file.flush()
            os.fsync(fd)
        scratch.rename(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
