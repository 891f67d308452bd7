"""Making the daemon's listening sockets.

Rule: a socket is never reachable with wider permissions than it ends up with, and its folder is never made anew (DECIDED 8).
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from appliance.errors import SettingsError


def listen(path: Path, mode: int, backlog: int = 512) -> socket.socket:
    """A listening unix socket at ``path``; its group is its folder's. Raises SettingsError when it cannot be made.

    One left behind by a daemon that died is replaced; the database lock has made sure that no other daemon lives.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    before = os.umask(0o777)
    try:
        path.unlink(missing_ok=True)
        sock.bind(str(path))
        path.chmod(mode)
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise SettingsError(
            f"cannot listen on {path.name}: {error.strerror}", hint="The broker prepares these folders; is it running?"
        ) from error
    finally:
        os.umask(before)
    return sock
