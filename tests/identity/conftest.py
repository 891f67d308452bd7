"""The identity room over a real store that can be closed and opened again, with a clock to turn and a boot to change."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.folders import short_folder
from support.front import Front, front

from appliance import keys
from appliance.clock import ManualClock


class House:
    """``opened`` is one life of the daemon; ``reboot`` makes the next one another boot of the machine."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.clock, self._boot = folder, ManualClock(), 1
        monkeypatch.setattr(keys, "boot_id", lambda: f"boot-{self._boot}")

    def reboot(self, off_for: float = 60.0) -> None:
        self._boot += 1
        self.clock.wall += off_for
        self.clock.boot = 5.0

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Front]:
        async with front(self.folder, self.clock) as life:
            yield life


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    with short_folder() as folder:
        yield House(folder, monkeypatch)


@pytest.fixture
async def home(house: House) -> AsyncIterator[Front]:
    async with house.opened() as life:
        yield life
