"""LocalAI's outside as its documentation and source (2026-08) have it, for what the appliance asks of it when somebody goes: a chat
that streams, /backend/monitor and /backend/shutdown. Standard library only; run as the program `local-ai`.

The model is a process that uses a processor and says the same word over and over. ``LOCALAI_MANNER`` says what happens when a client
goes: ``hears`` (the backend stops), ``deaf`` (LocalAI gives the request up, its backend goes on), ``waits`` (LocalAI does not notice).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MANNER = os.environ.get("LOCALAI_MANNER", "hears")
GRACEFUL_SECONDS = 30.0  # LocalAI's gracefulShutdownTimeout
BUSY = f"while True: pass  # at work on {os.environ.get('LOCALAI_MODELS_PATH')}"
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"word "},"finish_reason":null}]}\n\n'


class Backend:
    """The process behind LocalAI that serves the model."""

    def __init__(self) -> None:
        self.loaded, self.in_flight = False, 0
        self.work: list[subprocess.Popen[bytes]] = []

    def begin(self) -> subprocess.Popen[bytes]:
        if not self.loaded:
            say("model loaded")
        self.loaded = True
        self.in_flight += 1
        self.work.append(subprocess.Popen([sys.executable, "-I", "-c", BUSY]))
        return self.work[-1]

    def shut_down(self) -> int:
        """The status of /backend/shutdown: it waits for requests that LocalAI itself still waits for."""
        if not self.loaded:
            return 404
        end = time.monotonic() + GRACEFUL_SECONDS
        while self.in_flight:
            if time.monotonic() > end:
                return 500
            time.sleep(0.1)
        for one in self.work:
            one.kill()
            one.wait()
        self.work, self.loaded = [], False
        say("model stopped")
        return 200


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


BACKEND = Backend()


class Front(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/readyz"):
            self.answer(200, {"status": "ok"})
        elif self.path.startswith("/backend/monitor"):
            while BACKEND.in_flight:  # one call to a backend at a time
                time.sleep(0.05)
            self.answer(500, {"error": {"message": "the backend tells no state"}})
        else:
            self.answer(404, {"error": {"message": "not found"}})

    def do_POST(self) -> None:
        asked: Any = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/backend/shutdown":
            assert asked == {"model": os.environ["LOCALAI_LOAD_TO_MEMORY"]}
            status = BACKEND.shut_down()
            self.answer(status, {"message": "model stopped"})
        elif self.path == "/v1/chat/completions":
            self.chat(int(asked["max_tokens"]))
        else:
            self.answer(404, {"error": {"message": "not found"}})

    def chat(self, count: int) -> None:
        work = BACKEND.begin()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        try:
            for _ in range(count):
                self.wfile.write(EVENT)
                time.sleep(0.02)
            self.wfile.write(b"data: [DONE]\n\n")
            work.kill()
        except OSError:
            say("the client has gone")
            if MANNER == "hears":
                work.kill()
            elif MANNER == "waits":
                threading.Event().wait()
        BACKEND.in_flight -= 1

    def answer(self, status: int, data: object) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(data).encode())


if __name__ == "__main__":
    host, _, port = os.environ["LOCALAI_ADDRESS"].rpartition(":")
    ThreadingHTTPServer((host, int(port)), Front).serve_forever()
