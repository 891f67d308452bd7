"""Running a helper program to its end, with its output, in bounded time.

Rule: only programs and words that the broker itself put together; never a client's.
"""

from __future__ import annotations

import os
import select
import signal
import time

from appliance.broker.accounts import Account
from appliance.broker.launch import Launch, end, launch

_MOST_OUTPUT = 65_536


def run(
    argv: tuple[str, ...], *, seconds: float, account: Account | None = None, env: dict[str, str] | None = None
) -> tuple[int, str]:
    """Exit status (negative: the signal that ended it) and the end of what it printed.

    It is killed after ``seconds``. Raises CroftError when it cannot be started.
    """
    read, write = os.pipe2(os.O_CLOEXEC)
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            pid = launch(Launch(argv, root, null, write, write, env=env or {"LANG": "C.UTF-8"}, account=account))
        finally:
            for fd in (write, root, null):
                os.close(fd)
        return _collect(pid, read, time.monotonic() + seconds)
    finally:
        os.close(read)


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
