"""clean-git-config on a real workspace: git reads no repository but one that lies whole in the workspace (SECURITY 5.4, POL-9)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from support.commands import Room

from appliance.commands.named import NamedChecks


@pytest.fixture
def repository(room: Room) -> Path:
    """An ordinary repository, and another one outside the workspace."""
    for folder in (room.workspace / "app", room.broker.folder / "elsewhere"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        subprocess.run(["git", "init", "-q", str(folder)], check=True)
        _give(room, folder)
    yield room.workspace / "app/.git"
    shutil.rmtree(room.workspace / "app")
    shutil.rmtree(room.broker.folder / "elsewhere")


def _give(room: Room, folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            room.broker.give(path)


async def _asks(room: Room, cwd: str = "app") -> str:
    found = await NamedChecks(room.front.commands._files)("clean-git-config", cwd)
    return found.key if found else ""


async def test_an_ordinary_repository_passes_from_any_folder_of_it(room: Room, repository: Path) -> None:
    inner = repository.parent / "src/deep"
    inner.mkdir(parents=True)
    _give(room, repository.parent)
    assert await _asks(room) == ""
    assert await _asks(room, "app/src/deep") == ""


async def test_without_a_repository_git_would_look_above_the_workspace(room: Room) -> None:
    assert await _asks(room, "") == "command.ask.git_missing"


@pytest.mark.parametrize("name", ["", "HEAD", "objects", "objects/pack", "refs", "refs/heads", "info", "info/exclude"])
@pytest.mark.parametrize("where", ["outside", "inside", "nowhere"])
async def test_a_link_in_it_asks(room: Room, repository: Path, name: str, where: str) -> None:
    """A .git, or a part of it, that lies somewhere else: also where it leads out of the workspace or nowhere."""
    place = repository / name if name else repository
    target = {
        "outside": room.broker.folder / "elsewhere/.git" / name,
        "inside": repository.parent / "kept",
        "nowhere": Path("none"),
    }[where]
    if place.is_dir():
        shutil.move(place, repository.parent / "kept")
    elif place.exists():
        place.rename(repository.parent / "kept")
    else:
        (repository.parent / "kept").write_text("")
    place.symlink_to(target)
    assert await _asks(room) == "command.ask.git_elsewhere"
