"""Static files: read once at start, compressed when first asked for, served under a name that changes with their content.

Rule: nothing here follows a path from a request onto the disk; a request names an entry of a table or gets 404.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from aiohttp import web
from msgspec import Struct

TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".webmanifest": "application/manifest+json",
}
FOREVER = "public, max-age=31536000, immutable"
_SHEET = re.compile(rb'^@import "([a-z_]+\.css)";$', re.MULTILINE)
_PART = re.compile(rb'^export \* from "\./([a-z_]+\.js)";$', re.MULTILINE)
_IMPORTS = re.compile(rb'^import \{[^}]*\} from "\./([a-z_]+\.js)";\n', re.MULTILINE)
_IMPORT = re.compile(r'\bfrom "\./([a-z_]+\.js)"')


class Asset(Struct, frozen=True, dict=True):
    """One file as it goes over the wire."""

    kind: str
    plain: bytes

    @cached_property
    def packed(self) -> bytes:
        import gzip

        return gzip.compress(self.plain, 9, mtime=0)


class Assets:
    """Every file beneath a folder, by its path there. Called with a name it gives the address."""

    def __init__(self, folder: Path, prefix: str = "/static") -> None:
        self._files = {
            path.relative_to(folder).as_posix(): _read(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.suffix in TYPES
        }
        for name, asset in self._files.items():
            if name.endswith(".css"):
                self._files[name] = Asset(asset.kind, self._whole(asset))
        gathering = {name: _PART.findall(asset.plain) for name, asset in self._files.items() if name.endswith(".js")}
        for name, parts in gathering.items():
            if parts:
                self._gather(name, parts)
        self._prefix = prefix
        digest = hashlib.sha256()
        for name, asset in self._files.items():
            digest.update(name.encode() + b"\0" + asset.plain)
        # One version for the whole set: modules import each other by relative path and must match.
        self.version = digest.hexdigest()[:12]

    def _whole(self, sheet: Asset) -> bytes:
        """A style sheet with those it imports in their places: a request costs a browser more than the bytes do."""
        return _SHEET.sub(lambda match: self._files[match[1].decode()].plain, sheet.plain)

    def _gather(self, name: str, parts: list[bytes]) -> None:
        """Make a script and those it passes on (``export * from``) one file, in the order it names them. Whoever imports one of them
        imports that file instead: a second copy would have a state of its own. Their names at the outermost level must differ."""
        folder, _, own = name.rpartition("/")

        def alone(script: bytes) -> bytes:
            return _IMPORTS.sub(lambda found: b"" if found[1] in parts else found[0], script)

        texts = {part: alone(self._files.pop(f"{folder}/{part.decode()}").plain) for part in parts}
        whole = _PART.sub(lambda found: texts[found[1]], alone(self._files[name].plain))
        self._files[name] = Asset(TYPES[".js"], whole)
        for other, asset in self._files.items():
            if other.startswith(f"{folder}/") and other.endswith(".js"):
                script = asset.plain
                for part in parts:
                    script = script.replace(b'from "./%b"' % part, b'from "./%b"' % own.encode())
                self._files[other] = Asset(asset.kind, script)

    def __call__(self, name: str) -> str:
        """Address of a file. Raises KeyError when there is none, so that a typo fails in tests."""
        if name not in self._files:
            raise KeyError(f"there is no static file {name}")
        return f"{self._prefix}/{self.version}/{name}"

    def text(self, name: str) -> str:
        """What a file says. Raises KeyError when there is none."""
        return self._files[name].plain.decode("utf-8")

    def imported(self, name: str) -> list[str]:
        """The modules that a script needs, itself left out, however deep: a page names them all at once, so that the browser need
        not find out one after the other."""
        found: list[str] = []
        waiting = [name]
        while waiting:
            here = waiting.pop(0)
            folder = here.rpartition("/")[0]
            for other in _IMPORT.findall(self.text(here)):
                path = f"{folder}/{other}" if folder else other
                if path not in found and path != name:
                    found.append(path)
                    waiting.append(path)
        return found

    def at(self, prefix: str) -> Callable[[str], str]:
        """The same addresses under another prefix, for another host."""
        return lambda name: prefix + self(name).removeprefix(self._prefix)

    def serve(self, request: web.Request, version: str, name: str) -> web.Response:
        """The file called ``name``; kept by browsers for good when they ask for the current version."""
        asset = self._files.get(name)
        if asset is None:
            raise web.HTTPNotFound
        headers = {
            "Content-Type": asset.kind,
            "Vary": "Accept-Encoding",
            "Cache-Control": FOREVER if version == self.version else "no-cache",
        }
        if "gzip" in request.headers.get("Accept-Encoding", "") and len(asset.packed) < len(asset.plain):
            return web.Response(body=asset.packed, headers={**headers, "Content-Encoding": "gzip"})
        return web.Response(body=asset.plain, headers=headers)


def _read(path: Path) -> Asset:
    return Asset(TYPES[path.suffix], path.read_bytes())
