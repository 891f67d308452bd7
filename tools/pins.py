"""`make pins`: look up the digest of every pinned image version at its registry and write it into compose/pins.toml.

Speaks the OCI distribution API (spec v1.1, "pulling manifests") with the anonymous token that registries hand out. A digest that
cannot be looked up stays as it was, and the exit code says so.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

PINS = Path(__file__).parents[1] / "compose/pins.toml"
ACCEPT = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json"
DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")


def split(repository: str) -> tuple[str, str]:
    """Registry address and name: Docker Hub unless the first part looks like a host."""
    host, _, name = repository.partition("/")
    if name and ("." in host or ":" in host):
        return host, name
    return "registry-1.docker.io", repository if "/" in repository else f"library/{repository}"


def digest(repository: str, version: str, scheme: str = "https") -> str:
    """The digest that ``repository:version`` stands for now. Raises OSError or ValueError."""
    host, name = split(repository)
    url = f"{scheme}://{host}/v2/{name}/manifests/{urllib.parse.quote(version)}"
    try:
        found = _head(url, "")
    except urllib.error.HTTPError as error:
        if error.code != 401:
            raise
        found = _head(url, _token(error.headers.get("WWW-Authenticate", "")))
    if not DIGEST.match(found):
        raise ValueError(f"{host} gave no digest for {name}:{version}")
    return found


def _head(url: str, token: str) -> str:
    headers = {"Accept": ACCEPT} | ({"Authorization": f"Bearer {token}"} if token else {})
    with urllib.request.urlopen(urllib.request.Request(url, method="HEAD", headers=headers), timeout=30) as answer:  # noqa: S310
        return str(answer.headers.get("Docker-Content-Digest", ""))


def _token(challenge: str) -> str:
    fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    if not fields.get("realm", "").startswith("https://"):
        raise ValueError("the registry asks for a sign-in of an unknown kind")
    query = urllib.parse.urlencode({key: fields[key] for key in ("service", "scope") if key in fields})
    with urllib.request.urlopen(f"{fields['realm']}?{query}", timeout=30) as answer:  # noqa: S310 - https, checked above
        data = json.load(answer)
    return str(data.get("token") or data.get("access_token") or "")


def pinned(text: str, service: str, found: str) -> str:
    """``text`` of pins.toml with the digest of ``service`` set; comments and order stay."""
    pattern = re.compile(rf'(^\[{service}\][^\[]*?^digest = ")[^"]*(")', re.MULTILINE | re.DOTALL)
    return pattern.sub(rf"\g<1>{found}\g<2>", text, count=1)


def main() -> int:
    """Update the file in place."""
    text, failed = PINS.read_text("utf-8"), 0
    for service, pin in tomllib.loads(text).items():
        try:
            found = digest(pin["repository"], pin["version"])
        except (OSError, ValueError) as error:
            print(f"{service}: not looked up: {error}")
            failed += 1
            continue
        print(f"{service}: {pin['repository']}:{pin['version']} is {found}")
        text = pinned(text, service, found)
    PINS.write_text(text, "utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
