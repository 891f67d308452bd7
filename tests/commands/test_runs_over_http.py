"""Running: what comes back, what is kept, what ends it, and that the environment is ours alone."""

from __future__ import annotations

import asyncio
import os

import pytest


async def test_an_allowed_command_runs_at_once(room):
    run = await room.propose("echo", "hello", wait=10)
    assert (run["state"], run["exit_code"], run["verdict"], run["rule"]) == ("done", 0, "allow", "quick-echo")
    assert (run["bytes"], run["truncated"]) == (6, False)
    assert await room.output(run["id"]) == b"hello\n"
