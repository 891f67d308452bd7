"""LocalAI's outside on the real llama.cpp engine: port 8080, /readyz and /healthz open, the rest behind the key."""

from __future__ import annotations

import hmac
import http.client
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import xllamacpp

KEY = os.environ.get("LOCALAI_API_KEY", "")


def start_engine() -> int:
    """Load the model; the port llama.cpp's own server listens on, on loopback."""
    params = xllamacpp.CommonParams()
    params.model.path = "/opt/engine/tiny.gguf"
    params.n_ctx = 512
    params.n_parallel = 1
    params.port = 8081
    global engine
    engine = xllamacpp.Server(params)
    return int(engine.listening_address.rpartition(":")[2])


class Front(BaseHTTPRequestHandler):
    """Checks the key and passes on."""

    protocol_version = "HTTP/1.0"
    port = 0

    def do_GET(self) -> None:
        if self.path in ("/readyz", "/healthz"):
            self.answer(200, b"OK")
        else:
            self.forward(None)

    def do_POST(self) -> None:
        self.forward(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def forward(self, body: bytes | None) -> None:
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if KEY and not hmac.compare_digest(given.encode(), KEY.encode()):
            self.answer(401, b'{"error": {"message": "An authentication key is required"}}')
            return
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        link.request(self.command, self.path, body, {"Content-Type": "application/json"})
        answer = link.getresponse()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
        self.end_headers()
        while chunk := answer.read1(65536):
            self.wfile.write(chunk)
        link.close()

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    Front.port = start_engine()
    ThreadingHTTPServer(("0.0.0.0", 8080), Front).serve_forever()
