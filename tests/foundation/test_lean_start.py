"""What a start of the daemon does not pay for."""

from __future__ import annotations

import json
import os
import subprocess
import sys

CODE = """
import dataclasses, json, os, sys
process, made = dataclasses._process_class, set()
dataclasses._process_class = lambda cls, *how: made.add(cls.__module__) or process(cls, *how)
import appliance.daemon
import aiohttp.connector, ssl
print(json.dumps({
    "modules": sorted(sys.modules),
    "dataclasses": sorted(made),
    "kept": aiohttp.connector._SSL_CONTEXT_VERIFIED.cert_store_stats()["x509_ca"],
    "own": ssl.create_default_context().cert_store_stats()["x509_ca"],
    "environment": os.environ.get("SSL_CERT_FILE"),
}))
"""

# Each is imported where it is first used (F1): what an idle daemon does not do, it does not carry.
LATE = {
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
    assert [name for name in found["modules"] if name.startswith("webui.handlers.")] == []
    assert {name for name in found["dataclasses"] if name.startswith(("appliance", "webui"))} <= DATACLASSES


def test_no_root_certificates_are_read_for_a_client_nobody_uses() -> None:
    """F1, F2: and whoever makes a TLS client of their own still trusts what the machine trusts."""
    environment = {**os.environ, "SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt"}
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, env=environment)
    found = json.loads(done.stdout)
    assert found["kept"] == 0
    assert found["own"] > 0
    assert found["environment"] == "/etc/ssl/certs/ca-certificates.crt"
