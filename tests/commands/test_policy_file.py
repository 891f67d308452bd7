"""The policy's file: first start, faults, versions and changes by hand (POL-2)."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from support.policies import default_policy

from appliance.clock import SystemClock
from appliance.commands import policy_file
from appliance.commands.judge import Actor, Policy, Request, Verdict
from appliance.commands.language import digest_of
from appliance.commands.policy_file import PolicyFile
from appliance.commands.policy_text import BadPolicy, packaged
from appliance.errors import Conflict, NotFound

SMALL = 'version = 1\n[defaults]\n[[rule]]\nid = "ls"\nbin = "ls"\nexec = "/usr/bin/ls"\nexact = [""]\nmode = "auto"\n'
LS = Request((("ls",),), Actor.HUMAN, "viewer")


async def opened(folder: Path, changed: list[Policy] | None = None) -> PolicyFile:
    file = PolicyFile(folder, SystemClock(), (changed if changed is not None else []).append)
    await file.open()
    return file


async def test_the_packaged_rules_are_written_at_first_start(tmp_path: Path) -> None:
    changed: list[Policy] = []
    file = await opened(tmp_path / "policy", changed)
    assert (tmp_path / "policy/policy.toml").read_text("utf-8") == packaged()
    assert file.current.digest == default_policy().digest == changed[-1].digest
    assert [version.actor for version in file.versions()] == ["croft"]
    assert file.fault is None
    assert file.offered() == ""


async def test_saving_keeps_every_version(tmp_path: Path) -> None:
    file = await opened(tmp_path)
    base = file.current.digest
    await file.save(SMALL, "user:1", base=base)
    assert [(one.number, one.actor) for one in file.versions()] == [(2, "user:1"), (1, "croft")]
    assert file.version_text(1) == packaged()
    assert file.version_text(2) == SMALL == (tmp_path / "policy.toml").read_text("utf-8")
    with pytest.raises(Conflict):
        await file.save(packaged(), "user:2", base=base)
    with pytest.raises(NotFound):
        file.version_text(9)
    again = await opened(tmp_path)
    assert again.current.digest == file.current.digest
    assert len(again.versions()) == 2


async def test_a_bad_text_is_not_saved(tmp_path: Path) -> None:
    file = await opened(tmp_path)
    with pytest.raises(BadPolicy) as bad:
        await file.save(SMALL + "surprise = 1\n", "user:1")
    assert (bad.value.fault.line, bad.value.fault.message.key) == (9, "policy.fault.key")
    assert (tmp_path / "policy.toml").read_text("utf-8") == packaged()


async def test_a_broken_file_leaves_the_last_good_one_in_force(tmp_path: Path) -> None:
    """POL-2, while running and after a start."""
    file = await opened(tmp_path)
    await file.save(SMALL, "user:1")
    (tmp_path / "policy.toml").write_text(SMALL + "surprise = 1\n")
    assert await file.reload() is False
    assert file.fault is not None
    assert (file.fault.line, file.current.judge(LS).verdict) == (9, Verdict.ALLOW)
    started = await opened(tmp_path)
    assert started.fault is not None
    assert started.current.digest == file.current.digest
    (tmp_path / "policy.toml").write_bytes(SMALL.encode() + b"# \xff\n")
    await started.reload()
    assert started.fault is not None
    assert (started.fault.line, started.fault.message.key) == (9, "policy.fault.encoding")
    (tmp_path / "policy.toml").unlink()
    await started.reload()
    assert started.fault is not None
    assert started.current.judge(LS).verdict is Verdict.ALLOW
    (tmp_path / "policy.toml").write_text(SMALL)
    await started.reload()
    assert started.fault is None


async def test_with_nothing_good_everything_is_denied(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text("nonsense")
    file = await opened(tmp_path)
    assert file.fault is not None
    assert file.current.judge(LS).verdict is Verdict.DENY


async def test_a_change_by_hand_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_file, "LOOK_EVERY", 0.01)
    came = asyncio.Event()
    file = PolicyFile(tmp_path, SystemClock(), lambda policy: came.set())
    await file.open()
    came.clear()
    watching = asyncio.create_task(file.watch())
    (tmp_path / "policy.toml").write_text(SMALL)
    await asyncio.wait_for(came.wait(), 10)
    watching.cancel()
    assert file.versions()[0].actor == "file"
    assert len(file.current.rules) == 1


async def test_newer_packaged_rules_are_offered_and_never_forced(tmp_path: Path) -> None:
    (tmp_path / "versions").mkdir()
    (tmp_path / "policy.toml").write_text(SMALL)
    file = await opened(tmp_path)
    assert file.offered() == packaged()
    assert len(file.current.rules) == 1
    await file.save(file.offered(), "user:1")
    assert file.offered() == ""


@pytest.mark.parametrize("what", ["pipe", "folder", "dangling", "device", "huge", "others", "binary"])
async def test_what_is_no_policy_file_leaves_the_last_good_one(tmp_path: Path, what: str) -> None:
    """POL-2: whatever takes its place is neither waited for nor believed."""
    file = await opened(tmp_path)
    path = tmp_path / "policy.toml"
    path.unlink()
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what in ("dangling", "device"):
        path.symlink_to("/nonexistent" if what == "dangling" else "/dev/zero")
    else:
        path.write_bytes({"huge": b"#" * (1 << 24), "others": SMALL.encode(), "binary": b"\xff\0"}[what])
        path.chmod(0o666 if what == "others" else 0o600)
    async with asyncio.timeout(10):
        assert not await file.reload()
    assert file.fault is not None
    assert file.current.digest == default_policy().digest


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
async def test_a_file_of_another_account_is_not_believed(tmp_path: Path) -> None:
    file = await opened(tmp_path)
    (tmp_path / "policy.toml").write_text(SMALL)
    os.chown(tmp_path / "policy.toml", 65534, 65534)
    assert not await file.reload()
    assert file.current.digest == default_policy().digest


async def test_saving_and_reloading_at_once_never_mixes(tmp_path: Path) -> None:
    """Eight who save and eight who look: one text is in force, whole, and on disk."""
    file = await opened(tmp_path)
    texts = [f"{SMALL}# {number}\n" for number in range(8)]
    await asyncio.gather(*(file.save(text, "user:1") for text in texts), *(file.reload() for _ in range(8)))
    assert file.text in texts
    assert (tmp_path / "policy.toml").read_text() == file.text
    assert file.current.digest == file.versions()[0].digest == digest_of(file.text)
    assert len(file.versions()) == 9
