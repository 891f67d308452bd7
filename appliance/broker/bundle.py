"""`python -I -m appliance.broker.bundle load|save FILE`: the images as one file, for machines without a registry.

A bundle is a plain tar of two members: `croft.json` (which service runs which image id) and `images.tar` (what the
engine saved). Run by root, by the installer, never by the broker.

Rule: after loading, the only names that have changed are croft/SERVICE:pin, and each stands for exactly the id that
croft.json gives.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from appliance.broker import project
from appliance.broker.backend import SERVICES
from appliance.broker.engine import API, SOCKET
from appliance.broker.images import Held, Ledger, is_sound, local_tag
from appliance.errors import CroftError, Invalid, Unavailable
from appliance.settings import Paths

_NAMING = {"io.containerd.image.name", "org.opencontainers.image.ref.name"}  # annotations that engines make names of
_CHUNK = 1 << 20
_MOST_JSON = 1 << 20
_SECONDS = 1800.0  # longest wait for the engine to unpack


class Engine(http.client.HTTPConnection):
    """The engine's API over its unix socket, blocking."""

    def __init__(self, path: Path = SOCKET) -> None:
        super().__init__("docker", timeout=_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_SECONDS)
        try:
            self.sock.connect(str(self._path))
        except OSError as error:
            self.sock.close()
            raise Unavailable(f"the Docker engine does not answer: {error.strerror}") from error

    def ask(self, method: str, path: str, body: Iterator[bytes] | None = None) -> http.client.HTTPResponse:
        """One request. Raises Unavailable with the engine's words for an error status."""
        self.request(
            method,
            API + path,
            body,
            encode_chunked=body is not None,
            headers={"Transfer-Encoding": "chunked"} if body is not None else {},
        )
        answer = self.getresponse()
        if answer.status >= 400:
            raise Unavailable(f"cannot use the Docker engine: {answer.read().decode('utf-8', 'replace')[:500]}")
        return answer

    def image(self, name: str) -> dict[str, Any]:
        """An image's description. Raises Unavailable when it is not there."""
        found: dict[str, Any] = json.loads(self.ask("GET", f"/images/{name}/json").read())
        return found


def load(file: Path, ledger: Ledger, engine: Engine) -> list[str]:
    """Load a bundle; the services it brought. Raises Invalid when it is not what it says, before anything is loaded."""
    with tarfile.open(file, "r:") as tar:
        rows = _manifest(_member(tar, "croft.json", _MOST_JSON))
        images = _member(tar, "images.tar")
        try:
            _check_saved(images, {row.id for row in rows.values()})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Invalid("the bundle's images.tar is not valid") from error
        images.seek(0)
        answer = engine.ask("POST", "/images/load?quiet=1", iter(lambda: images.read(_CHUNK), b""))
        said = answer.read().decode("utf-8", "replace")
    if '"error"' in said:
        raise Unavailable(f"cannot load the images: {said[:500]}")
    for service, row in rows.items():
        if engine.image(row.id)["Id"] != row.id:
            raise Invalid(f"the bundle does not hold the image of the {service} service")
        engine.ask("POST", f"/images/{row.id}/tag?repo=croft/{service}&tag=pin").read()
        ledger.record(service, row)
    return sorted(rows)


def save(file: Path, ledger: Ledger, engine: Engine) -> list[str]:
    """Write the held images to a bundle; the services in it. Raises Invalid when none is held."""
    held = {service: row for service, row in ledger.held().items() if engine.image(local_tag(service))["Id"] == row.id}
    if not held:
        raise Invalid("there are no images to save")
    with (
        tempfile.TemporaryFile(dir=file.parent) as images,
        tarfile.open(file, "w:") as tar,
        tempfile.TemporaryFile() as manifest,
    ):
        answer = engine.ask("GET", "/images/get?" + "&".join(f"names={row.id}" for row in held.values()))
        while chunk := answer.read(_CHUNK):
            images.write(chunk)
        rows = {
            service: {"id": row.id, "repository": row.repository, "version": row.version, "digest": row.digest}
            for service, row in held.items()
        }
        manifest.write(json.dumps({"version": 1, "images": rows}).encode("ascii"))
        for name, part in (("croft.json", manifest), ("images.tar", images)):
            entry = tarfile.TarInfo(name)
            entry.size = part.tell()
            part.seek(0)
            tar.addfile(entry, part)
    return sorted(held)


def _member(tar: tarfile.TarFile, name: str, most: int | None = None) -> IO[bytes]:
    try:
        entry = tar.getmember(name)
    except KeyError as error:
        raise Invalid(f"the bundle has no {name}") from error
    content = tar.extractfile(entry)
    if content is None or not entry.isreg() or (most is not None and entry.size > most):
        raise Invalid(f"the bundle's {name} is not a plain file of a sensible size")
    return content


def _manifest(file: IO[bytes]) -> dict[str, Held]:
    try:
        rows = json.loads(file.read())["images"]
        held = {service: Held(**row) for service, row in rows.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Invalid("the bundle's croft.json is not valid") from error
    sound = all(is_sound(row) and not row.previous for row in held.values())  # they are asked for by these words later
    if not held or set(held) - set(SERVICES) or not sound:
        raise Invalid("the bundle's croft.json names no images, or ones that are not ours")
    return held


def _check_saved(file: IO[bytes], ids: set[str]) -> None:
    """The engine's own archive may bring any name; ours must bring none, and no image but the listed ones.

    Engines differ in which list they go by (manifest.json, or index.json of the OCI layout), and unpack what comes twice or by
    another spelling of its name over what came first: so every name is there once, in its plain form.
    """
    with tarfile.open(fileobj=file, mode="r:") as tar:
        names = [entry.name for entry in tar]
        rows = json.loads(_member(tar, "manifest.json", _MOST_JSON).read())
        index = json.loads(_member(tar, "index.json", _MOST_JSON).read()) if "index.json" in names else {}
    if len(set(names)) < len(names) or any(
        os.path.normpath(name) != name or name.startswith(("/", ".")) for name in names
    ):
        raise Invalid("the bundle's names of files can be read in more than one way")
    found = {"sha256:" + re.sub(r"^blobs/sha256/|\.json$", "", str(row["Config"])) for row in rows}
    listed = any(_NAMING & set(row.get("annotations") or {}) for row in index.get("manifests", ()))
    if "repositories" in names or listed or any(row.get("RepoTags") for row in rows):
        raise Invalid("the bundle would give names to images")
    if found != ids:
        raise Invalid("the bundle holds other images than it lists")


def main(argv: list[str]) -> int:
    """Parse two words and do it."""
    if len(argv) != 2 or argv[0] not in ("load", "save"):
        sys.stderr.write("usage: python -I -m appliance.broker.bundle load|save FILE\n")
        return 2
    state = Paths.system().programs / "docker"
    state.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        project.require_safe(state)
        with contextlib.closing(Engine()) as engine:
            done = {"load": load, "save": save}[argv[0]](Path(argv[1]), Ledger(state / "images.json"), engine)
    except (CroftError, OSError, tarfile.TarError, http.client.HTTPException) as error:
        sys.stderr.write(f"croft images: cannot {argv[0]} {argv[1]}: {error}\n")
        return 1
    sys.stdout.write(" ".join(done) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
