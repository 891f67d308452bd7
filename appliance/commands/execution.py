"""An execution, whole: everything that an approval is given for, in one canonical encoding (DECIDED 26).

Rule: what is hashed is what is sent to the broker. A field that changes what happens belongs in here; the contents of a
script do not, and the card says so.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from msgspec import Struct, to_builtins

from appliance.commands.model import Limits, Scope

VERSION = 2  # 2: image
NO_INPUT = hashlib.sha256(b"").hexdigest()


class Execution(Struct, frozen=True):
    """``folder`` and ``programs`` are the broker's fingerprints: path, device and inode as the run itself would see them.

    ``image`` is the id of the image that the run's container was made of, empty where there is none: what a program loads
    besides itself changes with that.
    """

    scope: Scope
    runtime: str
    image: str
    uid: int
    workspace: str
    cwd: str
    folder: str
    programs: tuple[str, ...]
    stages: tuple[tuple[str, ...], ...]
    env: Mapping[str, str]
    limits: Limits
    rule: str
    policy: str
    view: str = "plain"
    stdin: str = NO_INPUT
    version: int = VERSION

    def digest(self) -> str:
        """SHA-256 in hexadecimal over the canonical encoding: JSON with sorted keys, lists for every sequence."""
        body = json.dumps(to_builtins(self), sort_keys=True, ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(b"croft-execution\0" + body.encode("ascii")).hexdigest()

    @property
    def expected(self) -> Mapping[str, Any] | None:
        """The fingerprints that the broker holds the run to; None where it starts nothing."""
        if self.scope == "host":
            return None
        return {"image": self.image, "folder": self.folder, "programs": list(self.programs)}


def shape(scope: str, stages: tuple[tuple[str, ...], ...], cwd: str, view: str) -> str:
    """What makes two proposals the same, whatever the policy and the machine are by then: for muting (AI-6)."""
    body = json.dumps([scope, stages, cwd, view], ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(b"croft-shape\0" + body.encode("ascii")).hexdigest()
