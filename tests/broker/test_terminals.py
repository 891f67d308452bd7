"""Counting terminals in which something is running."""

from __future__ import annotations

import os
import pty
import signal

from appliance.broker import terminals

PROMPT = b"@@"


def test_a_shell_at_its_prompt_is_idle_and_one_with_a_child_in_front_is_not(poll):
    before = terminals.foreground(os.geteuid(), below=os.getpid())
    assert before == 0
    pid, master = pty.fork()
    if pid == 0:
        os.execve("/bin/bash", ["bash", "--norc", "-i"], {"PS1": PROMPT.decode()})  # noqa: S606 - a shell is what is tested
    try:
        poll(lambda: PROMPT in os.read(master, 4096), seconds=30)
        poll(lambda: terminals.foreground(os.geteuid(), below=os.getpid()) == 0)
        os.write(master, b"sleep 300\n")
        poll(lambda: terminals.foreground(os.geteuid(), below=os.getpid()) == 1)
        assert terminals.foreground(os.geteuid()) >= 1
        assert terminals.foreground(65_533) == 0
        assert terminals.foreground(os.geteuid(), below=pid) == 1
        os.write(master, b"\x03")
        poll(lambda: terminals.foreground(os.geteuid(), below=os.getpid()) == 0)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.close(master)
        os.waitpid(pid, 0)
