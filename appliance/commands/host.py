"""The host's typed verbs, carried out by the daemon through its own parts (SECURITY 5.2, 7).

Rule: a closed table. What a verb takes is checked here again, whatever the policy let through, and no word of a command
ever becomes an option of a program: where one is started, its words are fixed and the name comes from a list.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from appliance.commands.runs import Work
from appliance.errors import Invalid, NotFound, Unavailable

LINES = 200
LINES_MOST = 5000
ACTOR = "command"
UNITS = ("croft", "croft-broker", "caddy", "docker")
_SYSTEMCTL = (
    "systemctl",
    "--no-pager",
    "show",
    "--property=Id,ActiveState,SubState,Result,ActiveEnterTimestamp,NRestarts",
)
_JOURNAL = ("journalctl", "--no-pager", "--quiet", "--output=short-iso")

Verb = Callable[[tuple[str, ...]], AsyncIterator[bytes]]


class View(Protocol):
    """One service, as far as it is printed."""

    @property
    def name(self) -> str: ...
    @property
    def state(self) -> Any: ...
    @property
    def health(self) -> Any: ...
    @property
    def memory_bytes(self) -> int: ...


class Supervisor(Protocol):
    """What of the services this room uses."""

    def views(self) -> Iterable[View]: ...
    async def logs(self, name: str, lines: int) -> Iterable[Any]: ...
    async def start(self, name: str, actor: str) -> None: ...
    async def stop(self, name: str, actor: str) -> None: ...
    async def restart(self, name: str, actor: str) -> None: ...


class HostVerbs:
    """Call it with a command's words to get the work that carries it out. Raises NotFound."""

    def __init__(self, supervisor: Supervisor, state: Path) -> None:
        self._supervisor, self._state = supervisor, state
        self._table: Mapping[tuple[str, ...], Verb] = {
            ("service", "list"): self._list,
            ("service", "logs"): self._logs,
            ("service", "start"): lambda words: self._act(supervisor.start, words),
            ("service", "stop"): lambda words: self._act(supervisor.stop, words),
            ("service", "restart"): lambda words: self._act(supervisor.restart, words),
            ("unit", "status"): _unit,
            ("journal",): _journal,
            ("disk", "usage"): self._disk,
            ("memory", "usage"): _memory,
        }

    def __call__(self, argv: tuple[str, ...]) -> Work:
        for length in (2, 1):
            if verb := self._table.get(argv[:length]):
                found, rest = verb, argv[length:]
                return lambda: found(rest)
        raise NotFound("there is no such host verb", hint="The policy page lists them.")

    async def _list(self, words: tuple[str, ...]) -> AsyncIterator[bytes]:
        _nothing_more(words)
        for view in self._supervisor.views():
            yield f"{view.name:8} {view.state!s:10} {view.health!s:10} {view.memory_bytes >> 20} MiB\n".encode()

    async def _logs(self, words: tuple[str, ...]) -> AsyncIterator[bytes]:
        rest, lines = _count(words)
        (name,) = _exactly(1, rest)
        for line in await self._supervisor.logs(name, lines):
            yield f"{line.text}\n".encode("utf-8", "replace")

    async def _act(self, act: Callable[[str, str], Awaitable[None]], words: tuple[str, ...]) -> AsyncIterator[bytes]:
        (name,) = _exactly(1, words)
        await act(name, ACTOR)
        yield f"{name}: asked for\n".encode()

    async def _disk(self, words: tuple[str, ...]) -> AsyncIterator[bytes]:
        _nothing_more(words)
        usage = await asyncio.to_thread(shutil.disk_usage, self._state)
        yield f"total {usage.total >> 20} MiB\nused  {usage.used >> 20} MiB\nfree  {usage.free >> 20} MiB\n".encode()


async def _memory(words: tuple[str, ...]) -> AsyncIterator[bytes]:
    _nothing_more(words)
    import psutil

    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    yield (
        f"total     {memory.total >> 20} MiB\navailable {memory.available >> 20} MiB\n"
        f"swap      {swap.used >> 20} of {swap.total >> 20} MiB\n"
    ).encode()


async def _unit(words: tuple[str, ...]) -> AsyncIterator[bytes]:
    (name,) = _exactly(1, words)
    yield await _output(*_SYSTEMCTL, "--", f"{_known_unit(name)}.service")


async def _journal(words: tuple[str, ...]) -> AsyncIterator[bytes]:
    rest, lines = _count(words)
    flag, name = _exactly(2, rest)
    if flag != "-u":
        raise Invalid("the journal is read unit by unit", hint="Write journal -u UNIT -n LINES.")
    yield await _output(*_JOURNAL, f"--lines={lines}", f"--unit={_known_unit(name)}.service")


async def _output(*argv: str) -> bytes:
    """What a fixed program of the system prints. Raises Unavailable where it is not there or refuses."""
    try:
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
    except OSError as error:
        raise Unavailable(f"cannot ask {argv[0]}: this machine has none", hint="It needs systemd.") from error
    try:
        said, _ = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        raise Unavailable(f"{argv[0]} refused", hint="This account may not read it, or systemd does not run here.")
    return said


def _known_unit(name: str) -> str:
    found = name.removesuffix(".service")
    if found not in UNITS:
        raise NotFound("there is no such unit here", hint=f"There are {', '.join(UNITS)}.")
    return found


def _count(words: tuple[str, ...]) -> tuple[tuple[str, ...], int]:
    """The words without ``-n N``, and N."""
    place = next((place for place, word in enumerate(words) if word.startswith("-n")), -1)
    if place < 0:
        return words, LINES
    joined = words[place][2:]
    number = joined or (words[place + 1] if place + 1 < len(words) else "")
    if not (number.isascii() and number.isdigit() and len(number) < 6 and 1 <= int(number) <= LINES_MOST):
        raise Invalid("-n takes a number of lines", hint=f"Between 1 and {LINES_MOST}.")
    return words[:place] + words[place + (1 if joined else 2) :], int(number)


def _exactly(count: int, words: tuple[str, ...]) -> tuple[str, ...]:
    if len(words) != count:
        raise Invalid("this verb takes other words", hint="The policy page shows its shape.")
    return words


def _nothing_more(words: tuple[str, ...]) -> None:
    _exactly(0, words)
