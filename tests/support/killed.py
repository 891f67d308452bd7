"""A process that kills itself as kill -9 would, right after it said something."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

_TESTS = Path(__file__).parents[1]


async def killed(script: str, folder: Path) -> list[str]:
    """The words a script wrote before it died; it finds ``folder`` in its arguments."""
    died = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", script, folder],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(_TESTS)},
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    return died.stdout.split()
