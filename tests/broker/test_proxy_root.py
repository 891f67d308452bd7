"""What the broker publishes out of Caddy's folder: one certificate, and never what a link there names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from appliance.broker.proxy_root import ProxyRoot
from appliance.settings import Paths, parse

CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n"


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = Paths.under(tmp_path)
    (made.caddy_data / "caddy/pki/authorities/local").mkdir(parents=True)
    made.proxy_root.parent.mkdir(parents=True)
    return made


def source(paths: Paths) -> Path:
    return paths.caddy_data / "caddy/pki/authorities/local/root.crt"


def test_the_certificate_is_published_for_everyone(paths: Paths) -> None:
    source(paths).write_bytes(CERTIFICATE)
    ProxyRoot(parse({}, paths)).pump()
    assert paths.proxy_root.read_bytes() == CERTIFICATE
    assert paths.proxy_root.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"root:x:0:0",
        CERTIFICATE + CERTIFICATE,
        CERTIFICATE + b"more",
        b"A" * 100_000,
        b"-----BEGIN PRIVATE KEY-----\nQUJD\n-----END PRIVATE KEY-----\n",
    ],
)
def test_nothing_else_is(paths: Paths, content: bytes) -> None:
    """SYS-2: the folder belongs to Caddy; what it puts there is not trusted."""
    source(paths).write_bytes(content)
    ProxyRoot(parse({}, paths)).pump()
    assert not paths.proxy_root.exists()


def test_links_out_of_the_folder_are_not_followed(paths: Paths, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(CERTIFICATE)
    source(paths).symlink_to(secret)
    ProxyRoot(parse({}, paths)).pump()
    assert not paths.proxy_root.exists()


def test_a_pipe_does_not_hold_the_broker_up(paths: Paths) -> None:
    os.mkfifo(source(paths))
    ProxyRoot(parse({}, paths)).pump()
    assert not paths.proxy_root.exists()
