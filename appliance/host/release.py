"""`make release`: the archive, its checksum, and the install.sh that names both.

Rule: two builds of one commit give the same bytes (SUP-8): only committed files, one time stamp, one order, no
names of people.
Usage: python -m appliance.host.release build [--output DIR] [--no-wheels]
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path

_LEFT_OUT = ("tests/", "bench/", ".github/", ".ci/")


def main(argv: list[str]) -> int:
    """Build the release of the checkout this file lies in."""
    parser = argparse.ArgumentParser(prog="release")
    parser.add_argument("what", choices=("build",))
    parser.add_argument("--output", type=Path, default=Path("dist"))
    parser.add_argument("--no-wheels", action="store_true", help="let the installer fetch the locked wheels instead")
    args = parser.parse_args(argv)
    root = Path(__file__).resolve().parents[2]
    args.output.mkdir(parents=True, exist_ok=True)
    for path in build(root, args.output, wheels=not args.no_wheels):
        print(path)
    return 0


def build(root: Path, output: Path, *, wheels: bool) -> list[Path]:
    """Write the archive, install.sh and SHA256SUMS to ``output``. Raises CalledProcessError when git or pip fails."""
    version = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    stamp = int(_git(root, "log", "-1", "--format=%ct"))
    files = {name: ((root / name).read_bytes(), os.access(root / name, os.X_OK)) for name in _committed(root)}
    with tempfile.TemporaryDirectory() as scratch:
        if wheels:
            for wheel in _wheels(root, Path(scratch), stamp):
                files[f"wheels/{wheel.name}"] = (wheel.read_bytes(), False)
    archive = output / f"croft-{version}.tar.gz"
    archive.write_bytes(_archive(f"croft-{version}", files, stamp))
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    script = output / "install.sh"
    script.write_text(_pinned((root / "install.sh").read_text("utf-8"), version, digest), "utf-8")
    script.chmod(0o755)
    sums = output / "SHA256SUMS"
    sums.write_text(
        "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in (archive, script))
    )
    return [archive, script, sums]


def _git(root: Path, *words: str) -> str:
    return subprocess.run(("git", "-C", str(root), *words), capture_output=True, text=True, check=True).stdout


def _committed(root: Path) -> list[str]:
    names = _git(root, "ls-files", "-z").split("\0")
    return sorted(name for name in names if name and not name.startswith(_LEFT_OUT) and (root / name).is_file())


def _pinned(script: str, version: str, digest: str) -> str:
    for name, value in (("RELEASE_VERSION", version), ("RELEASE_SHA256", digest)):
        script, count = re.subn(rf'^readonly {name}=""$', f'readonly {name}="{value}"', script, flags=re.MULTILINE)
        if count != 1:
            raise ValueError(f"cannot pin {name}: install.sh must set it to an empty text exactly once")
    return script


def _wheels(root: Path, scratch: Path, stamp: int) -> list[Path]:
    """The locked wheels for this machine's Python and processor, and the project's own."""
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    subprocess.run(
        (
            *pip,
            "download",
            "--require-hashes",
            "--only-binary",
            ":all:",
            "--no-deps",
            "--dest",
            str(scratch),
            "-r",
            str(root / "requirements.txt"),
        ),
        check=True,
    )
    source = scratch / "source"
    for name in _committed(root):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((root / name).read_bytes())
    tools = scratch / "tools"
    subprocess.run(
        (
            *pip,
            "install",
            "--require-hashes",
            "--only-binary",
            ":all:",
            "--no-deps",
            "--target",
            str(tools),
            "-r",
            str(root / "requirements-build.txt"),
        ),
        check=True,
    )
    subprocess.run(
        (*pip, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(scratch), str(source)),
        check=True,
        env={**os.environ, "PYTHONPATH": str(tools), "SOURCE_DATE_EPOCH": str(stamp)},
    )
    return sorted(scratch.glob("*.whl"))


def _archive(top: str, files: dict[str, tuple[bytes, bool]], stamp: int) -> bytes:
    packed = io.BytesIO()
    # gzip stores a name and a time; both are fixed here.
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=stamp, compresslevel=6) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.GNU_FORMAT) as tar,
    ):
        for name in sorted(files):
            content, executable = files[name]
            entry = tarfile.TarInfo(f"{top}/{name}")
            entry.size, entry.mtime, entry.mode = len(content), stamp, 0o755 if executable else 0o644
            tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
