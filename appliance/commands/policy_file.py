"""policy.toml on disk: written at first start, watched, saved with every version kept.

Rule: what cannot be used is never used in part. A broken file leaves the last good version in force and says which line is wrong; where
none was ever good, everything is denied (POL-2).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from appliance import keys
from appliance.clock import Clock
from appliance.commands.judge import Policy, deny_all
from appliance.commands.language import digest_of, load
from appliance.commands.policy_source import PolicyFault
from appliance.commands.policy_text import Fault, check, packaged, text_of
from appliance.errors import Conflict, CroftError, NotFound, Unavailable
from appliance.messages import Message

log = logging.getLogger(__name__)

LOOK_EVERY = 5.0  # seconds between looks at the file's time; a look is one stat(2)
MOST_VERSIONS = 200


class Version(Struct, frozen=True):
    """One text that was in force: its number, when (Unix seconds) and who wrote it ("file": somebody with an editor)."""

    number: int
    at: float
    actor: str
    digest: str


class PolicyFile:
    """The policy in force. Open with :meth:`open`; :meth:`watch` follows changes made with an editor."""

    def __init__(self, folder: Path, clock: Clock, changed: Callable[[Policy], None] = lambda policy: None) -> None:
        """``folder`` is settings.paths.policy; ``changed`` hears of every policy that comes into force."""
        self._folder, self._clock, self._changed = folder, clock, changed
        self._path, self._history = folder / "policy.toml", folder / "versions"
        self._seen: tuple[int, int, int] | None = None
        self._turn = asyncio.Lock()
        self.current: Policy = deny_all()
        self.text = ""  # of the file as it is, good or not
        self.fault: Fault | None = None

    async def open(self) -> None:
        """Read the file, or write the packaged one where there is none. Raises Unavailable when the disk refuses."""
        async with self._turn:
            try:
                await asyncio.to_thread(self._begin)
            except OSError as error:
                raise Unavailable(
                    f"cannot use the policy's folder: {error.strerror}",
                    hint="Run `croft doctor`; it checks owner and mode.",
                ) from error
        self._changed(self.current)

    async def reload(self) -> bool:
        """Take the file as it is now; True when another policy came into force. Never raises for what is in it."""
        before = self.current.digest
        async with self._turn:
            await asyncio.to_thread(self._read, "file")
        if self.current.digest != before:
            self._changed(self.current)
        return self.current.digest != before

    async def watch(self) -> None:
        """Follow the file until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            if await asyncio.to_thread(self._state) != self._seen:
                await self.reload()

    async def save(self, text: str, actor: str, *, base: str | None = None) -> Policy:
        """Check ``text``, keep it as a version and put it in force.

        ``base`` is the digest of the text that was edited. Raises BadPolicy, Conflict when the file is another by now,
        Unavailable when it cannot be written.
        """
        policy = check(text)
        async with self._turn:
            await asyncio.to_thread(self._read, "file")
            if base is not None and base != digest_of(self.text):
                raise Conflict("the policy was changed meanwhile", hint="Look at the newer one, then save again.")
            try:
                await asyncio.to_thread(self._write, text, actor)
            except OSError as error:
                raise Unavailable(f"cannot save the policy: {error.strerror}", hint="Run `croft doctor`.") from error
            self.current, self.text, self.fault = policy, text, None
        self._changed(policy)
        return policy

    def versions(self) -> list[Version]:
        """Every version kept, the newest first."""
        found = []
        for path in sorted(self._history.glob("*.json"), reverse=True):
            try:
                row = json.loads(path.read_bytes())
                found.append(Version(int(path.stem), float(row["at"]), str(row["actor"]), str(row["digest"])))
            except (OSError, ValueError, TypeError, KeyError) as error:
                log.warning("cannot read a version of the policy", extra={"version": path.stem}, exc_info=error)
        return found

    def version_text(self, number: int) -> str:
        """The text of a version. Raises NotFound."""
        try:
            return (self._history / f"{number:06d}.toml").read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise NotFound("there is no such version of the policy") from error

    def offered(self) -> str:
        """The packaged rules where they are newer than those this file began with; "" when there is nothing to offer."""
        text = packaged()
        digest = digest_of(text)
        known = {version.digest for version in self.versions()}
        return "" if digest in known or digest == self.current.digest else text

    # -- in a thread ------------------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        if not self._path.exists() and not self._history.exists():
            self._write(packaged(), "croft")  # its examples were tried when this version was made
        self._read("file")

    def _read(self, actor: str) -> None:
        """Take the file as it is; where it is broken, what was in force stays, or else the last good version."""
        self._seen = self._state()
        try:
            self.text = text_of(self._path, in_force=True)
            kept = self.versions()
            policy = load(self.text, tried=bool(kept) and kept[0].digest == digest_of(self.text))
        except PolicyFault as fault:
            self._broken(Fault(fault.line, fault.message))
        except OSError as error:
            cause = error.strerror or "it is not text"
            self._broken(Fault(0, Message("policy.fault.unreadable", {"line": 0, "cause": cause})))
        else:
            if policy.digest != self.current.digest:
                self._keep(self.text, actor)
            self.current, self.fault = policy, None

    def _broken(self, fault: Fault) -> None:
        self.fault = fault
        log.error("policy.toml cannot be used", extra={"line": fault.line, "code": fault.message.key})
        if self.current.rules:
            return
        for version in self.versions():
            try:
                self.current = load(self.version_text(version.number))
            except (PolicyFault, CroftError):
                continue
            return

    def _write(self, text: str, actor: str) -> None:
        self._keep(text, actor)
        keys.write_private(self._path, text.encode())
        self._seen = self._state()

    def _keep(self, text: str, actor: str) -> None:
        """Add a version, unless the newest is the same."""
        kept, digest = self.versions(), digest_of(text)
        if kept and kept[0].digest == digest:
            return
        number = kept[0].number + 1 if kept else 1
        row = {"at": self._clock.now(), "actor": actor, "digest": digest}
        keys.write_private(self._history / f"{number:06d}.toml", text.encode())
        keys.write_private(self._history / f"{number:06d}.json", json.dumps(row).encode())
        for old in kept[MOST_VERSIONS - 1 :]:
            for suffix in ("json", "toml"):
                (self._history / f"{old.number:06d}.{suffix}").unlink(missing_ok=True)

    def _state(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
