"""LocalAI's outside on the real llama.cpp engine: port 8080, /readyz and /healthz open, the rest behind the key.

Besides /v1 it speaks what Croft asks LocalAI for: /models/apply and its jobs (a model is "installed" by copying the tiny one, in
small steps), /models/delete and /backend/monitor.
"""

from __future__ import annotations

import hmac
import http.client
import json
import os
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import xllamacpp

KEY = os.environ.get("LOCALAI_API_KEY", "")
MODELS = Path(os.environ.get("LOCALAI_MODELS_PATH", "/models"))
TINY = Path(os.environ.get("TINY_MODEL", "/opt/engine/tiny.gguf"))
HOST, _, PORT = os.environ.get("LOCALAI_ADDRESS", ":8080").rpartition(":")
STEPS, STEP_SECONDS = 10, 0.1
JOBS: dict[str, dict[str, Any]] = {}


def start_engine() -> int:
    """Load the model; the port llama.cpp's own server listens on, on loopback."""
    params = xllamacpp.CommonParams()
    params.model.path = str(TINY)
    params.n_ctx = 4096
    params.n_parallel = 1
    params.cache_ram_mib = 0
    global engine
    engine = xllamacpp.Server(params)
    return int(engine.listening_address.rpartition(":")[2])


def install(job: dict[str, Any], path: Path) -> None:
    """A "download", as a job tells of it."""
    data = TINY.read_bytes()
    job.update(phase="downloading", file_name=path.name, file_size=str(len(data)), total_bytes=len(data))
    with path.open("wb") as file:
        for n in range(STEPS):
            file.write(data[n * len(data) // STEPS : (n + 1) * len(data) // STEPS])
            job.update(current_bytes=file.tell(), progress=100 * (n + 1) / STEPS)
            time.sleep(STEP_SECONDS)
    job.update(processed=True, message="completed", phase="persisting")


class Front(BaseHTTPRequestHandler):
    """Checks the key and passes on."""

    protocol_version = "HTTP/1.0"
    port = 0

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path in ("/readyz", "/healthz"):
            self.answer(200, {"status": "ok"})
        elif not self.allowed():
            return
        elif path.startswith("/models/jobs/"):
            job = JOBS.get(path.rpartition("/")[2])
            self.answer(200 if job else 500, job or {"error": {"message": "could not find any status for ID"}})
        elif path == "/backend/monitor":
            self.answer(200, {"state": 1 if self.busy() else 2, "memory": {}})
        else:
            self.forward(None)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self.allowed():
            return
        if self.path == "/models/apply":
            self.apply(json.loads(body))
        elif self.path.startswith("/models/delete/"):
            (MODELS / f"{self.path.rpartition('/')[2]}.gguf").unlink(missing_ok=True)
            self.answer(200, {})
        else:
            self.forward(body)

    def apply(self, asked: dict[str, Any]) -> None:
        number = str(uuid.uuid4())
        name = str(asked.get("name") or asked["id"]).replace(":", "-")
        JOBS[number] = {
            "processed": False,
            "progress": 0.0,
            "message": "processing",
            "error": None,
            "phase": "resolving",
        }
        threading.Thread(target=install, args=(JOBS[number], MODELS / f"{name}.gguf"), daemon=True).start()
        self.answer(200, {"uuid": number, "status": f"http://localhost:8080/models/jobs/{number}"})

    def allowed(self) -> bool:
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if not KEY or hmac.compare_digest(given.encode(), KEY.encode()):
            return True
        self.answer(401, {"error": {"message": "An authentication key is required"}})
        return False

    def busy(self) -> bool:
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        link.request("GET", "/slots")
        found = json.loads(link.getresponse().read())
        link.close()
        return any(slot["is_processing"] for slot in found)

    def forward(self, body: bytes | None) -> None:
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        link.request(self.command, self.path, body, {"Content-Type": "application/json"})
        answer = link.getresponse()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
        self.end_headers()
        try:
            while chunk := answer.read1(65536):
                self.wfile.write(chunk)
        except OSError:
            pass  # whoever asked has gone; closing below tells the engine
        finally:
            answer.close()
            link.close()

    def answer(self, status: int, data: object) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    Front.port = start_engine()
    ThreadingHTTPServer((HOST or "0.0.0.0", int(PORT)), Front).serve_forever()
