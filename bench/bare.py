"""The steps of one command with nothing of Croft in them: what Python itself costs on the way that C1 measures.

``python bare.py FOLDER`` serves ``POST /`` on ``FOLDER/bare.sock``: one process answers HTTP and keeps two synced rows for
each command, another starts it. No account, policy, limit, record or change of user: a floor to hold C1 against, not a
design to follow.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import socket
import sqlite3
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

from aiohttp import web


def starter(requests: socket.socket) -> NoReturn:
    """One order in, the run's pipe out, its exit status out."""
    while words := requests.recv(65_536):
        read, write = os.pipe2(os.O_CLOEXEC)
        argv = json.loads(words)
        into = [(os.POSIX_SPAWN_DUP2, write, 1), (os.POSIX_SPAWN_DUP2, write, 2)]
        pid = os.posix_spawnp(argv[0], argv, {"PATH": "/usr/bin:/bin"}, file_actions=into)
        os.close(write)
        socket.send_fds(requests, [b"{}"], [read])
        os.close(read)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        requests.send(json.dumps({"exit_code": status}).encode())
    os._exit(0)


class Store:
    """A table of rows, each committed with FULL sync by a thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._jobs: queue.SimpleQueue[tuple[asyncio.Future[None], str]] = queue.SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()

    async def add(self, text: str) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._jobs.put((done, text))
        await done

    def _work(self) -> None:
        database = sqlite3.connect(self._path, isolation_level=None)
        database.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE said (text)")
        while True:
            done, text = self._jobs.get()
            database.execute("INSERT INTO said VALUES (?)", (text,))
            done.get_loop().call_soon_threadsafe(done.set_result, None)


async def packet(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(connection, ready.set_result, None)
    await ready
    loop.remove_reader(connection)
    words, fds, _, _ = socket.recv_fds(connection, 65_536, 1)
    return json.loads(words), fds


def main() -> None:
    folder = Path(sys.argv[1])
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ours.close()
        starter(theirs)
    theirs.close()
    store = Store(folder / "bare.db")

    async def run(request: web.Request) -> web.Response:
        asked = await request.json()
        await store.add(json.dumps(asked))
        ours.send(json.dumps(asked["argv"]).encode())
        _, pipes = await packet(ours)
        ended, _ = await packet(ours)
        ended["output"] = os.read(pipes[0], 65_536).decode()
        os.close(pipes[0])
        await store.add(json.dumps(ended))
        return web.json_response(ended, status=201)

    app = web.Application()
    app.router.add_post("/", run)
    web.run_app(app, path=str(folder / "bare.sock"), print=None)


if __name__ == "__main__":
    main()
