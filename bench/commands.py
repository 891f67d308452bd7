"""C4: starting a command costs the same however much memory the daemon holds, because the broker starts it."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

from measure import Figure, NotRun, interleave, medians, ratio
from stage import running_appliance

COUNT = 40

# The daemon's part, in a process of its own so that its size can be chosen: argv is the socket, megabytes, how many.
CLIENT = """
import asyncio, os, statistics, sys, time
from pathlib import Path
from appliance.broker.client import BrokerClient

async def main(path, megabytes, count):
    ballast = bytearray(os.urandom(4096)) * (megabytes * 256)
    client, loop, spent = BrokerClient(Path(path)), asyncio.get_running_loop(), []
    await client.connect()
    for _ in range(count):
        began = time.perf_counter()
        reply = await client.call("spawn", argv=["true"])
        ended = loop.create_future()
        loop.add_reader(reply.fds[0], lambda: ended.done() or ended.set_result(None))
        await ended
        spent.append(time.perf_counter() - began)
        loop.remove_reader(reply.fds[0])
        for fd in reply.fds:
            os.close(fd)
    print(statistics.median(spent) * 1000, len(ballast))
    await client.close()

asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
"""


def spawn(rounds: int) -> list[Figure]:
    with running_appliance(ide=True) as appliance:
        account, path = pwd.getpwnam(appliance.settings.users_daemon), appliance.paths.socket("broker")
        switch = {"user": account.pw_uid, "group": account.pw_gid} if os.geteuid() == 0 else {}

        def once(megabytes: int) -> float:
            done = subprocess.run(
                [sys.executable, "-c", CLIENT, str(path), str(megabytes), str(COUNT)],
                capture_output=True,
                text=True,
                timeout=60,
                cwd=Path(__file__).resolve().parents[1],
                check=False,
                **switch,
            )
            if done.returncode:
                raise NotRun(f"the broker starts no command here: {done.stderr.strip().splitlines()[-1:]}")
            return float(done.stdout.split()[0])

        found = interleave({"400 MB": lambda: once(400), "small": lambda: once(0)}, rounds)
    detail = {f"{name}, ms": value for name, value in medians(found).items()}
    return [
        Figure(
            "C4",
            "start of a command, p50: 400 MB daemon / small one",
            1.2,
            1.05,
            True,
            ratio(found, "400 MB", "small"),
            detail=detail,
        )
    ]
