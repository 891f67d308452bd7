"""What a start of the daemon does not pay for."""

from __future__ import annotations

import json
import subprocess
import sys

CODE = """
import dataclasses, json, sys
process, made = dataclasses._process_class, set()
dataclasses._process_class = lambda cls, *how: made.add(cls.__module__) or process(cls, *how)
import appliance.daemon, appliance.serving, webui.handlers.health  # what the first answer takes
print(json.dumps({"modules": sorted(sys.modules), "dataclasses": sorted(made)}))
"""

# Each is imported where it is first used (F1): what an idle daemon does not do, it does not carry.
LATE = {
    "aiohttp.client",
    "aiohttp.connector",
    "aiosmtplib",
    "smtplib",
    "webauthn",
    "cbor2",
    "segno",
    "openai",
    "httpx",
    "httpx2",
    "jinja2",
    "aiohttp_jinja2",
    "markdown_it",
    "pygments",
    "nh3",
    "xllamacpp",
    "docker",
    "jwt",
    "psutil",
    "statistics",
    "difflib",
    "gzip",
    "csv",
    "webui.charts",
    "webui.filters",
    "webui.log_lines",
    "webui.views",
    "appliance.assistant.editor",
    "appliance.assistant.endpoint",
    "appliance.assistant.engine_http",
    "appliance.assistant.models",
    "appliance.assistant.remote_engine",
    "appliance.assistant.workshop",
    "appliance.jobs",
    "appliance.host.machine",
    "appliance.host.tools",
    "appliance.broker.images",
    "appliance.commands.why",
    "appliance.telemetry.exposition",
}
# Keep a secret out of their repr, check what they are given in an order of their own, or are the broker's too, which has the
# standard library alone. Everything else that only holds values is a msgspec.Struct: Python compiles a dataclass when it is
# imported, 0.9 ms each, and 135 of them were a quarter of a start.
DATACLASSES = {
    "appliance.settings",
    "appliance.broker.protocol",
    "appliance.identity.sessions",
    "appliance.identity.api_tokens",
    "appliance.commands.judge",
    "appliance.assistant.engine",
    "appliance.assistant.local_engine",
}


def test_nothing_is_carried_that_an_idle_daemon_does_not_use() -> None:
    """F1, F2"""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert LATE & set(found["modules"]) == set()
    assert [name for name in found["modules"] if name.startswith("webui.handlers.")] == ["webui.handlers.health"]
    assert {name for name in found["dataclasses"] if name.startswith(("appliance", "webui"))} <= DATACLASSES


def test_the_client_nobody_uses_begins_when_it_is_asked_for() -> None:
    """F1, F2: whole, and once, whoever asks first; names that are nowhere stay unknown."""
    code = """
import threading
import appliance.serving
import aiohttp
found = []
threads = [threading.Thread(target=lambda: found.append(aiohttp.ClientSession)) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
from aiohttp import ClientError, hdrs, web
assert len(found) == 8 and set(found) == {aiohttp.client.ClientSession}, found
assert aiohttp.web is web and issubclass(aiohttp.ServerDisconnectedError, ClientError) and aiohttp.__version__
assert not hasattr(aiohttp, "nothing")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
