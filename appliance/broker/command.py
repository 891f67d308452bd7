"""Running a helper program to its end, with its output, in bounded time.

Rule: only programs and words that the broker itself put together; never a client's.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable

from appliance.broker.accounts import Account
from appliance.broker.launch import Launch, end, launch

_MOST_OUTPUT = 65_536


def run(
    argv: tuple[str, ...],
    *,
    seconds: float,
    account: Account | None = None,
    env: dict[str, str] | None = None,
    given: str = "",
    entry: Callable[[int], None] | None = None,
) -> tuple[int, str]:
    """Exit status (negative: the signal that ended it) and the end of what it printed.

    It is killed after ``seconds``. ``given`` is its standard input, ``entry`` as for Launch. Raises CroftError when it
    cannot be started.
    """
    read, write = os.pipe2(os.O_CLOEXEC)
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    text = _filled(given)
    plan = Launch(argv, root, text, write, write, env=env or {"LANG": "C.UTF-8"}, account=account, entry=entry)
    try:
        try:
            pid = launch(plan)
        finally:
            for fd in (write, root, text):
                os.close(fd)
        return _collect(pid, read, time.monotonic() + seconds)
    finally:
        os.close(read)


def _filled(text: str) -> int:
    """A descriptor to read ``text`` from."""
    fd = os.memfd_create("given", os.MFD_CLOEXEC)
    os.write(fd, text.encode("utf-8"))
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _collect(pid: int, read: int, deadline: float) -> tuple[int, str]:
    poller, said = select.poll(), b""
    poller.register(read, select.POLLIN)
    while poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
        chunk = os.read(read, _MOST_OUTPUT)
        if not chunk:
            break
        said = (said + chunk)[-_MOST_OUTPUT:]
    return _status(pid, deadline), said.decode("utf-8", "replace")


def _status(pid: int, deadline: float) -> int:
    """How it ended. Closing its output is no end: who only does that is killed at the deadline too."""
    wait = 0.001
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= deadline:
            end(pid)
            return -signal.SIGKILL
        time.sleep(wait)
        wait = min(0.05, wait * 2)
