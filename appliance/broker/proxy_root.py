"""Publishing the root certificate of Caddy's own authority, which Caddy keeps in a folder only it can read.

Rule: Caddy owns that folder and could put anything there, a link to a secret of root's included. So the file is opened beneath
the folder without following a link out, it is small, and only what is shaped like one certificate is passed on.
"""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path

from appliance.broker import kernel
from appliance.settings import Settings

_PLACES = ("caddy/pki/authorities/local/root.crt", "pki/authorities/local/root.crt")
_LARGEST = 16 * 1024
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\n]+-----END CERTIFICATE-----\n?\Z")
_SOON, _LATER = 2.0, 300.0  # seconds between looks, before and after there is one


class ProxyRoot:
    """Copies the certificate to ``paths.proxy_root`` when it appears or changes."""

    def __init__(self, settings: Settings) -> None:
        self._data = settings.paths.caddy_data
        self._target = settings.paths.proxy_root
        self._published = b""
        self._next = 0.0

    def pump(self) -> float:
        """Look if it is time to. Seconds until the next look."""
        now = time.monotonic()
        if now >= self._next:
            certificate = self._read()
            if certificate and certificate != self._published:
                self._publish(certificate)
            self._next = now + (_LATER if self._published else _SOON)
        return self._next - now

    def _read(self) -> bytes:
        try:
            folder = os.open(self._data, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return b""
        try:
            return next((found for place in _PLACES if (found := _certificate(folder, place))), b"")
        finally:
            os.close(folder)

    def _publish(self, certificate: bytes) -> None:
        """A full file system costs the copy, until the next look, and never the broker."""
        scratch = self._target.with_suffix(".new")
        try:
            _write(scratch, certificate)
            scratch.rename(self._target)
        except OSError as error:
            sys.stderr.write(f"croft broker: cannot publish the proxy's root certificate: {error.strerror}\n")
        else:
            self._published = certificate


def _certificate(folder: int, place: str) -> bytes:
    """The file if it is a regular one holding one certificate, else nothing."""
    try:
        fd = kernel.open_beneath(folder, place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        text = os.read(fd, _LARGEST)
    except OSError:
        return b""
    finally:
        os.close(fd)
    return text if _PEM.match(text) else b""


def _write(path: Path, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with os.fdopen(fd, "wb") as file:
        os.fchmod(fd, 0o644)
        file.write(content)
