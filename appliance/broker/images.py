"""The images of the services: which are asked for (pins.toml), which are held (the ledger), and how one is pulled.

Rule: an image runs only as the id recorded in the ledger. A registry's tag is asked once, at the first pull of a
version; from then on the digest seen there is the only name used (SUP-2). The old image stays until the new one is
whole (R6).
"""

from __future__ import annotations

import json
import os
import re
import time
import tomllib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from appliance.broker.backend import SERVICES
from appliance.broker.engine import Answer, Call, Work
from appliance.errors import SettingsError, Unavailable

Progress = Callable[[str, int, int], None]
"""Told ``phase, current, total``: pulling or extracting, and bytes (0 where not known)."""

REPORT_EVERY = 0.25  # seconds between two reports of progress
SPARE_BYTES = 1 << 30  # stays free on the engine's disk whatever happens

_REPOSITORY = re.compile(r"([a-z0-9][a-z0-9.-]*(:[0-9]{1,5})?/)?[a-z0-9]+((\.|_{1,2}|-+|/)[a-z0-9]+)*\Z")
_VERSION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")


class PullFailed(Unavailable):
    """The image could not be fetched; the one held before is untouched."""

    code = "pull_failed"


@dataclass(frozen=True)
class Pin:
    """One row of pins.toml. ``digest`` may be empty; ``bytes`` is the room asked for on the disk."""

    service: str
    repository: str
    version: str
    floor: str
    digest: str
    bytes: int


@dataclass(frozen=True)
class Held:
    """What is held for a service: the engine's image id, and where it came from. ``previous`` is the id before it."""

    id: str
    repository: str
    version: str
    digest: str
    previous: str = ""


def is_sound(held: Held) -> bool:
    """Whether every word of it is one that may stand in a request to the engine."""
    words = (held.id, held.repository, held.version, held.digest, held.previous)
    return all(isinstance(word, str) for word in words) and bool(
        _DIGEST.match(held.id)
        and _REPOSITORY.match(held.repository)
        and _VERSION.match(held.version)
        and (not held.digest or _DIGEST.match(held.digest))
        and (not held.previous or _DIGEST.match(held.previous))
    )


def local_tag(service: str) -> str:
    """The name compose.yaml knows the image by."""
    return f"croft/{service}:pin"


def read_pins(path: Path) -> dict[str, Pin]:
    """pins.toml, checked. Raises SettingsError."""
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"cannot read {path.name}: {error}") from error
    if set(document) != set(SERVICES):
        raise SettingsError(f"{path.name} must have exactly the tables {', '.join(SERVICES)}")
    return {service: _pin(path.name, service, document[service]) for service in SERVICES}


def _pin(name: str, service: str, row: Any) -> Pin:
    try:
        pin = Pin(service=service, **row)
        checked = (
            _REPOSITORY.match(pin.repository)
            and _VERSION.match(pin.version)
            and _VERSION.match(pin.floor)
            and (not pin.digest or _DIGEST.match(pin.digest))
            and type(pin.bytes) is int
            and pin.bytes > 0
            and _numbers(pin.version) >= _numbers(pin.floor)
        )
    except TypeError:
        checked = None
    if not checked:
        raise SettingsError(
            f"{name}: [{service}] is not a valid pin",
            hint="repository, version (at least floor), floor, digest (or empty) and bytes.",
        )
    return pin


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"[0-9]+", version)]


