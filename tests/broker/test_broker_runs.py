"""Runs: who they are, what they cannot do, and that nothing of them stays."""

from __future__ import annotations


async def test_a_run_reports_output_exit_and_usage(client):
    event, out, err = await client.run("sh", "-c", "echo out; echo err >&2; exit 3")
    assert (out, err, event["exit_code"], event["signal"], event["reason"]) == ("out\n", "err\n", 3, None, "exit")
    assert 0 < event["usage"]["wall"] < 10
    assert event["usage"]["maxrss_bytes"] > 0
