"""kill -9 in the middle of a download: the next daemon goes on where it ended, and what is on disk is the whole model."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
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


def test_the_croft_command_does_all_of_it(broker: Home, trusted: Source) -> None:
    broker.stop()
    broker.configure(
        paths__caddy="/nonexistent/caddy", proxy__https_port=21544, proxy__http_port=21581, ai__mirror=trusted.base
    )
    broker.start()
    daemon = Daemon(broker)

    def croft(*words: str, status: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "appliance", *words],
            env={**os.environ, "CROFT_HOME": str(broker.folder)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    try:
        said = croft("models", "pull", trusted.url, "--sha256", trusted.sha256, "--as", "tiny")
        assert f"tiny is installed: {len(trusted.content) / 1e6:.0f} MB, sha256 {trusted.sha256}" in said
        listed = croft("models", "list")
        assert re.search(r"^\* tiny .* yes ", listed, re.MULTILINE), listed
        assert "llama-3.2-3b-instruct" in listed
        assert json.loads(croft("models", "list", "--json"))["models"]
        assert "this is under way already" not in croft("jobs", "list")
        assert "ends in .gguf" in croft("models", "pull", "https://localhost/nothing", "--sha256", "0" * 64, status=1)
        wrong = croft("models", "pull", trusted.url + "?x", "--sha256", "0" * 64, "--as", "other", status=1)
        assert "installed already" in wrong, "its file has the same name"
        croft("models", "use", "tiny", "--context", "512")
        croft("models", "remove", "tiny")
        assert "* " not in croft("models", "list")
        again = croft("models", "pull", trusted.url, "--sha256", "0" * 64, "--as", "tiny", status=1)
        assert "another sha256" in again
        assert "croft jobs resume job-" in again
        job = re.search(r"job-[0-9a-f]{16}", again)
        assert job
        assert job[0] in croft("jobs", "list")
    finally:
        daemon.process.terminate()
        daemon.process.wait(20)
