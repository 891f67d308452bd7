"""What holds for every test. Rule: only what the machine around the tests would otherwise decide."""

from __future__ import annotations

import signal

# Whoever starts the tests in the background of a shell has Ctrl-C ignored (POSIX 2.11), and every child would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
