"""A distribution of packages in a folder: made, indexed and signed here, read by the real apt."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import shutil
import subprocess
import threading
from pathlib import Path

INTERPRETER = "#!/bin/sh\necho PHP {version}\n"


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Files, and nothing on the terminal."""

    def log_message(self, format: str, *args: object) -> None:
        pass


class Archive:
    """``env`` leads apt to it, served on loopback, instead of to the machine's own sources. Close it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.keys = folder / "archive", folder / "keys"
        self.folder.mkdir()
        self.keys.mkdir(mode=0o700)
        self._gpg("--quick-gen-key", "Archive <archive@example.org>", "rsa2048", "sign", "never")
        self._gpg("--export", "--output", str(folder / "archive.gpg"))
        self.sources, self.conf = folder / "sources.list", folder / "apt.conf"
        handler = functools.partial(Quiet, directory=str(self.folder))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.lead()
        (folder / "parts").mkdir()
        self.conf.write_text(
            f'Dir::Etc::sourcelist "{self.sources}";\nDir::Etc::sourceparts "{folder}/parts";\n'
            'Acquire::AllowInsecureRepositories "true";\nAPT::Get::AllowUnauthenticated "true";\n'
        )

    @property
    def env(self) -> dict[str, str]:
        return {"APT_CONFIG": str(self.conf)}

    def lead(self, port: int = 0) -> None:
        """apt looks for the archive there; 0 is where it is."""
        address = f"http://127.0.0.1:{port or self._server.server_address[1]}"
        key = self.keys.parent / "archive.gpg"
        self.sources.write_text(f"deb [signed-by={key}] {address} ./\n")

    def offer(self, version: str, *, signed: bool = True) -> None:
        """Packages of the names and places that PHP's have, with this version of an interpreter that only says so."""
        for old in self.folder.iterdir():
            old.unlink()
        short = ".".join(version.split(".")[:2])
        main = f"php{short}"
        files = {
            f"usr/bin/{main}": INTERPRETER.format(version=version),
            f"usr/lib/php/{short}/php.ini-production.cli": "memory_limit = -1\n",
        }
        self._package(f"{main}-cli", version, files, depends=f"{main}-common")
        ini = {f"usr/share/{main}-common/common/pdo.ini": "; priority=10\nextension=pdo.so\n"}
        self._package(f"{main}-common", version, ini | {"usr/lib/php/20990101/pdo.so": "library"})
        self._package("php-cli", f"2:{short}", {}, depends=f"{main}-cli")
        for name in ("bcmath", "curl", "intl", "mbstring", "sqlite3", "xml", "zip"):
            self._package(f"php-{name}", f"2:{short}", {}, depends=f"{main}-common")
        self._package("composer", "2.1", {"usr/bin/composer": "#!/usr/bin/php\n"}, depends="php-cli")
        self._index(signed)

    def _package(self, name: str, version: str, files: dict[str, str], depends: str = "") -> None:
        root = self.folder.parent / "package"
        for path, text in files.items():
            file = root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            file.chmod(0o755)
        (root / "DEBIAN").mkdir(parents=True)
        fields = {"Package": name, "Version": version, "Architecture": "all", "Maintainer": "Archive <a@example.org>"}
        fields |= {"Description": "a package of the tests"} | ({"Depends": depends} if depends else {})
        (root / "DEBIAN/control").write_text("".join(f"{key}: {value}\n" for key, value in fields.items()))
        script = root / "DEBIAN/postinst"
        script.write_text(f"#!/bin/sh\ntouch {self.folder.parent}/started\n")
        script.chmod(0o755)
        subprocess.run(["dpkg-deb", "--build", str(root), str(self.folder)], check=True, capture_output=True)
        shutil.rmtree(root)

    def _index(self, signed: bool) -> None:
        rows = []
        for deb in sorted(self.folder.glob("*.deb")):
            control = subprocess.run(
                ["dpkg-deb", "--field", str(deb)], check=True, capture_output=True, text=True
            ).stdout
            content = deb.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            rows.append(f"{control}Filename: ./{deb.name}\nSize: {len(content)}\nSHA256: {digest}\n")
        packages = "\n".join(rows).encode()
        (self.folder / "Packages").write_bytes(packages)
        digest = hashlib.sha256(packages).hexdigest()
        release = f"Codename: test\nDate: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n {digest} {len(packages)} Packages\n"
        (self.folder / "Release").write_text(release)
        if signed:
            self._gpg("--clearsign", "--output", str(self.folder / "InRelease"), str(self.folder / "Release"))

    def _gpg(self, *words: str) -> None:
        command = ["gpg", "--batch", "--yes", "--pinentry-mode", "loopback", "--passphrase", "", *words]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "GNUPGHOME": str(self.keys)})

    def close(self) -> None:
        """Also ends the agent that gpg leaves."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        subprocess.run(["gpgconf", "--kill", "all"], check=False, env={**os.environ, "GNUPGHOME": str(self.keys)})
