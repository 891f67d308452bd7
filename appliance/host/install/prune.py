"""What a code-server tree built here does not need to run: sources, objects, other platforms, parts that are
switched off.

Rule: only names known to be unused are removed; everything that the editor, the terminal, search and web views load
stays.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

from appliance.host.install.host import folder_mb

_UNUSED = ("@github/copilot*", "@microsoft/mxc-sdk")
_EXTENSIONS = ("copilot", "mermaid-markdown-features", "microsoft-authentication")
_SOURCES = ("@vscode/sqlite3", "@vscode/spdlog", "node-pty")
_SOURCE_FOLDERS = ("deps", "src", "third_party")


def prune(tree: Path) -> int:
    """Make an IDE tree smaller. Returns how many MiB went."""
    before = folder_mb(tree)
    for path in sorted(_doomed(tree), key=lambda path: len(path.parts)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return before - folder_mb(tree)


def _doomed(tree: Path) -> Iterator[Path]:
    yield from (tree / "node" / name for name in ("include", "share", "lib"))
    yield from (tree / "node/bin" / name for name in ("npm", "npx", "corepack"))
    yield from tree.glob("code/**/*.map")
    for built in tree.glob("code/**/build/Release"):
        yield from (built / name for name in ("obj", "obj.target", ".deps"))
    for modules in tree.glob("code/**/node_modules"):
        for pattern in _UNUSED:
            yield from modules.glob(pattern)
        yield from (modules / name / folder for name in _SOURCES for folder in _SOURCE_FOLDERS)
        yield from _other_platforms(modules)
    code = tree / "code/node_modules/code-server/lib/vscode"
    yield from (code / "extensions" / name for name in _EXTENSIONS)


def _other_platforms(modules: Path) -> Iterator[Path]:
    """Prebuilt programs for systems that this machine is not."""
    here = "linux-" + ("arm64" if platform.machine() == "aarch64" else "x64")
    search = modules / "@vscode/ripgrep-universal/bin"
    for prebuilt in (*modules.glob("*/prebuilds"), *modules.glob("@*/*/prebuilds"), search):
        if prebuilt.is_dir():
            yield from (path for path in prebuilt.iterdir() if path.is_dir() and path.name != here)
