"""Making the daemon's listening sockets: bound under a scratch name, given group and mode, then renamed into place.

Rule: a socket is never reachable with wider permissions than it ends up with, and its folder is never made anew (DECIDED 8).
"""

from __future__ import annotations

import contextlib
import grp
import os
import socket
from pathlib import Path

from appliance.errors import SettingsError


def listen(path: Path, mode: int, group: str | None = None, backlog: int = 512) -> socket.socket:
    """A listening unix socket at ``path``. Raises SettingsError when its folder is missing or not ours to use."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    before = os.umask(0o777)
    try:
        with contextlib.suppress(FileNotFoundError):
            scratch.unlink()
        sock.bind(str(scratch))
        if group is not None:
            with contextlib.suppress(KeyError, PermissionError):
                # Without root, or without the group (a checkout), the folder's own permissions are what counts.
                os.chown(scratch, -1, grp.getgrnam(group).gr_gid)
        scratch.chmod(mode)
        sock.listen(backlog)
        scratch.rename(path)
    except OSError as error:
        sock.close()
        raise SettingsError(f"cannot listen on {path.name}: {error.strerror}",
                            hint="The broker prepares these folders; is it running?") from error
    finally:
        os.umask(before)
    return sock
