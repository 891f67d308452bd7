"""The half of aiohttp that serves. Import this before anything of aiohttp.

Whoever imports a page of aiohttp gets its client as well: measured here, 20 ms of a start and 2 MB for good, and beside that
150 ms and 3 MB for a default TLS context with every root certificate of the machine. The daemon needs that client to fetch models
and for nothing else. So the package stands empty around its server half, and begins as it always does when it is first asked
for anything that this half did not bring.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from types import ModuleType
from typing import Any

_turn = threading.RLock()


class _Package(ModuleType):
    """``aiohttp`` before its own beginning has run."""

    def __getattr__(self, name: str) -> Any:
        # Another thread waits until the package has begun; the package, asking itself meanwhile, gets what is there so far.
        with _turn:
            spec = self.__spec__
            if "_begun" not in vars(self) and not name.startswith("__") and spec and spec.loader:
                self._begun = True
                spec.loader.exec_module(self)
        if name not in vars(self):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return vars(self)[name]


def _server_half() -> None:
    spec = importlib.util.find_spec("aiohttp")
    if spec is None or "aiohttp" in sys.modules:
        return
    package = sys.modules["aiohttp"] = importlib.util.module_from_spec(spec)
    package.__dict__["__version__"] = ""  # which its header "Server" would name
    importlib.import_module("aiohttp.web")
    package.__class__ = _Package


_server_half()
