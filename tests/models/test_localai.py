"""The docker runtime's last step, against LocalAI's job interface over real HTTP: pinned, followed, verified, and a way out that ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from appliance.assistant import catalogue
from appliance.assistant.engine import EngineState
from appliance.assistant.local_engine import Look, Place
from appliance.assistant.localai_jobs import LocalAi, SetUpFailed, forget_file
from appliance.assistant.workshop import Workshop
from appliance.errors import Unavailable

KEY = "a key that only the daemon knows"
LLAMA, LFM = catalogue.entry("llama-3.2-3b-instruct"), catalogue.entry("lfm2.5-1.2b-instruct")


class Machine:
    """A LocalAI that answers what a test wrote down, and notes what it was asked and whether it could get out then."""

    def __init__(self) -> None:
        self.out = 0
        self.asked: list[tuple[str, Any]] = []
        self.jobs: list[dict[str, Any]] = []
        self.listed: list[str] = []
        self.place = Place("")

    async def let_out(self, seconds: int) -> None:
        self.out = seconds

    async def answer(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            return web.json_response({}, status=401)
        body = await request.json() if request.can_read_body else None
        self.asked.append((f"{request.method} {request.path}", body))
        if request.path == "/models/apply":
            assert self.out > 0, "it fetches what runs the model"
            return web.json_response({"uuid": "job-7", "status": "x"})
        if request.path.startswith("/models/jobs/"):
            return web.json_response(self.jobs.pop(0))
        if request.path == "/v1/models":
            return web.json_response({"data": [{"id": name} for name in self.listed]})
        return web.json_response({"uuid": "gone"})


class Service:
    """What supervises the container: it runs, and is told who uses it."""

    def __init__(self) -> None:
        self.uses = 0

    def look(self) -> Look:
        return Look(EngineState.READY)

    async def ready(self, seconds: float) -> None:
        assert self.uses == 1, "it is kept from being stopped meanwhile"

    async def renewed(self, seconds: float) -> None:
        raise AssertionError

    def opened(self) -> None:
        self.uses += 1

    def closed(self) -> None:
        self.uses -= 1


@pytest.fixture
async def machine() -> AsyncIterator[Machine]:
    made = Machine()
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", made.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.place = Place(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", KEY)
    yield made
    await runner.cleanup()


def local_ai(machine: Machine, folder: Path) -> tuple[LocalAi, Service]:
    service = Service()

    async def place() -> Place:
        return machine.place

    return LocalAi(Workshop(service, place, machine.let_out), folder, look=0.01), service


async def test_the_build_is_pinned_followed_and_verified(machine: Machine, tmp_path: Path) -> None:
    assert LLAMA is not None
    machine.jobs = [
        {"processed": False, "current_bytes": 10, "total_bytes": 100},
        {"processed": True, "error": None, "progress": 100},
    ]
    machine.listed = [LLAMA.id]
    made, service = local_ai(machine, tmp_path)
    said: list[tuple[str, int, int]] = []
    await made.set_up(LLAMA, 4096, lambda *how: said.append(how))
    assert machine.asked[0] == (
        "POST /models/apply",
        {
            "id": "llama-3.2-3b-instruct:q4_k_m",
            "variant": "llama-3.2-3b-instruct:q4_k_m",
            "name": "llama-3.2-3b-instruct",
            "overrides": {"context_size": 4096},
        },
    )
    assert ("setting_up", 10, 100) in said
    assert (machine.out, service.uses) == (0, 0), "no way out afterwards"


@pytest.mark.parametrize(
    "job", [{"processed": True, "error": "no space left"}, {"processed": False, "error": "boom"}, {"cancelled": True}]
)
async def test_a_job_that_is_processed_and_has_an_error_has_failed(
    machine: Machine, tmp_path: Path, job: dict[str, Any]
) -> None:
    assert LLAMA is not None
    machine.jobs, machine.listed = [job], [LLAMA.id]
    made, service = local_ai(machine, tmp_path)
    with pytest.raises(SetUpFailed):
        await made.set_up(LLAMA, 4096, lambda *how: None)
    assert (machine.out, service.uses) == (0, 0)


async def test_done_is_not_believed_while_the_model_is_not_listed(machine: Machine, tmp_path: Path) -> None:
    assert LLAMA is not None
    machine.jobs, machine.listed = [{"processed": True}], ["another"]
    with pytest.raises(SetUpFailed):
        await local_ai(machine, tmp_path)[0].set_up(LLAMA, 4096, lambda *how: None)


async def test_a_file_is_found_where_the_gallery_looks_for_it(machine: Machine, tmp_path: Path) -> None:
    """So that it is not fetched a second time; no second copy is made."""
    assert LFM is not None
    (tmp_path / LFM.file).write_bytes(b"GGUF")
    machine.jobs, machine.listed = [{"processed": True}], [LFM.id]
    await local_ai(machine, tmp_path)[0].set_up(LFM, 2048, lambda *how: None)
    assert (tmp_path / LFM.gallery_file).samefile(tmp_path / LFM.file)
    forget_file(tmp_path, LFM)
    assert not (tmp_path / LFM.gallery_file).exists()
    assert (tmp_path / LFM.file).exists()


async def test_an_engine_that_is_away_is_told(machine: Machine, tmp_path: Path) -> None:
    assert LLAMA is not None
    machine.place = Place("http://127.0.0.1:9/v1", KEY)
    with pytest.raises(Unavailable):
        await local_ai(machine, tmp_path)[0].set_up(LLAMA, 4096, lambda *how: None)
    machine.place = Place("http://127.0.0.1:9/v1", "wrong")
    with pytest.raises(Unavailable):
        await local_ai(machine, tmp_path)[0].take_out(LLAMA.id)


async def test_taking_a_model_out_needs_no_way_out(machine: Machine, tmp_path: Path) -> None:
    await local_ai(machine, tmp_path)[0].take_out("llama-3.2-3b-instruct")
    assert machine.asked == [("POST /models/delete/llama-3.2-3b-instruct", None)]
