"""The piped installer against a local HTTPS server: a pinned release is verified before anything of it runs (SUP-5)."""

from __future__ import annotations

import http.server
import os
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.host import release

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("authority")
    subprocess.run(
        (
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-keyout",
            str(folder / "key.pem"),
            "-out",
            str(folder / "cert.pem"),
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
        ),
        check=True,
        capture_output=True,
    )
    return folder


@pytest.fixture
def site(tmp_path: Path, certificate: Path) -> Iterator[tuple[str, Path]]:
    """An HTTPS server of the test's own folder."""
    folder = tmp_path / "site"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"https://localhost:{server.server_address[1]}", folder
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small project with the real install.sh and an installer that only says that it ran."""
    root = tmp_path_factory.mktemp("checkout")
    main = root / "appliance/host/install/main.py"
    main.parent.mkdir(parents=True)
    for folder in (root / "appliance", root / "appliance/host", main.parent):
        (folder / "__init__.py").touch()
    main.write_text("def main(argv, source):\n    print('RAN', argv[0], ' '.join(argv[1:]))\n    return 0\n")
    (root / "install.sh").write_bytes((ROOT / "install.sh").read_bytes())
    (root / "pyproject.toml").write_text('[project]\nname = "croft"\nversion = "9.9.9"\n')
    person = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    for words in (("init", "-q"), ("add", "-A"), (*person, "commit", "-qm", "x")):
        subprocess.run(("git", "-C", str(root), *words), check=True)
    return root


def pipe(script: Path, certificate: Path, *argv: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`curl URL/install.sh | sudo bash -s -- ...`, in a mount namespace of its own so that /var stays as it is."""
    line = "mount -t tmpfs none /var/cache && mount -t tmpfs none /var/log && exec bash -s -- " + " ".join(argv)
    with script.open() as stdin:
        return subprocess.run(
            ("unshare", "--mount", "sh", "-c", line),
            stdin=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            cwd=cwd,
            env={**os.environ, "CURL_CA_BUNDLE": str(certificate / "cert.pem")},
        )


def test_a_release_is_fetched_checked_and_run(site: tuple[str, Path], checkout: Path, certificate: Path) -> None:
    url, folder = site
    release.build(checkout, folder, wheels=False)
    done = pipe(folder / "install.sh", certificate, "--source", url, "--unattended", "--domain", "a.example.org")
    assert done.returncode == 0, done.stdout + done.stderr
    phases = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("RAN")]
    assert phases == ["check", "apply", "finish"]
    assert "--domain a.example.org" in done.stdout


def test_a_tampered_release_is_refused_before_anything_runs(
    site: tuple[str, Path], checkout: Path, certificate: Path
) -> None:
    """SUP-5"""
    url, folder = site
    archive, script, _ = release.build(checkout, folder, wheels=False)
    with archive.open("r+b") as file:
        file.seek(-20, os.SEEK_END)
        byte = file.read(1)
        file.seek(-20, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))
    done = pipe(script, certificate, "--source", url, "--unattended")
    assert done.returncode == 1
    assert "not the one this script was made for" in done.stderr
    assert "RAN" not in done.stdout


@pytest.mark.parametrize("source", ["http://localhost:1", "file:///tmp", ""])
def test_only_https_sources(site: tuple[str, Path], checkout: Path, certificate: Path, source: str) -> None:
    _, folder = site
    _, script, _ = release.build(checkout, folder, wheels=False)
    done = pipe(script, certificate, f"--source={source}", "--unattended")
    assert done.returncode == 1
    assert "https" in done.stderr


def test_a_server_with_an_unknown_certificate_is_refused(
    site: tuple[str, Path], checkout: Path, certificate: Path
) -> None:
    url, folder = site
    _, script, _ = release.build(checkout, folder, wheels=False)
    other = folder.parent / "cert.pem"
    other.write_bytes(Path("/etc/ssl/certs/ca-certificates.crt").read_bytes())
    done = pipe(script, other.parent, "--source", url, "--unattended")
    assert done.returncode != 0
    assert "RAN" not in done.stdout


def test_a_checkouts_script_does_not_run_piped(certificate: Path) -> None:
    done = pipe(ROOT / "install.sh", certificate, "--unattended")
    assert done.returncode == 1
    assert "names no release" in done.stderr


@pytest.mark.parametrize("name", ["main", "environment", "bash", "install.sh"])
def test_nothing_that_lies_in_the_folder_is_run(checkout: Path, certificate: Path, tmp_path: Path, name: str) -> None:
    """SUP-5: whoever may write where root happens to stand (/tmp) is not asked to install. "main" is what bash calls a pipe."""
    planted = tmp_path / "planted"
    shutil.copytree(checkout / "appliance", planted / "appliance")
    (planted / name).touch()
    for script in (ROOT / "install.sh", checkout / "install.sh"):
        done = pipe(script, certificate, "--unattended", cwd=planted)
        assert (done.returncode, done.stdout) == (1, "")
        assert "names no release" in done.stderr


def test_a_saved_script_of_a_release_runs_nothing_beside_it(
    site: tuple[str, Path], checkout: Path, tmp_path: Path
) -> None:
    """SUP-5: it may have been saved where others write, as /tmp."""
    _, script, _ = release.build(checkout, site[1], wheels=False)
    shutil.copytree(checkout / "appliance", tmp_path / "appliance")
    saved = shutil.copy(script, tmp_path / "install.sh")
    done = subprocess.run(("bash", saved, "--source=", "--unattended"), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "--source must be an https address" in done.stderr


def test_a_script_cut_off_anywhere_does_nothing(certificate: Path, tmp_path: Path) -> None:
    """Everything is in functions; the last line starts them."""
    text = (ROOT / "install.sh").read_text()
    for share in (0.3, 0.6, 0.9, 0.99):
        cut = tmp_path / "install.sh"
        cut.write_text(text[: int(len(text) * share)])
        done = pipe(cut, certificate, "--unattended")
        assert "RAN" not in done.stdout
        assert "Fetching" not in done.stdout


def test_two_builds_of_one_commit_are_equal(checkout: Path, tmp_path: Path) -> None:
    """SUP-8"""
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        release.build(checkout, folder, wheels=False)
    for name in ("croft-9.9.9.tar.gz", "install.sh", "SHA256SUMS"):
        assert (one / name).read_bytes() == (other / name).read_bytes()


def test_the_script_passes_shellcheck() -> None:
    subprocess.run(("shellcheck", str(ROOT / "install.sh"), str(ROOT / "tools/lock.sh")), check=True)
