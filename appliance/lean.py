"""A start that costs less. Import this before anything else, and call :func:`settle` once the start is over.

What imports make is never garbage, so the collector rests meanwhile (measured: 90 ms of 540), and what stands when the start is
over is taken out of all later collections.
"""

from __future__ import annotations

import gc

gc.disable()


def settle() -> None:
    """The start is over: collect once, keep what is left out of every later collection, and let the collector work."""
    gc.collect()
    gc.freeze()
    gc.enable()
