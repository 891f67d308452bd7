"""What the policy cannot see: where the folder and the typed paths really lead, and the named checks. Looked at when a run
is proposed and again when it starts.

Rule: this only ever makes a verdict stricter. The folder is held to by the broker at the exec itself; a path is looked at
just before, and what a program opens afterwards is bounded by its user, not by us (docs/threat-model.md).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from appliance.commands.model import Judgement, Stage, Verdict
from appliance.commands.values import lexical
from appliance.commands.workspace import Place, WorkspaceFiles
from appliance.messages import Message

# Name of a check and the run's folder: why it does not pass, or None.
Check = Callable[[str, str], Awaitable[Message | None]]


async def verified(judgement: Judgement, cwd: str, workspace: str, files: WorkspaceFiles, check: Check) -> Judgement:
    """``judgement`` as it holds on this workspace now. ``workspace`` is its absolute path. Raises Unavailable."""
    judgement = _located(judgement, cwd, workspace)
    wanted = [cwd] if cwd else []
    wanted += [lexical(cwd, path.value) or "." for path in judgement.paths]
    places = await files.resolve(wanted) if wanted else []
    if cwd:
        judgement = _in_folder(judgement, cwd, places.pop(0))
        wanted.pop(0)
    for path, place in zip(wanted, places, strict=True):
        judgement = _along(judgement, path, place)
    for name in judgement.checks:
        if judgement.verdict is Verdict.ALLOW and (reason := await check(name, cwd)):
            judgement = replace(judgement, verdict=Verdict.ASK, reason=reason)
    return judgement


def _located(judgement: Judgement, cwd: str, workspace: str) -> Judgement:
    """With programs that were named by a path below the folder made absolute: the broker takes no others."""
    stages: list[Stage] = []
    for stage in judgement.stages:
        word = stage.argv[0]
        if "/" not in word or word.startswith("/"):
            stages.append(stage)
        elif (place := lexical(cwd, word)) is None:
            return _refused(judgement, "command.refused.outside", path=word)
        else:
            stages.append(replace(stage, argv=(f"{workspace}/{place}", *stage.argv[1:])))
    return replace(judgement, stages=tuple(stages))


def _in_folder(judgement: Judgement, cwd: str, place: Place) -> Judgement:
    if place.code == "outside":
        return _refused(judgement, "command.refused.outside", path=cwd)
    if place.kind != "folder":
        return _refused(judgement, "command.refused.no_folder", path=cwd)
    if place.path != cwd:
        return _refused(judgement, "command.refused.folder_link", path=cwd, place=place.path)
    return judgement


def _along(judgement: Judgement, path: str, place: Place) -> Judgement:
    if place.code in ("outside", "forbidden"):
        return _refused(judgement, "command.refused.outside", path=path)
    if place.code == "not_found" or place.path == path or judgement.verdict is not Verdict.ALLOW:
        return judgement  # a file that is not there: the program says so itself
    # What is too long for us may be short enough for a program that starts further down.
    unseen = Message("command.ask.unseen", {"path": path})
    reason = unseen if place.code else Message("command.ask.link", {"path": path, "place": place.path})
    return replace(judgement, verdict=Verdict.ASK, reason=reason)


def _refused(judgement: Judgement, key: str, **params: str) -> Judgement:
    return replace(judgement, verdict=Verdict.DENY, reason=Message(key, params))
