"""Who may import whom (docs/architecture.md, "Rooms"): each ban has a reason, and each module stands alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOMAINS = ("identity", "broker", "services", "commands", "assistant", "telemetry", "host")
# One domain's page may use another's only where this table says so, with the reason.
ALLOWED = {
    ("services", "broker"): "the process runtime speaks to the broker through its client",
    ("commands", "broker"): "runs are started by the broker, which commands reach through its client",
    ("host", "broker"): "the installer prepares what the broker owns",
    ("host", "services"): "doctor and the services page share one table of known problems",
}
# Everything of appliance/ that is neither a room nor here is the foundation.
TOP = ("appliance.daemon", "appliance.serving", "appliance.cli", "appliance.__main__", "appliance.offline")


def modules() -> list[str]:
    found = []
    for folder in ("appliance", "webui", "control_sync"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return found


def path_of(module: str) -> Path:
    path = ROOT / Path(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def imports(module: str) -> Iterator[str]:
    """What a module imports, inside functions too."""
    for node in ast.walk(ast.parse(path_of(module).read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{module} imports by relative path"
            for name in node.names:
                whole = f"{node.module}.{name.name}"
                yield (
                    whole
                    if path_of(whole).exists() and whole.split(".")[0] in ("appliance", "webui", "control_sync")
                    else node.module
                )


def ours(module: str) -> list[str]:
    return [name for name in imports(module) if name.split(".")[0] in ("appliance", "webui", "control_sync")]


def room(module: str) -> str:
    parts = module.split(".")
    if parts[0] != "appliance":
        return parts[0]
    return (
        parts[1]
        if len(parts) > 1 and parts[1] in DOMAINS
        else "top"
        if module in TOP or parts[1:2] == ["verbs"] or "".join(parts[1:2]).startswith("assembly")
        else "foundation"
    )


@pytest.mark.parametrize("module", modules())
def test_imports_point_one_way(module: str) -> None:
    mine = room(module)
    for other in ours(module):
        theirs = room(other)
        if theirs == mine or mine == "top":
            continue
        assert theirs != "top", f"{module} imports {other}: nobody imports what puts everything together"
        if mine == "foundation":
            assert theirs == "foundation", f"{module} imports {other}: the foundation knows nobody above it"
        elif mine in DOMAINS:
            assert theirs == "foundation" or (mine, theirs) in ALLOWED, (
                f"{module} imports {other}: rooms meet through what they are given"
            )
        elif mine in ("webui", "control_sync"):
            assert {mine, theirs} != {"webui", "control_sync"}, (
                f"{module} imports {other}: the two edges do not know each other"
            )


def test_one_page_imports_the_web() -> None:
    assert [
        module
        for module in modules()
        if room(module) != "webui" and any(name.split(".")[0] == "webui" for name in ours(module))
    ] == ["appliance.serving"]


@pytest.mark.parametrize("module", [module for module in modules() if module.startswith("appliance.broker")])
def test_the_broker_can_be_audited_in_an_hour(module: str) -> None:
    """It runs as root: the standard library, two foundation pages and itself; no event loop, no web, no database."""
    for name in imports(module):
        top = name.split(".")[0]
        if top == "appliance":
            assert name.startswith("appliance.broker") or name in (
                "appliance",
                "appliance.settings",
                "appliance.errors",
            ), f"{module}: {name}"
        else:
            assert top in sys.stdlib_module_names, f"{module}: {name}"
            # client.py is the daemon's end, and the daemon has a loop.
            assert top not in ("sqlite3", "asyncio") or module == "appliance.broker.client", f"{module}: {name}"


def test_settings_and_errors_are_plain() -> None:
    for module in ("appliance.settings", "appliance.errors"):
        assert [
            name
            for name in imports(module)
            if name.split(".")[0] not in sys.stdlib_module_names and name != "appliance.errors"
        ] == []


def fresh(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True, timeout=100, cwd=ROOT
    ).stdout


def test_every_module_imports_alone() -> None:
    """Each in a process of its own (forked: the interpreter's start is not what is tested)."""
    names = [name for name in modules() if not name.endswith("__main__")]
    said = fresh(f"""
import importlib, os, sys
import aiohttp, aiosqlite, httpx2, jinja2, markdown_it, msgspec, nh3, pygments.lexers, openai, jwt, psutil, httptools, docker
import cryptography.hazmat.primitives.asymmetric.ed25519
for name in {names!r}:
    pid = os.fork()
    if not pid:
        try:
            importlib.import_module(name)
        except BaseException as error:
            print(name, repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    os.waitpid(pid, 0)
""")
    assert said == ""


def test_an_idle_daemon_carries_nothing_heavy() -> None:
    """DESIGN 3, F1: what is imported on first use must not be there at start."""
    heavy = (
        "openai",
        "docker",
        "segno",
        "webauthn",
        "cbor2",
        "requests",
        "urllib3",
        "playwright",
        "pytest",
        "uvloop",
        "sqlalchemy",
        "numpy",
        "email.mime.multipart",
    )
    assert (
        fresh(
            f"import sys, appliance.daemon, appliance.serving; print(*[name for name in {heavy!r} if name in sys.modules])"
        ).split()
        == []
    )


def test_the_command_line_starts_light() -> None:
    heavy = (
        "aiohttp",
        "aiosqlite",
        "sqlite3",
        "asyncio",
        "cryptography",
        "jwt",
        "msgspec",
        "jinja2",
        "docker",
        "psutil",
        "segno",
    )
    assert (
        fresh(f"import sys, appliance.cli; print(*[name for name in {heavy!r} if name in sys.modules])").split() == []
    )


def test_the_broker_starts_light() -> None:
    heavy = ("asyncio", "msgspec", "sqlite3", "aiohttp", "ssl", "cryptography")
    assert (
        fresh(
            f"import sys, appliance.broker.server; print(*[name for name in {heavy!r} if name in sys.modules])"
        ).split()
        == []
    )
