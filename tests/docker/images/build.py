"""Builds the stand-ins of the three images from distribution and npm packages, as croft-test/{base,ide,proxy,ai}:slim.

    python tests/docker/images/build.py [base|ide|proxy|ai ...]

Needs an engine, `$CROFT_TEST_CACHE/base.tar` (tests/docker/setup.sh makes it) and, for `ide`, `$CROFT_TEST_IDE`: a
folder with node/bin/node and code/node_modules/code-server.

Rule: an image is built again only when what goes into it has changed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import docker

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("CROFT_TEST_CACHE", "/var/tmp/croft-tests"))
LABEL = "croft.test.recipe"
# What no test needs of code-server: maps, build leftovers, other platforms, the built-in AI.
PRUNED_FOLDERS = (
    "/obj.target",
    "/.deps",
    "/copilot-sdk",
    "/copilot-sdk-linux-x64",
    "/mxc-sdk",
    "/extensions/copilot",
    "/extensions/mermaid-markdown-features",
    "/extensions/microsoft-authentication",
)


def tag(name: str) -> str:
    return f"croft-test/{name}:slim"


def build(client: docker.DockerClient, name: str) -> str:
    """Build one image unless the same recipe is there already; returns its tag."""
    recipe = RECIPES[name](client)
    present = {image.labels.get(LABEL) for image in client.images.list(name=tag(name))}
    if recipe not in present:
        MAKERS[name](client, recipe)
    return tag(name)


def _sum(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _file(name: str) -> bytes:
    return (HERE / name).read_bytes()


def _base_recipe(client: docker.DockerClient) -> str:
    stat = (CACHE / "base.tar").stat()
    return _sum(str((stat.st_size, stat.st_mtime_ns)).encode())


def _make_base(client: docker.DockerClient, recipe: str) -> None:
    image = client.api.import_image_from_file(str(CACHE / "base.tar"), repository="croft-test/base", tag="raw")
    assert "error" not in image, image
    _build(client, "base", recipe, b'FROM croft-test/base:raw\nCMD ["bash"]\n', lambda tar: None)


def _ide_tree() -> Path:
    tree = Path(os.environ.get("CROFT_TEST_IDE") or "/nonexistent")
    if not (tree / "node/bin/node").is_file():
        sys.exit(
            "cannot build the IDE image: CROFT_TEST_IDE must name a folder with node/bin/node and "
            "code/node_modules/code-server"
        )
    return tree


def _ide_recipe(client: docker.DockerClient) -> str:
    package = _ide_tree() / "code/node_modules/code-server/package.json"
    return _sum(
        _base_recipe(client).encode(), _file("ide.Dockerfile"), package.read_bytes(), str(PRUNED_FOLDERS).encode()
    )


def _make_ide(client: docker.DockerClient, recipe: str) -> None:
    build(client, "base")
    tree = _ide_tree()

    def fill(tar: tarfile.TarFile) -> None:
        tar.add(tree / "node/bin/node", "node")
        tar.add(tree / "code/node_modules/code-server", "code-server", filter=_kept)
        tar.add(tree / "code/node_modules", "code-server/node_modules", filter=_kept_beside)

    _build(client, "ide", recipe, _file("ide.Dockerfile"), fill)


def _kept(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    path = "/" + entry.name
    if path.endswith((".map", *PRUNED_FOLDERS)):
        return None
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


def _kept_beside(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """npm puts code-server's own dependencies beside it; in the image they lie within."""
    return None if entry.name == "code-server/node_modules/code-server" else _kept(entry)


def _caddy() -> Path:
    found = shutil.which("caddy") or sys.exit("cannot build the proxy image: install Debian's caddy package")
    return Path(found)


def _proxy_recipe(client: docker.DockerClient) -> str:
    stat = _caddy().stat()
    return _sum(
        _base_recipe(client).encode(), _file("proxy.Dockerfile"), str((stat.st_size, stat.st_mtime_ns)).encode()
    )


def _make_proxy(client: docker.DockerClient, recipe: str) -> None:
    build(client, "base")
    _build(client, "proxy", recipe, _file("proxy.Dockerfile"), lambda tar: tar.add(_caddy(), "caddy"))


def _tiny() -> str:
    return (HERE.parents[1] / "support/tiny_model.py").read_text()


def _tiny_model(folder: Path) -> Path:
    """The same tiny model as everywhere in the tests."""
    sys.path.insert(0, str(HERE.parents[1]))
    from support.tiny_model import tiny_model

    return tiny_model(folder, 4096)


def _ai_recipe(client: docker.DockerClient) -> str:
    return _sum(_base_recipe(client).encode(), _file("ai.Dockerfile"), _file("engine.py"), _tiny().encode())


def _make_ai(client: docker.DockerClient, recipe: str) -> None:
    build(client, "base")
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--target",
                folder,
                "--python-version",
                "3.11",
                "--only-binary=:all:",
                "--no-compile",
                "xllamacpp",
            ],
            check=True,
        )

        model = _tiny_model(Path(folder).parent)

        def fill(tar: tarfile.TarFile) -> None:
            tar.add(folder, "python")
            tar.add(HERE / "engine.py", "engine.py")
            tar.add(model, "tiny.gguf")

        _build(client, "ai", recipe, _file("ai.Dockerfile"), fill)


def _build(
    client: docker.DockerClient, name: str, recipe: str, text: bytes, fill: Callable[[tarfile.TarFile], None]
) -> None:
    with tempfile.TemporaryFile(dir=CACHE) as context:
        with tarfile.open(fileobj=context, mode="w") as tar:
            fill(tar)
            entry = tarfile.TarInfo("Dockerfile")
            entry.size = len(text)
            with tempfile.TemporaryFile() as file:
                file.write(text)
                file.seek(0)
                tar.addfile(entry, file)
        context.seek(0)
        client.images.build(
            fileobj=context, custom_context=True, tag=tag(name), labels={LABEL: recipe}, rm=True, forcerm=True
        )


RECIPES = {"base": _base_recipe, "ide": _ide_recipe, "proxy": _proxy_recipe, "ai": _ai_recipe}
MAKERS = {"base": _make_base, "ide": _make_ide, "proxy": _make_proxy, "ai": _make_ai}


if __name__ == "__main__":
    with closing(docker.DockerClient("unix:///var/run/docker.sock", timeout=600)) as engine:
        for wanted in sys.argv[1:] or list(RECIPES):
            print(build(engine, wanted))