class Ledger:
    """The record of held images: one JSON file in a folder that only root may write, replaced atomically."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def held(self) -> dict[str, Held]:
        """Raises SettingsError when the file is there but is not ours."""
        try:
            rows = json.loads(self._path.read_text("utf-8"))["images"]
            return {service: Held(**row) for service, row in rows.items() if service in SERVICES}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SettingsError(
                f"cannot read the record of images: {error}",
                hint=f"Remove {self._path.name}; images are then recorded afresh.",
            ) from error

    def record(self, service: str, new: Held) -> None:
        """Hold ``new`` from now on; it is on disk when this returns."""
        rows = self.held()
        rows[service] = new
        document = {"version": 1, "images": {name: asdict(row) for name, row in rows.items()}}
        fresh = self._path.with_suffix(".new")
        with open(fresh, "w", encoding="utf-8", opener=_private) as file:
            json.dump(document, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)


def wanted(pin: Pin, held: Held | None) -> str:
    """What to ask the registry for: a digest wherever one is known, else the version."""
    if pin.digest:
        return pin.digest
    if held and held.digest and (held.repository, held.version) == (pin.repository, pin.version):
        return held.digest
    return pin.version


def pull(engine: Path, pin: Pin, ledger: Ledger, progress: Progress) -> Work:
    """The work of fetching one image (see engine.Task). Raises PullFailed, EngineGone or SettingsError."""
    old = ledger.held().get(pin.service)
    ask = wanted(pin, old)
    check_room(expect((yield Call(engine, "GET", "/info")), "ask the engine where it keeps images"), pin.bytes)
    layers = Layers(progress)
    expect(
        (yield Call(engine, "POST", f"/images/create?fromImage={pin.repository}&tag={ask}", line=layers.feed)),
        f"pull {pin.repository}",
    )
    if layers.error:
        raise PullFailed(f"cannot pull {pin.repository}: {layers.error}")
    name = pin.repository + ("@" if ask.startswith("sha256:") else ":") + ask
    image = expect((yield Call(engine, "GET", f"/images/{name}/json")), f"look at {pin.repository}")
    digest = _digest_of(image, pin.repository)
    if pin.digest and digest != pin.digest:
        raise PullFailed(f"cannot pull {pin.repository}: the registry sent {digest}, not the pinned digest")
    yield from hold(engine, ledger, pin.service, Held(image["Id"], pin.repository, pin.version, digest))


def hold(engine: Path, ledger: Ledger, service: str, new: Held) -> Work:
    """Make ``new`` the image of ``service``: name it, record it, and let go of the one before the last."""
    old = ledger.held().get(service)
    previous = (old.previous if old.id == new.id else old.id) if old else ""
    expect((yield Call(engine, "POST", f"/images/{new.id}/tag?repo=croft/{service}&tag=pin")), "name the image")
    ledger.record(service, Held(new.id, new.repository, new.version, new.digest, previous))
    if old and old.previous and old.previous not in (previous, new.id):
        yield Call(engine, "DELETE", f"/images/{old.previous}")  # 404 and "in use" are both fine


def expect(answer: Answer, doing: str) -> Any:
    """The answer's JSON. Raises PullFailed with the engine's own words for any error status."""
    if answer.status >= 400:
        raise PullFailed(f"cannot {doing}: {answer.message}")
    return answer.json()


def check_room(info: dict[str, Any], need: int) -> None:
    """Raises PullFailed when the engine's disk would have less than SPARE_BYTES left."""
    try:
        disk = os.statvfs(str(info["DockerRootDir"]))
    except FileNotFoundError:
        return  # the engine lives on another machine or in another mount namespace
    free = disk.f_bavail * disk.f_frsize
    if free < need + SPARE_BYTES:
        raise PullFailed(
            f"cannot pull: {(need + SPARE_BYTES) >> 20} MiB of disk are needed, {free >> 20} MiB are free",
            hint="Free some disk space, then try again.",
            code="disk_full",
        )


def _digest_of(image: dict[str, Any], repository: str) -> str:
    for name in image.get("RepoDigests") or []:
        found, _, digest = str(name).partition("@")
        if found == repository and _DIGEST.match(digest):
            return digest
    return ""


class Layers:
    """Adds the engine's per-layer lines up to one phase and two figures."""

    def __init__(self, progress: Progress, clock: Callable[[], float] = time.monotonic) -> None:
        self._progress = progress
        self._clock = clock
        self._sizes: dict[str, tuple[int, int]] = {}
        self._loaded: set[str] = set()
        self._next = 0.0
        self.error = ""

    def feed(self, line: bytes) -> None:
        """One line of the engine's answer to /images/create."""
        try:
            row = json.loads(line or b"{}")
        except ValueError:
            return
        self.error = self.error or str(row.get("error", ""))
        self._take(str(row.get("id", "")), str(row.get("status", "")), row.get("progressDetail") or {})
        if self._sizes and self._clock() >= self._next:
            self._next = self._clock() + REPORT_EVERY
            self.report()

    def report(self) -> None:
        """Tell how far it is."""
        phase = "extracting" if self._loaded >= set(self._sizes) else "pulling"
        current, total = map(sum, zip(*self._sizes.values(), strict=True))
        self._progress(phase, current, total)

    def _take(self, layer: str, status: str, detail: dict[str, Any]) -> None:
        if status == "Downloading" and detail.get("total"):
            self._sizes[layer] = (int(detail.get("current", 0)), int(detail["total"]))
        elif status in ("Download complete", "Extracting", "Pull complete"):
            self._loaded.add(layer)
            total = self._sizes.get(layer, (0, 0))[1]
            if total:
                self._sizes[layer] = (total, total)
