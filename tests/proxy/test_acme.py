"""Certificates by ACME against pebble, and our own authority standing in while ACME fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.accounts import throwaway_accounts
from support.appliance import Appliance, free_port
from support.pebble import Pebble, issuer
from support.waiting import poll

from appliance.broker.caddyfile import render
from appliance.broker.client import call
from appliance.settings import Paths, parse

NAMES = ("croft.test", "ide.croft.test")


class Acme(Pebble):
    """An authority for names on loopback, and a Caddy that asks it."""

    def __init__(self, folder: Path, caddy: str, http: int = 0, https: int = 0) -> None:
        self.caddy, self.http, self.https = caddy, http or free_port(), https or free_port()
        super().__init__(folder, self.http, self.https)

    @property
    def wanted(self) -> dict[str, str]:
        return {"tls": "acme", "email": "owner@croft.test"} | super().wanted

    def start_caddy(self, **options: int) -> None:
        proxy = {"http_port": self.http, "https_port": self.https, "bind": "127.0.0.1"}
        settings = parse({"host": NAMES[0], "proxy": proxy | self.wanted}, Paths.under(self.folder))
        (self.folder / "Caddyfile").write_text(render(settings, "process", **options))
        self.run(
            self.caddy,
            "run",
            "--adapter",
            "caddyfile",
            "--config",
            "Caddyfile",
            log_name="caddy.log",
            XDG_CONFIG_HOME=str(self.folder / "config"),
        )

    def issuers(self) -> list[str]:
        return [issuer(self.https, name) for name in NAMES]


@pytest.fixture
def acme(tmp_path: Path, caddy: str) -> Iterator[Acme]:
    acme = Acme(tmp_path, caddy)
    yield acme
    acme.stop()


def test_both_hosts_get_certificates(acme: Acme) -> None:
    acme.start()
    acme.start_caddy()
    poll(lambda: all("Pebble" in name for name in acme.issuers()), f"certificates; see {acme.folder}", 40)


def test_own_authority_stands_in_until_acme_answers(acme: Acme) -> None:
    """ACME down: our certificate at once, the reason in the log, and another try when a third of its life is left."""
    acme.start_caddy(fallback_lifetime=15, renew_interval=1)
    poll(
        lambda: all("Caddy Local Authority" in name for name in acme.issuers()),
        f"own certificates; see {acme.folder}",
        40,
    )
    log = (acme.folder / "caddy.log").read_text()
    assert "connection refused" in log
    acme.start()
    poll(
        lambda: all("Pebble" in name for name in acme.issuers()),
        f"certificates after ACME returned; see {acme.folder}",
        60,
    )


@pytest.fixture
def appliance(tmp_path: Path) -> Iterator[Appliance]:
    with throwaway_accounts("a") as accounts:
        made = Appliance(accounts)
        yield made
        made.close()


@pytest.fixture
def authority(appliance: Appliance, caddy: str) -> Iterator[Acme]:
    """Pebble for a whole appliance, whose proxy reads its root."""
    folder = appliance.folder / "acme"
    folder.mkdir()
    made = Acme(folder, caddy, appliance.http_port, appliance.https_port)
    lines = "".join(f'{key} = "{value}"\n' for key, value in made.wanted.items())
    config = appliance.paths.config
    config.write_text(f'host = "{NAMES[0]}"\n{config.read_text()}{lines}')
    yield made
    made.stop()


def test_the_stand_in_leaves_the_configuration_once_acme_has_delivered(appliance: Appliance, authority: Acme) -> None:
    """Caddy would put a certificate of ours in a good one's place at the first renewal that fails, so the proxy is
    restarted without our authority: by itself, and once."""
    authority.start()
    appliance.start()
    caddyfile, log = appliance.paths.run / "proxy/Caddyfile", appliance.paths.log / "proxy.log"

    def starts() -> int:
        return log.read_text().count("serving initial configuration")

    def settled() -> bool:
        row = appliance.service("proxy")  # asking makes the daemon look
        return row["health"] == "healthy" and "issuer internal" not in caddyfile.read_text() and starts() > 1

    poll(settled, f"the proxy's restart; see {appliance.folder}", 60)
    assert all("Pebble" in name for name in authority.issuers())
    rows = call(appliance.paths.socket("broker"), "services").data["services"]
    assert not any(row["outdated"] for row in rows)
    assert starts() == 2
