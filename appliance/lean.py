"""A start that costs less. Import this before anything of aiohttp, and call :func:`settle` once the start is over.

What imports make is never garbage, so the collector rests meanwhile (measured: 90 ms of 540), and what stands when the start is
over is taken out of all later collections.

aiohttp makes its client's default TLS context when it is imported, and that reads every root certificate of the machine: measured
here, 150 ms of a start and 3 MB for good, for a client that the daemon does not use. Whoever needs a TLS client makes a
context of their own (``ssl.create_default_context()`` is untouched); aiohttp's default one trusts nobody, so it fails closed.
"""

from __future__ import annotations

import gc
import os

gc.disable()

_NAMES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_before = {name: os.environ.get(name) for name in _NAMES}
os.environ.update(dict.fromkeys(_NAMES, os.devnull))
try:
    import aiohttp  # noqa: F401
finally:
    for _name, _value in _before.items():
        if _value is None:
            del os.environ[_name]
        else:
            os.environ[_name] = _value


def settle() -> None:
    """The start is over: collect once, keep what is left out of every later collection, and let the collector work."""
    gc.collect()
    gc.freeze()
    gc.enable()
