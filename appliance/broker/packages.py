"""Packages of the distribution in the IDE's image: built on top of the image that is held, from a Dockerfile made here.

Rule: a request chooses names of packages and nothing else. The image built on stays, so that the way back needs no
network; which packages are wanted is kept beside the ledger, and each pull builds them anew (docs/decisions/0017-tools.md).
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from appliance.broker import images
from appliance.broker.engine import Call, Work
from appliance.errors import SettingsError, Unavailable

MOST = 64
# As Debian Policy 5.6.1 has it, but without a minus at the end, which tells apt-get to remove a package.
NAME = r"[a-z0-9][a-z0-9+.-]{0,62}[a-z0-9+]"
NEED_BYTES = 1 << 30  # room asked for on the disk before a build
BASE = "croft/ide:base"  # keeps the image that is built on


@dataclass(frozen=True)
class Wanted:
    """``packages`` are in ``image``, which was built on ``base`` (ids)."""

    packages: tuple[str, ...] = ()
    image: str = ""
    base: str = ""


class BuildFailed(Unavailable):
    """The packages could not be added; the image held before is untouched."""

    code = "build_failed"


def read(path: Path) -> Wanted:
    """The record; empty where there is none. Raises SettingsError."""
    try:
        row = json.loads(path.read_text("utf-8"))
        return Wanted(tuple(map(str, row["packages"])), str(row["image"]), str(row["base"]))
    except FileNotFoundError:
        return Wanted()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"cannot read the record of packages: {error}", hint=f"Remove {path.name}.") from error


def build(engine: Path, ledger: images.Ledger, record: Path, packages: tuple[str, ...]) -> Work:
    """The work of having exactly ``packages`` (see engine.Task). Raises BuildFailed, PullFailed, EngineGone."""
    held, old = ledger.held().get("ide"), read(record)
    if held is None:
        raise Unavailable("the image of the ide service is not on this machine", code="image_missing")
    base = old.base if held.id == old.image else held.id
    images.expect((yield Call(engine, "POST", f"/images/{base}/tag?repo=croft/ide&tag=base")), "name the image")
    image = base
    if packages:
        info = images.expect((yield Call(engine, "GET", "/info")), "ask the engine where it keeps images")
        images.check_room(info, NEED_BYTES)
        image = yield from _built(engine, packages)
    images.expect((yield Call(engine, "POST", f"/images/{image}/tag?repo=croft/ide&tag=pin")), "name the image")
    _write(record, Wanted(packages, image, base))
    ledger.record("ide", replace(held, id=image))
    if old.image not in ("", image, base):
        yield Call(engine, "DELETE", f"/images/{old.image}")  # 404 and "in use" are both fine


def _built(engine: Path, packages: tuple[str, ...]) -> Work:
    """The id of the new image."""
    said: dict[str, str] = {}

    def feed(line: bytes) -> None:
        row = json.loads(line or b"{}")
        for key, found in (("error", row.get("error")), ("id", (row.get("aux") or {}).get("ID"))):
            if found:
                said[key] = str(found)
        said["last"] = str(row.get("stream", "")).strip() or said.get("last", "")

    path = "/build?forcerm=1&nocache=1"
    images.expect((yield Call(engine, "POST", path, _context(packages), line=feed)), "build the image")
    if "id" not in said or "error" in said:
        why = " ".join(filter(None, (said.get("last"), said.get("error"))))
        raise BuildFailed(f"cannot add the packages: {why}"[:500], hint="Check the names and the connection.")
    return said["id"]


def _context(packages: tuple[str, ...]) -> bytes:
    """A tar archive with the Dockerfile."""
    import tarfile  # 1 MB that only this needs

    steps = (
        "apt-get update",
        "DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends"
        f" --option APT::Cmd::Pattern-Only=true -- {' '.join(packages)}",
        "rm -rf /var/lib/apt/lists/*",
    )
    text = f"FROM {BASE}\nUSER root\nRUN {' && '.join(steps)}\n".encode("ascii")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text))
    # Without tarfile's padding: what the engine leaves unread would make it cut the connection before its answer is out.
    return packed.getvalue()[: 512 * (1 + -(-len(text) // 512) + 2)]


def _write(record: Path, wanted: Wanted) -> None:
    fresh = record.with_suffix(".new")
    fresh.write_text(json.dumps(asdict(wanted)), "utf-8")
    fresh.replace(record)
