"""A certificate authority that speaks ACME: pebble, with a DNS server beside it that knows one address."""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from support.appliance import free_port
from support.waiting import poll


def issuer(port: int, name: str, address: str = "127.0.0.1") -> str:
    """Who signed what is served for ``name``; empty while nothing is."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((address, port), timeout=5) as sock,
            context.wrap_socket(sock, server_hostname=name) as tls,
        ):
            served = tls.getpeercert(binary_form=True)
    except OSError:
        return ""
    return x509.load_der_x509_certificate(served or b"").issuer.rfc4514_string()


class Pebble:
    """It listens on ``address`` and looks for every host at ``hosts``, ports ``http`` and ``https``. Start and stop it."""

    def __init__(
        self, folder: Path, http: int, https: int, *, address: str = "127.0.0.1", hosts: str = "127.0.0.1"
    ) -> None:
        self.folder, self.address, self.hosts = folder, address, hosts
        self.port, self._management, self._dns, self._control = (free_port() for _ in range(4))
        self.processes: list[subprocess.Popen[bytes]] = []
        self._certify()
        settings = {
            "listenAddress": f"{address}:{self.port}",
            "managementListenAddress": f"127.0.0.1:{self._management}",
            "certificate": str(folder / "cert.pem"),
            "privateKey": str(folder / "key.pem"),
            "httpPort": http,
            "tlsPort": https,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": False,
        }
        (folder / "pebble.json").write_text(json.dumps({"pebble": settings}))

    @property
    def wanted(self) -> dict[str, str]:
        """The proxy's settings for certificates from here."""
        name = "localhost" if self.address == "127.0.0.1" else self.address
        return {"acme_directory": f"https://{name}:{self.port}/dir", "acme_root": str(self.folder / "cert.pem")}

    def start(self) -> None:
        dns = f"127.0.0.1:{self._dns}"
        off = [word for name in ("http01", "https01", "tlsalpn01") for word in (f"-{name}", "")]
        answers = ["-defaultIPv4", self.hosts, "-defaultIPv6", "", "-dns01", dns]
        self.run("pebble-challtestsrv", *answers, *off, "-management", f"127.0.0.1:{self._control}")
        pebble = ("pebble", "-config", "pebble.json", "-strict", "-dnsserver", dns)
        self.run(*pebble, PEBBLE_VA_NOSLEEP="1", PEBBLE_WFE_NONCEREJECT="0")
        poll(lambda: issuer(self.port, "localhost", self.address), "pebble", 20)

    def run(self, *argv: str, log_name: str = "pebble.log", **environment: str) -> None:
        """Start a program that ends with the authority."""
        env = {"PATH": os.environ["PATH"], "HOME": str(self.folder), **environment}
        with (self.folder / log_name).open("ab") as log:
            self.processes.append(subprocess.Popen(argv, stdout=log, stderr=log, cwd=self.folder, env=env))

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self.processes.clear()

    def _certify(self) -> None:
        """A key and a self-signed certificate for the directory's own TLS."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
        now = datetime.now(UTC)
        known = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(self.address))]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName(known), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        (self.folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (self.folder / "key.pem").write_bytes(secret)
