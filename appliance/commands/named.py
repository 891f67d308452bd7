"""The checks that a rule may name, carried out over the workspace's files when a run is about to start.

Rule: a check that is not known, or whose files cannot be read, does not pass.
"""

from __future__ import annotations

from collections.abc import Iterator

from appliance.commands.checks import BESIDE_FILES, GIT_FILES, GIT_PLACES, MOST_BYTES, Finding, clean_git_config
from appliance.commands.workspace import FileRefused, WorkspaceFiles
from appliance.messages import Message

_ELSEWHERE = Message("command.ask.git_elsewhere")


class NamedChecks:
    """Call it with a check's name and the run's folder: why it does not pass, or None. Raises Unavailable."""

    def __init__(self, files: WorkspaceFiles) -> None:
        self._files = files

    async def __call__(self, name: str, cwd: str) -> Message | None:
        if name != "clean-git-config":
            return Message("command.ask.check", {"name": name})
        try:
            return await self._git(cwd)
        except FileRefused:
            return Message("command.ask.check", {"name": name})

    async def _git(self, cwd: str) -> Message | None:
        """The settings of the repository that git would find from ``cwd``."""
        folders = list(_upwards(cwd))
        places = await self._files.resolve([_inside(folder, ".git") for folder in folders])
        for folder, place in zip(folders, places, strict=True):
            if place.path == _inside(folder, ".git") and place.kind == "missing":
                continue
            if place.path != _inside(folder, ".git") or place.kind != "folder":
                return _ELSEWHERE  # a worktree, a submodule, a link: its settings lie elsewhere
            return await self._links(folder) or await self._settings(folder)
        return Message("command.ask.git_missing")  # git goes on looking above the workspace

    async def _links(self, folder: str) -> Message | None:
        wanted = [_inside(folder, ".git", name) for name in GIT_PLACES]
        found = await self._files.resolve(wanted)
        return None if [place.path for place in found] == wanted else _ELSEWHERE

    async def _settings(self, folder: str) -> Message | None:
        files = {name: _inside(folder, ".git", name) for name in GIT_FILES}
        files |= {name: _inside(folder, name) for name in BESIDE_FILES}
        texts: dict[str, str] = {}
        for name, path in files.items():
            data = await self._files.read(path, MOST_BYTES + 1)
            if data is None:
                continue
            if len(data) > MOST_BYTES:
                return Finding(name, "…").message
            texts[name] = data.decode("utf-8", "replace")
        found = clean_git_config(texts)
        return found[0].message if found else None


def _upwards(cwd: str) -> Iterator[str]:
    """``cwd`` and every folder above it, up to the workspace's own."""
    while cwd:
        yield cwd
        cwd = cwd.rpartition("/")[0]
    yield ""


def _inside(*parts: str) -> str:
    return "/".join(part for part in parts if part)
