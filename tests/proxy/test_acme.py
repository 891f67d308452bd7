"""Certificates by ACME against pebble, and our own authority standing in while ACME fails."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from support.accounts import throwaway_accounts
from support.appliance import Appliance, free_port
from support.waiting import poll

from appliance.broker.caddyfile import render
from appliance.broker.client import call
from appliance.settings import Paths, parse

NAMES = ("croft.test", "ide.croft.test")


def issuer(port: int, name: str) -> str:
    """Who signed what is served for ``name``; empty while nothing is."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as sock,
            context.wrap_socket(sock, server_hostname=name) as tls,
        ):
            served = tls.getpeercert(binary_form=True)
    except OSError:
        return ""
    return x509.load_der_x509_certificate(served or b"").issuer.rfc4514_string()


def own_certificate(folder: Path) -> None:
    """A key and a self-signed certificate for the ACME directory's own TLS."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


class Acme:
    """Pebble, a DNS server that answers 127.0.0.1 to everything, and a Caddy that asks them."""

    def __init__(self, folder: Path, caddy: str, http: int = 0, https: int = 0) -> None:
        self.folder, self.caddy = folder, caddy
        self.http, self.https = http or free_port(), https or free_port()
        self.directory, self.management, self.dns, self.control = (free_port() for _ in range(4))
        self.processes: list[subprocess.Popen[bytes]] = []
        own_certificate(folder)
        (folder / "pebble.json").write_text(
            json.dumps(
                {
                    "pebble": {
                        "listenAddress": f"127.0.0.1:{self.directory}",
                        "managementListenAddress": f"127.0.0.1:{self.management}",
                        "certificate": str(folder / "cert.pem"),
                        "privateKey": str(folder / "key.pem"),
                        "httpPort": self.http,
                        "tlsPort": self.https,
                        "ocspResponderURL": "",
                        "externalAccountBindingRequired": False,
                    }
                }
            )
        )

    def run(self, *argv: str, log_name: str = "pebble.log", **environment: str) -> None:
        with (self.folder / log_name).open("ab") as log:
            self.processes.append(
                subprocess.Popen(
                    argv,
                    stdout=log,
                    stderr=log,
                    cwd=self.folder,
                    env={"PATH": os.environ["PATH"], "HOME": str(self.folder), **environment},
                )
            )

    def start_pebble(self) -> None:
        self.run(
            "pebble-challtestsrv",
            "-defaultIPv4",
            "127.0.0.1",
            "-defaultIPv6",
            "",
            "-dns01",
            f"127.0.0.1:{self.dns}",
            "-http01",
            "",
            "-https01",
            "",
            "-tlsalpn01",
            "",
            "-management",
            f"127.0.0.1:{self.control}",
        )
        self.run(
            "pebble",
            "-config",
            "pebble.json",
            "-strict",
            "-dnsserver",
            f"127.0.0.1:{self.dns}",
            PEBBLE_VA_NOSLEEP="1",
            PEBBLE_WFE_NONCEREJECT="0",
        )
        poll(lambda: issuer(self.directory, "localhost"), "pebble", 20)

    @property
    def wanted(self) -> dict[str, str]:
        """The proxy's settings for certificates from here."""
        return {
            "tls": "acme",
            "email": "owner@croft.test",
            "acme_directory": f"https://localhost:{self.directory}/dir",
            "acme_root": str(self.folder / "cert.pem"),
        }

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

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def acme(tmp_path: Path, caddy: str) -> Iterator[Acme]:
    acme = Acme(tmp_path, caddy)
    yield acme
    acme.stop()


def test_both_hosts_get_certificates(acme: Acme) -> None:
    acme.start_pebble()
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
    acme.start_pebble()
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
    authority.start_pebble()
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
