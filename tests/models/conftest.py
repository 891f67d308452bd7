"""A source of models, and accounts and a broker for those that need real processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.source import Source, Way, source
from support.tiny_model import tiny_model


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Source]:
    """A source whose files are models that llama.cpp would load: what follows the last tensor is not looked at."""
    folder = tmp_path_factory.mktemp("shop")
    content = tiny_model(folder, context=2048, name="tiny").read_bytes()
    with source(folder, content + bytes(6 << 20)) as made:
        yield made


@pytest.fixture
def trusted(shop: Source, monkeypatch: pytest.MonkeyPatch) -> Source:
    """The same, its authority known to this machine, as it was at first."""
    monkeypatch.setenv("SSL_CERT_FILE", shop.authority)
    shop.ways.clear()
    shop.asked.clear()
    shop.usual = Way()
    return shop
