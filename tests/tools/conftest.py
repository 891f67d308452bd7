"""A broker for toolchains, and a source of tiny Pythons."""

from __future__ import annotations

import http.server
import ssl
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from support.broker import Home, home_folder
from support.toolchains import Source, certificates, tiny_python
from support.wheels import Index, served


@pytest.fixture(scope="module")
def broker(names: dict[str, str]) -> Iterator[Home]:
    with home_folder(names) as made:
        made.start()
        yield made


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Source]:
    folder = tmp_path_factory.mktemp("source")
    certificates(folder)
    tiny_python(folder)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, directory=str(folder), **more)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "leaf.pem", folder / "leaf.key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        made = Source(folder, server.server_address[1])
        made.offer()
        yield made
        server.shutdown()
        thread.join()


@pytest.fixture
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    with served(tmp_path_factory.mktemp("index")) as made:
        yield made
