"""The helper of toolchains as tests run it, and a source of tiny Pythons that uv fetches over HTTPS."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OPENSSL = ("openssl", "req", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-x509")


def helper(home: Path, *words: str, **env: str) -> list[dict[str, Any]]:
    """What the helper says, line by line."""
    done = subprocess.run(
        [sys.executable, "-I", "-m", "appliance.host.tools", *words],
        env={"HOME": str(home), "PATH": "/usr/bin:/bin", **env},
        stdout=subprocess.PIPE,
        check=False,
        timeout=90,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


@dataclass
class Source:
    """Where uv finds its list of Pythons and whose certificate it trusts; the rest is as in production."""

    folder: Path
    port: int

    @property
    def env(self) -> dict[str, str]:
        return {
            "SSL_CERT_FILE": str(self.folder / "ca.pem"),
            "UV_PYTHON_DOWNLOADS_JSON_URL": str(self.folder / "list.json"),
            "UV_HTTP_RETRIES": "0",
        }

    def offer(self, digest: str = "") -> None:
        """A list with one Python of the layout that uv's own list leads to."""
        machine = os.uname().machine
        row = {
            "name": "cpython",
            "arch": {"family": machine, "variant": None},
            "os": "linux",
            "libc": "gnu",
            "major": 3,
            "minor": 13,
            "patch": 7,
            "prerelease": "",
            "variant": None,
            "url": f"https://localhost:{self.port}/python.tar.gz",
            "sha256": digest or hashlib.sha256((self.folder / "python.tar.gz").read_bytes()).hexdigest(),
            "build": "20260101",
        }
        (self.folder / "list.json").write_text(json.dumps({f"cpython-3.13.7-linux-{machine}-gnu": row}))


def certificates(folder: Path) -> None:
    def make(name: str, *more: str) -> None:
        out = ("-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem"), "-subj", f"/CN={name}")
        subprocess.run([*OPENSSL, *out, *more], check=True, capture_output=True)

    make("ca")
    signer = ("-CA", str(folder / "ca.pem"), "-CAkey", str(folder / "ca.key"))
    make("leaf", *signer, "-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE")


def tiny_python(folder: Path) -> None:
    programs = folder / "python/bin"
    programs.mkdir(parents=True)
    (folder / "python/lib/python3.13").mkdir(parents=True)
    data = f"_sysconfigdata__linux_{os.uname().machine}-linux-gnu.py"  # uv writes its own paths into it
    (folder / "python/lib/python3.13" / data).write_text(
        "# system configuration generated and used by the sysconfig module\nbuild_time_vars = {}\n"
    )
    (programs / "python3.13").write_text("#!/bin/sh\necho Python 3.13.7\n")
    (programs / "python3.13").chmod(0o755)
    (programs / "python3").symlink_to("python3.13")
    with tarfile.open(folder / "python.tar.gz", "w:gz") as archive:
        archive.add(folder / "python", "python")
