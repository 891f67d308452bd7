"""What a start of the daemon does not pay for."""

from __future__ import annotations

import json
import os
import subprocess
import sys

CODE = """
import json, os, sys
import appliance.daemon
import aiohttp.connector, ssl
print(json.dumps({
    "modules": sorted(sys.modules),
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
    "docker",
    "jwt",
    "psutil",
    "statistics",
    "difflib",
    "gzip",
    "csv",
}


def test_nothing_is_carried_that_an_idle_daemon_does_not_use() -> None:
    """F1, F2"""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert LATE & set(json.loads(done.stdout)["modules"]) == set()


def test_no_root_certificates_are_read_for_a_client_nobody_uses() -> None:
    """F1, F2: and whoever makes a TLS client of their own still trusts what the machine trusts."""
    environment = {**os.environ, "SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt"}
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, env=environment)
    found = json.loads(done.stdout)
    assert found["kept"] == 0
    assert found["own"] > 0
    assert found["environment"] == "/etc/ssl/certs/ca-certificates.crt"
