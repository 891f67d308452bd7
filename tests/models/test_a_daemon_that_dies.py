"""kill -9 in the middle of a download: the next daemon goes on where it ended, and what is on disk is the whole model."""

from __future__ import annotations

from typing import Any

import pytest
from support.broker import ROOT, Home
from support.daemon import Daemon
from support.source import Source, Way
from support.waiting import poll

pytestmark = pytest.mark.skipif(not ROOT, reason="needs root, as CI has it")


def test_a_download_goes_on_after_the_daemon_was_killed(broker: Home, trusted: Source) -> None:
    trusted.usual = Way(rate=2 << 20)
    broker.stop()
    broker.configure(
        paths__caddy="/nonexistent/caddy", proxy__https_port=21543, proxy__http_port=21580, ai__mirror=trusted.base
    )
    broker.start()
    daemon = Daemon(broker)
    try:
        body = {"url": trusted.url, "sha256": trusted.sha256, "name": "tiny"}
        job = daemon.control.call("POST", "/api/models", body)["job"]["id"]
        poll(lambda: the_job(daemon, job)["current"] > 1 << 20, "the first megabyte", 30)
        daemon.kill()
        models = broker.paths.state / "models"
        part = models / ".model.gguf.part"
        kept = part.stat().st_size
        assert kept > 0
        assert not (models / "model.gguf").exists()
        trusted.usual = Way()
        daemon.start()
        done = poll(
            lambda: (found := the_job(daemon, job))["state"] not in ("queued", "running") and found, "its end", 30
        )
        assert (done["state"], done["attempt"]) == ("done", 2), done
        assert (models / "model.gguf").read_bytes() == trusted.content
        assert trusted.asked[-1][1] == f"bytes={kept}-", "only the rest was asked for"
        rows = {row["name"]: row for row in daemon.control.call("GET", "/api/models")["models"]}
        assert rows["tiny"]["in_use"]
        records = daemon.control.call("GET", "/api/audit?event=outcome")["records"]
        assert [record["detail"]["result"] for record in records if record["detail"]["result"] == "interrupted"]
        assert daemon.control.call("GET", "/api/audit/verify")["fault"] is None
    finally:
        daemon.process.terminate()
        daemon.process.wait(20)


def the_job(daemon: Daemon, job: str) -> dict[str, Any]:
    found: dict[str, Any] = daemon.control.call("GET", f"/api/jobs/{job}")["job"]
    return found
