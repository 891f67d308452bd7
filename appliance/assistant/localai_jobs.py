"""Setting a model up in LocalAI, and taking it out: the Docker runtime's last step after the file is here.

Rules: the build is pinned by name, since the gallery would take the largest that fits. The file is fetched and checked by the daemon
before, so LocalAI finds it and fetches only what runs it; the way out is open for no longer than that (NET-3). "Done" is believed when
the model is listed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp

from appliance.assistant.catalogue import Entry
from appliance.assistant.local_engine import Place
from appliance.assistant.workshop import Workshop
from appliance.errors import CroftError, Unavailable

LOOK_SECONDS = 0.5
START_SECONDS = 60.0  # somebody waits for the answer
ANSWER_SECONDS = 30.0
MOST_SECONDS = 3600.0  # for the program that runs models: an image of some hundred megabytes

Report = Callable[[str, int, int], None]


class SetUpFailed(CroftError):
    """LocalAI's own words."""

    code = "localai"
    status = 409


class LocalAi:
    """``folder`` is the models folder, which LocalAI sees as its own."""

    def __init__(self, workshop: Workshop, folder: Path, *, look: float = LOOK_SECONDS) -> None:
        self._workshop, self._folder, self._look = workshop, folder, look

    async def set_up(self, entry: Entry, context: int, report: Report) -> None:
        """Have it serve ``entry`` under its id. Raises SetUpFailed, Unavailable. Cancelling leaves LocalAI to finish or fail alone."""
        report("setting_up", 0, 0)
        await asyncio.to_thread(self._put_where_it_looks, entry)
        async with self._workshop.open(fetching=True) as place, _session(place) as session:
            wanted = {
                "id": entry.gallery,
                "variant": entry.gallery,
                "name": entry.id,
                "overrides": {"context_size": context},
            }
            begun = await _answer(session, "POST", "models/apply", wanted)
            try:
                async with asyncio.timeout(MOST_SECONDS):
                    await self._followed(session, str(begun.get("uuid", "")), report)
            except TimeoutError as error:
                raise Unavailable("LocalAI does not come to an end with the model", hint="Try again.") from error
            listed = await _answer(session, "GET", "v1/models")
        if entry.id not in {str(one.get("id")) for one in listed.get("data") or () if isinstance(one, dict)}:
            raise SetUpFailed("LocalAI says that it is done, but does not have the model", hint="Try again.")

    async def take_out(self, name: str) -> None:
        """Have it forget a model. Raises Unavailable."""
        async with self._workshop.open(fetching=False, wait=START_SECONDS) as place, _session(place) as session:
            await _answer(session, "POST", f"models/delete/{quote(name, safe='')}")

    async def _followed(self, session: aiohttp.ClientSession, number: str, report: Report) -> None:
        while True:
            job = await _answer(session, "GET", f"models/jobs/{quote(number, safe='')}")
            if job.get("error") or job.get("cancelled"):
                said = str(job.get("error") or job.get("message") or "it was cancelled")
                raise SetUpFailed(f"LocalAI cannot set the model up: {said[:300]}", hint="Try again.")
            if job.get("processed"):
                return
            report("setting_up", _count(job.get("current_bytes")), _count(job.get("total_bytes")))
            await asyncio.sleep(self._look)

    def _put_where_it_looks(self, entry: Entry) -> None:
        """Some entries of the gallery want their file in a folder of their own: a second name of the same file."""
        if not entry.gallery_file:
            return
        place = self._folder / entry.gallery_file
        place.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        os.link(self._folder / entry.file, place)


def forget_file(folder: Path, entry: Entry) -> None:
    """Remove the second name that :meth:`LocalAi.set_up` made."""
    if entry.gallery_file:
        (folder / entry.gallery_file).unlink(missing_ok=True)


def _session(place: Place) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        place.base.removesuffix("v1").rstrip("/") + "/",
        headers={"Authorization": f"Bearer {place.key}"},
        timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
    )


async def _answer(session: aiohttp.ClientSession, method: str, path: str, body: Any = None) -> dict[str, Any]:
    """Raises Unavailable."""
    try:
        async with session.request(method, path, json=body, allow_redirects=False) as response:
            if response.status != 200:
                raise Unavailable(f"LocalAI answered with status {response.status}", hint="Try again.")
            found = await response.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise Unavailable(f"LocalAI does not answer: {error or 'no answer in time'}", hint="Try again.") from error
    return found if isinstance(found, dict) else {}


def _count(found: Any) -> int:
    return found if isinstance(found, int) and found >= 0 else 0
