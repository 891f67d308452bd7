"""What the supervisor's tests run in place of the daemon: says who it is, then waits to be told to end."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path


def main() -> None:
    home = Path(sys.argv[sys.argv.index("--home") + 1])
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    row = {
        "pid": os.getpid(),
        "uid": os.getuid(),
        "groups": os.getgroups(),
        "cap_bnd": status["CapBnd"],
        "nnp": status["NoNewPrivs"],
        "env": sorted(os.environ),
    }
    with (home / "starts").open("a") as file:
        file.write(json.dumps(row) + "\n")
    signal.sigwait({signal.SIGTERM})


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    main()
