"""QR codes as the outline of one SVG path, drawn here and nowhere else. Rule: what it encodes stays on this machine."""

from __future__ import annotations

from msgspec import Struct


class Square(Struct, frozen=True):
    """``path`` fills the dark modules of a square of ``size`` modules, the quiet zone included (ISO/IEC 18004: four)."""

    path: str
    size: int


QUIET = 4


def square(text: str) -> Square:
    """The QR code of ``text``. Imports its library: call it off the event loop the first time."""
    import segno

    rows = [bytes(row) for row in segno.make(text, error="l", micro=False).matrix]
    runs = [
        f"M{start + QUIET} {y + QUIET}h{length}v1h-{length}z"
        for y, row in enumerate(rows)
        for start, length in _runs(row)
    ]
    return Square("".join(runs), len(rows) + 2 * QUIET)


def _runs(row: bytes) -> list[tuple[int, int]]:
    """Where dark modules begin in a row, and how many follow."""
    found: list[tuple[int, int]] = []
    for x, dark in enumerate(row):
        if dark and found and sum(found[-1]) == x:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        elif dark:
            found.append((x, 1))
    return found
