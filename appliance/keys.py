"""Key files of this appliance: made once, owner-only, written so that a power cut leaves the old or the new, never half.

Rule (SEC-1): files 0600, folders 0700, created with O_EXCL, renamed into place, and the folder synced.
"""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance.errors import CroftError

_INSTANCE = re.compile(r"croft-[0-9a-f]{32}\Z")


def write_private(path: Path, content: bytes) -> None:
    """Replace ``path`` with ``content`` atomically, mode 0600, on disk when this returns. Raises OSError."""
    _make_folder(path.parent)
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, 0o600)  # whatever the umask took away
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        scratch.rename(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        return
    folder.chmod(0o700)  # whatever the umask took away


def ed25519(path: Path) -> Ed25519PrivateKey:
    """The Ed25519 key kept at ``path``; made on first use. Raises OSError, or CroftError when what is there is no key."""
    try:
        return Ed25519PrivateKey.from_private_bytes(path.read_bytes())
    except ValueError as error:
        raise _damaged(path) from error
    except FileNotFoundError:
        key = Ed25519PrivateKey.generate()
        write_private(path, key.private_bytes_raw())
        return key


def instance_id(path: Path) -> str:
    """The random name of this appliance, kept at ``path``; made on first use. Raises OSError, CroftError."""
    try:
        name = path.read_bytes().decode("ascii", "replace").strip()
    except FileNotFoundError:
        name = "croft-" + secrets.token_hex(16)
        write_private(path, name.encode())
    if not _INSTANCE.match(name):
        raise _damaged(path)  # an empty name would be everybody's audience
    return name


def _damaged(path: Path) -> CroftError:
    return CroftError(
        f"cannot use the key file {path.name}: it is damaged", hint="Restore a backup with `croft backup restore`."
    )


def boot_id() -> str:
    """The kernel's name for this boot (random(4)); tells whether two uptimes may be compared."""
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
