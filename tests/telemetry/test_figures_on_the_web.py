"""Figures through the front door: JSON, Prometheus, Home and Machine, and what many readers share."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from support.front import Front, front

from appliance.errors import CroftError
from appliance.messages import Message
from appliance.telemetry.rollup import Row
from appliance.telemetry.store import TelemetryStore
from webui import views
from webui.handlers.live import pictures
from webui.needs import Need, gather

HTML = {"Accept": "text/html"}


@pytest_asyncio.fixture
async def door(tmp_path: Path) -> AsyncIterator[Front]:
    async with front(tmp_path) as opened:
        yield opened


async def an_hour(door: Front) -> int:
    """An hour of rows that ends now; returns its beginning."""
    begin = int(door.clock.now()) - 3600
    rows = [Row(begin + 10 * n, {"cpu": float(n % 50), "memory": 1e9, "net_in": 2048.0}) for n in range(360)]
    await TelemetryStore(door.store.database).save(rows)
    door.monitor.saved += 1
    return begin


async def test_figures_over_time(door: Front) -> None:
    begin = await an_hour(door)
    _, cookie = await door.sign_in_as("viewer")
    path = f"/api/telemetry?from={begin}&to={begin + 3600}&step=600&series=cpu,net_in"
    async with door.ask("GET", path, cookie) as answer:
        found = await answer.json()
    assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-store")
    assert (found["from"], found["step"], found["points"]) == (begin, 600, 6)
    assert set(found["series"]) == {"cpu", "net_in"}
    assert found["series"]["cpu"]["unit"] == "percent"
    assert found["series"]["cpu"]["peak"] == [49.0] * 6
    assert found["series"]["net_in"]["mean"] == [2048.0] * 6
    async with door.ask("GET", "/api/telemetry", cookie) as answer:
        day = await answer.json()
    assert day["points"] * day["step"] >= 86_400
    assert len(day["series"]["cpu"]["mean"]) == day["points"]


@pytest.mark.parametrize(
    "query",
    [
        "from=abc", "from=-5", "to=1e9", "from=10&to=5", "from=٣", "step=0", "step=5", "step=10", "from=0",
        "series=", "series=cpu,secrets", "series=cpu;DROP TABLE users", "to=9999999999999", "step=10&from=0",
    ],
)  # fmt: skip
async def test_what_cannot_be_asked_is_said(door: Front, query: str) -> None:
    _, cookie = await door.sign_in_as("viewer")
    async with door.ask("GET", f"/api/telemetry?{query}", cookie) as answer:
        found = await answer.json()
        # A whole history in large steps is fine; everything else is refused in words.
        assert answer.status == (200 if query == "from=0" else 400), found
    if answer.status == 400:
        assert found["error"]["message"]
        assert found["error"]["hint"]


async def test_prometheus_reads_it(door: Front) -> None:
    """Format 0.0.4: HELP and TYPE before samples, counters end in _total, no name of a person, no address, no secret."""
    _, cookie = await door.sign_in_as("viewer")
    async with door.ask("GET", "/metrics", cookie, headers={"Accept": "text/plain"}) as answer:
        text = await answer.text()
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert text.endswith("\n")
    known: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in known
            known[name] = kind
        elif not line.startswith("# HELP "):
            found = re.fullmatch(r'([a-z_0-9]+)(\{[a-z]+="[^"\\\n]*"\})? (-?[0-9.e+-]+)', line)
            assert found, line
            assert found[1] in known, line
    for name, kind in known.items():
        assert (kind == "counter") == name.endswith("_total"), name
    assert {"croft_machine_memory_used_bytes", "croft_machine_cpu_busy_seconds_total", "croft_service_up"} <= set(known)
    assert 'croft_service_up{service="proxy"} 1' in text
    for hidden in ("viewer@", "192.0.2.", str(door.folder), cookie):
        assert hidden not in text
    async with door.ask("GET", "/metrics") as answer:
        assert answer.status == 401
    async with door.console("GET", "/metrics") as answer:
        assert answer.status == 200


async def test_home_tells_where_one_was_and_what_waits(door: Front) -> None:
    await an_hour(door)
    _, cookie = await door.sign_in_as("operator")
    async with door.ask("GET", "/", cookie, headers=HTML) as answer:
        first = await answer.text()
    assert "Your workspace" in first
    assert "Waiting for you" in first
    assert first.count('class="chart"') >= 4
    place = "/?folder=/w/%D9%85%D8%AA%D8%AC%D8%B1"
    async with door.ask("GET", "/workspace", cookie, params={"next": place}, headers=HTML) as answer:
        assert answer.status == 200
    door.clock.advance(1800)
    async with door.ask("GET", "/", cookie, headers=HTML) as answer:
        again = await answer.text()
    assert "Continue where you were" in again
    assert "/w/متجر" in again
    assert "30 min ago" in again
    assert 'href="/workspace?next=/%3Ffolder%3D' in again


@pytest.mark.parametrize(
    "target", ["https://evil.example/", "//evil.example", "/\\evil", "javascript:alert(1)", "x" * 3000]
)
async def test_only_places_of_ours_are_remembered(door: Front, target: str) -> None:
    session, cookie = await door.sign_in_as("operator")
    async with door.ask("GET", "/workspace", cookie, params={"next": target}, headers=HTML) as answer:
        assert answer.status == 200
    visit = await door.visits.last(session.user.id)
    assert visit is not None
    assert visit.target == "/"


async def test_a_visit_goes_with_its_person(door: Front) -> None:
    await door.sign_in_as("admin")
    user = await door.member("operator")
    await door.visits.record(user.id, "/?folder=/w")
    await door.store.database.execute("DELETE FROM users WHERE id = ?", (user.id,))
    assert await door.visits.last(user.id) is None


async def test_a_provider_that_fails_does_not_take_the_page_with_it(door: Front) -> None:
    user = await door.member("viewer")

    async def broken(_: Any) -> list[Need]:
        raise CroftError("cannot tell")

    async def late(_: Any) -> list[Need]:
        return [Need(Message("a"), "/a"), Need(Message("b"), "/b", urgent=True)]

    assert [need.href for need in await gather([broken, late], user)] == ["/b", "/a"]


async def test_logs_are_filtered_without_scripts(door: Front) -> None:
    """The address says what is wanted; what was typed stays in the form; colours are data (WEB-15)."""
    _, cookie = await door.sign_in_as("operator")

    async def shown(query: str) -> str:
        async with door.ask("GET", f"/machine/logs/ide{query}", cookie, headers=HTML) as answer:
            assert answer.status == 200
            return await answer.text()

    whole = await shown("")
    assert "hello" in whole
    assert '<span data-style="red"><bdi>red</bdi></span>' in whole
    assert "\x1b" not in whole
    found = await shown("?q=%3C%2FSCRIPT%3E&level=info&since=1h")
    assert ">hello<" not in found
    assert 'value="&lt;/SCRIPT&gt;"' in found
    assert '<option value="1h" selected>' in found
    assert ">hello<" not in await shown("?level=error")
    for query in ("?level=loud", "?since=3y"):
        async with door.ask("GET", f"/machine/logs/ide{query}", cookie) as answer:
            assert answer.status == 400


async def test_viewers_are_not_told_what_services_wrote(door: Front) -> None:
    """Log lines are for operators, over the stream and the API as on the page."""
    from msgspec.structs import replace

    from appliance.identity.users import Role
    from webui.i18n import Catalogue, Translator

    view = replace(door.services.view("ide"), log_tail=("token=secret",))
    t = Translator(Catalogue({"en": {}, "ar": {}}), "en")
    assert views.service_json(view, t, Role.viewer)["log_tail"] == []
    assert views.service_json(view, t, Role.operator)["log_tail"] == ["token=secret"]


async def test_readers_of_one_language_and_role_share_one_picture(door: Front) -> None:
    """However many dashboards are open, an event is written down once for each language and role among them."""
    readers: list[aiohttp.ClientResponse] = []
    for role in ("viewer", "operator"):
        for language in ("en", "en", "ar"):
            _, cookie = await door.sign_in_as(role)
            stream = door.ask(
                "GET", "/api/events?topics=services,telemetry", cookie, headers={"Accept-Language": language}
            )
            readers.append(await stream)
    kept = pictures(door.app)._kept
    for reader in readers:
        await until_event(reader, "telemetry")
    door.bus.publish("services", {})
    events = [await until_event(reader, "services", newest=door.bus.last_id) for reader in readers]
    made = {key: bytes_ for key, (_, bytes_) in kept.items() if key[0] == "services"}
    assert len(made) == 4
    assert events[0] == events[1] != events[2]
    assert json.loads(events[0])["summary"].startswith("All is well")
    for reader in readers:
        reader.close()


async def until_event(reader: aiohttp.ClientResponse, name: str, newest: int | None = None) -> str:
    """The data of the next event called ``name``; of the one with this id, if given."""
    event = event_id = ""
    async with asyncio.timeout(10):
        async for raw in reader.content:
            line = raw.decode().rstrip("\n")
            if line.startswith("id: "):
                event_id = line.removeprefix("id: ")
            elif line.startswith("event: "):
                event = line.removeprefix("event: ")
            elif line.startswith("data: ") and event == name and (newest is None or event_id == str(newest)):
                return line.removeprefix("data: ")
    raise AssertionError(f"no event {name}")


async def test_charts_are_drawn_once(door: Front) -> None:
    """Many readers, one query and one drawing per language until a new minute is saved."""
    await an_hour(door)
    _, cookie = await door.sign_in_as("viewer")
    asked = 0
    points = door.monitor.points

    async def counted(*how: int) -> Any:
        nonlocal asked
        asked += 1
        return await points(*how)

    door.monitor.points = counted  # type: ignore[method-assign]
    for _ in range(5):
        async with door.ask("GET", "/api/charts?span=hour", cookie) as answer:
            found = await answer.json()
    assert asked == 1
    assert found["charts"][0]["name"] == "cpu"
    door.monitor.saved += 1
    async with door.ask("GET", "/api/charts?span=hour", cookie) as answer:
        assert answer.status == 200
    assert asked == 2
    for query in ("span=year", "names=cpu,nothing", "names=" + "cpu," * 40):
        async with door.ask("GET", f"/api/charts?{query}", cookie) as answer:
            assert answer.status == 400
