"""Packages of the distribution in the workspace's image (docker runtime), as the daemon offers them.

Rule: the broker builds and remembers; this asks, waits for the end and writes both ends into the audit log.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from appliance.audit import AuditLog
from appliance.errors import Conflict, CroftError, Invalid, Unavailable

log = logging.getLogger(__name__)

ASK_EVERY = 1.0
Call = Callable[..., Awaitable[Mapping[str, Any]]]
"""One request to the broker: the operation and its arguments."""


class Packages:
    """One for the appliance. ``changed`` is called when a build has begun or ended."""

    def __init__(self, call: Call, audit: AuditLog, changed: Callable[[], None]) -> None:
        self._call, self._audit, self._changed = call, audit, changed
        self._task: asyncio.Task[None] | None = None

    async def look(self) -> dict[str, Any]:
        """``packages`` in the image, whether it is ``building``, and the ``problem`` of the last build. Raises CroftError."""
        found = await self._call("image-status", service="ide")
        building = bool(found["building"]) or self._busy()
        return {"packages": found["packages"], "building": building, "problem": found["build_problem"]}

    async def begin(self, text: str, actor: str) -> None:
        """Have exactly the packages that ``text`` names. Raises Invalid, Conflict, AuditUnavailable."""
        from appliance.broker.packages import MOST, NAME

        names = list(dict.fromkeys(text.split()))
        if wrong := [name for name in names if not re.fullmatch(NAME, name)]:
            raise Invalid(
                f"{wrong[0][:64]!r} is not the name of a package",
                hint="Names hold small letters, digits, plus, minus and dots, such as php-cli or g++.",
                code="package_name",
            )
        if len(names) > MOST:
            raise Invalid(f"at most {MOST} packages can be added", hint="Take some out.", code="package_many")
        if self._busy():
            raise Conflict("the image is being built already", hint="Wait for its end.", code="package_busy")
        announced: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._change(names, actor, announced), name="packages")
        await announced

    async def wait(self) -> None:
        """Until nothing is being built."""
        if self._task is not None:
            await asyncio.wait({self._task})

    def _busy(self) -> bool:
        return self._task is not None and not self._task.done()

    async def _change(self, names: list[str], actor: str, announced: asyncio.Future[None]) -> None:
        try:
            async with self._audit.doing("image.packages", actor, packages=" ".join(names)):
                await self._call("image-packages", **({"packages": names} if names else {}))
                announced.set_result(None)
                self._changed()
                while (found := await self._call("image-status", service="ide"))["building"]:  # noqa: ASYNC110 - in another process
                    await asyncio.sleep(ASK_EVERY)
                if found["build_problem"]:
                    raise Unavailable(found["build_problem"])
        except CroftError as error:
            if not announced.done():
                announced.set_exception(error)
            log.warning("packages were not changed", extra={"cause": error.message})
        finally:
            asyncio.get_running_loop().call_soon(self._changed)  # once this task counts as done
