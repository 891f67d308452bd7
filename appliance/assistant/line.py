"""Whose turn it is at the engine, which does one thing or a few at once.

Rule: fair between people, not between questions: who was served last comes last, and within one person the first question is first.
A place is given back however the work ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Told = Callable[[int], None]


@dataclass(eq=False)
class _Ticket:
    person: str
    told: Told
    called: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Line:
    """Tickets wait; as many of them work as ``places`` says at the moment."""

    def __init__(self, places: Callable[[], int] = lambda: 1) -> None:
        self._places = places
        self._working = 0
        self._waiting: list[_Ticket] = []
        self._served: dict[str, int] = {}  # when each person was served last, counted in turns
        self._turns = 0

    @property
    def quiet(self) -> bool:
        """Whether nobody works or waits."""
        return not (self._working or self._waiting)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @asynccontextmanager
    async def turn(self, person: str, told: Told = lambda place: None) -> AsyncIterator[None]:
        """Wait for a turn, then work inside. ``told`` hears the place while waiting, 1 being next; 0 once it is one's turn."""
        ticket = _Ticket(person, told)
        self._waiting.append(ticket)
        self._call()
        try:
            await ticket.called
        except BaseException:
            self._leave(ticket)
            raise
        try:
            told(0)
            yield
        finally:
            self._working -= 1
            self._call()

    def _leave(self, ticket: _Ticket) -> None:
        if ticket in self._waiting:
            self._waiting.remove(ticket)
            self._tell()
        elif ticket.called.done() and not ticket.called.cancelled():
            self._working -= 1  # called in the moment it was given up
            self._call()

    def _call(self) -> None:
        while self._working < self._places():
            # One that was given up this moment is still here until its owner hears of it.
            ticket = next((one for one in self._order() if not one.called.done()), None)
            if ticket is None:
                break
            self._waiting.remove(ticket)
            self._working += 1
            self._turns += 1
            self._served[ticket.person] = self._turns
            ticket.called.set_result(None)
        if not self._waiting and not self._working:
            self._served.clear()
        self._tell()

    def _order(self) -> list[_Ticket]:
        """Everyone in the order in which they will be called, as things stand: one of each person in turn."""
        round_of: dict[str, int] = {}
        keys = {}
        for number, ticket in enumerate(self._waiting):
            round_of[ticket.person] = round_of.get(ticket.person, 0) + 1
            keys[ticket] = (round_of[ticket.person], self._served.get(ticket.person, 0), number)
        return sorted(self._waiting, key=keys.__getitem__)

    def _tell(self) -> None:
        for place, ticket in enumerate(self._order(), 1):
            ticket.told(place)
