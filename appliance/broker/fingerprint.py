"""What names a folder and a program so exactly that an approval holds for those alone: device and inode.

Rule: it is taken and checked by the child itself, with the run's own user, root and folder: nothing lies between the
check and the use but the exec. What a script holds is not bound.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from appliance.broker.launch import SEARCH_PATH

CHANGED = "the folder or the program is not the one that was approved"


def folder() -> str:
    """The working directory, as ``DEVICE-INODE`` in hexadecimal."""
    return _numbers(os.stat("."))  # noqa: PTH116 - a string for every check of this page


def program(word: str) -> str:
    """The file that ``word`` starts, as ``PATH DEVICE-INODE``; empty where there is none."""
    for path in (word,) if "/" in word else tuple(f"{place}/{word}" for place in SEARCH_PATH):
        if os.access(path, os.X_OK) and Path(path).is_file():
            return f"{path} {_numbers(Path(path).stat())}"
    return ""


def report(words: Sequence[str], image: str) -> Callable[[int], None]:
    """For a child without a program: says the fingerprint of its folder and of each word on standard output, and ``image``."""

    def entry(root: int) -> None:
        found = {"image": image, "folder": folder(), "programs": [program(word) for word in words]}
        os.write(1, json.dumps(found).encode("ascii"))

    return entry


def check(wanted_folder: str, wanted_program: str, word: str) -> Callable[[int], None]:
    """For a child before its program: fails unless both are as they were."""

    def entry(root: int) -> None:
        if folder() != wanted_folder or program(word) != wanted_program:
            raise OSError(errno.ESTALE, CHANGED)

    return entry


def _numbers(found: os.stat_result) -> str:
    return f"{found.st_dev:x}-{found.st_ino:x}"
