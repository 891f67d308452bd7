"""The rendered Caddyfile: Caddy accepts every shape of it, and no setting can write a line of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from appliance.broker.caddyfile import has_public_certificates, render
from appliance.errors import SettingsError
from appliance.settings import Paths, Settings, parse


def settings(home: Path, **proxy: Any) -> Settings:
    return parse({"host": "croft.localhost", "proxy": proxy}, Paths.under(home))


@pytest.mark.parametrize("runtime", ["process", "docker"])
@pytest.mark.parametrize(
    "proxy",
    [
        {"tls": "internal"},
        {"tls": "off"},
        {"tls": "internal", "bind": "127.0.0.1, ::1"},
        {"tls": "acme", "email": "owner+1@example.org", "acme_directory": "https://localhost:14000/dir"},
    ],
    ids=["internal", "off", "bound", "acme"],
)
def test_caddy_accepts_it_without_a_warning(tmp_path: Path, caddy: str, runtime: str, proxy: dict[str, Any]) -> None:
    file = tmp_path / "Caddyfile"
    file.write_text(render(settings(tmp_path, **proxy), runtime))
    done = subprocess.run(
        [caddy, "adapt", "--validate", "--adapter", "caddyfile", "--config", str(file)],
        text=True,
        capture_output=True,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    warnings = [line for line in done.stderr.splitlines() if '"level":"warn"' in line and "automatic HTTP" not in line]
    assert not warnings


def test_admin_interface_is_off(tmp_path: Path) -> None:
    """FWD-10."""
    assert "admin off" in render(settings(tmp_path), "process").splitlines()[1]


def test_container_sees_its_own_paths(tmp_path: Path) -> None:
    text = render(settings(tmp_path, bind="192.0.2.1"), "docker")
    assert "unix//run/croft/web/verify.sock" in text
    assert str(tmp_path) not in text
    assert "bind" not in text  # inside a container the addresses of the host do not exist


def test_fallback_can_be_left_out(tmp_path: Path) -> None:
    chosen = settings(tmp_path, tls="acme")
    assert "issuer internal" in render(chosen, "process")
    assert "issuer internal" not in render(chosen, "process", fallback=False)


@pytest.mark.parametrize("home", ["a b", 'quo"te', "brace{x}", "back`tick", "line\nbreak"])
def test_paths_that_caddy_could_misread_are_refused(tmp_path: Path, home: str) -> None:
    with pytest.raises(SettingsError, match="cannot write the Caddyfile"):
        render(settings(tmp_path / home), "process")


@pytest.mark.parametrize("bind", ["0.0.0.0 {", "localhost", "127.0.0.1;admin", "1.2.3.4 5.6.7.8"])
def test_only_addresses_can_be_bound(tmp_path: Path, bind: str) -> None:
    with pytest.raises(SettingsError):
        render(settings(tmp_path, bind=bind), "process")


def test_unknown_runtime_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        render(settings(tmp_path), "podman")


def test_acme_has_delivered_only_when_both_hosts_have_a_certificate_of_its(tmp_path: Path) -> None:
    chosen = settings(tmp_path, tls="acme")
    kept = tmp_path / "state/caddy/caddy/certificates"

    def put(authority: str, host: str) -> None:
        folder = kept / authority / host
        folder.mkdir(parents=True)
        (folder / f"{host}.crt").touch()

    put("local", "croft.localhost")
    put("local", "ide.croft.localhost")
    put("acme.example-directory", "croft.localhost")
    assert not has_public_certificates(chosen)
    assert "issuer internal" in render(chosen, "process")
    put("acme.example-directory", "ide.croft.localhost")
    assert has_public_certificates(chosen)
    assert "issuer internal" not in render(chosen, "process")
