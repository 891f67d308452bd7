"""F1 to F4: memory at rest, time to the first answer, CPU while nothing happens; against what people use instead."""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from measure import Figure, NotRun, cpu_seconds, free_port, pss_mb, ratio, tree, wait_for
from stage import Appliance, peers, running_appliance, scratch, signed_in, throwaway_accounts

from appliance.broker import egress

HUB_VERSION, PROXY_VERSION = "6.1.1", "5"
SETTLE = 3.0
CONFIG = """
c.JupyterHub.bind_url = "http://127.0.0.1:{public}"
c.JupyterHub.hub_bind_url = "http://127.0.0.1:{hub}"
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{api}"
c.JupyterHub.authenticator_class = "dummy"
"""


def against_jupyterhub(rounds: int) -> list[Figure]:
    """F1 and F2: one start of each per round, memory after it has settled."""
    if not os.environ.get("CROFT_TEST_IDE"):
        raise NotRun("CROFT_TEST_IDE names no folder with code-server")
    hub, proxy = _jupyterhub()
    ours: dict[str, list[float]] = {"start": [], "pss": [], "broker": []}
    theirs: dict[str, list[float]] = {"start": [], "pss": []}
    with throwaway_accounts("f") as accounts:
        for _ in range(rounds):
            _start_appliance(accounts, ours)
            _start_hub(hub, proxy, theirs)
    start = {"ours": ours["start"], "hub": theirs["start"]}
    memory = {"ours": ours["pss"], "hub": theirs["pss"]}
    broker, medians = (
        statistics.median(ours["broker"]),
        lambda found: {name: statistics.median(each) for name, each in found.items()},
    )
    return [
        Figure(
            "F1",
            "idle daemon PSS / JupyterHub with its proxy",
            0.30,
            0.24,
            True,
            ratio(memory, "ours", "hub"),
            detail={f"{name} MB": value for name, value in medians(memory).items()},
        ),
        Figure("F1b", "broker PSS, MB", 15, 13, True, broker),
        Figure(
            "F2",
            "start to first 200 / JupyterHub",
            0.13,
            0.09,
            True,
            ratio(start, "ours", "hub"),
            detail={f"{name} ms": value * 1000 for name, value in medians(start).items()},
        ),
    ]


def _start_appliance(accounts: dict[str, str], found: dict[str, list[float]]) -> None:
    appliance = Appliance(accounts)
    try:
        began = time.monotonic()
        appliance.process = subprocess.Popen(
            [sys.executable, "-m", "appliance", "serve", "--home", str(appliance.folder)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd=Path(__file__).resolve().parents[1],
        )
        wait_for(lambda: _healthy(appliance), "the daemon's first 200", 30)
        found["start"].append(time.monotonic() - began)
        time.sleep(SETTLE)
        found["pss"].append(pss_mb([appliance.daemon_pid()]))
        found["broker"].append(pss_mb([appliance.broker_pid()]))
    finally:
        appliance.close()


def first_answer() -> float:
    """Seconds from the start of an appliance to its daemon's first 200."""
    found: dict[str, list[float]] = {"start": [], "pss": [], "broker": []}
    with throwaway_accounts("f") as accounts:
        _start_appliance(accounts, found)
    return found["start"][0]


def _healthy(appliance: Appliance) -> bool:
    from appliance.control import NotRunning

    try:
        appliance.control.call("GET", "/healthz")
    except (NotRunning, OSError):
        return False
    return True


def _start_hub(hub: Path, proxy: Path, found: dict[str, list[float]]) -> None:
    with scratch() as folder:
        ports = {"public": free_port(), "hub": free_port(), "api": free_port()}
        (folder / "config.py").write_text("c = get_config()  # noqa\n" + CONFIG.format(**ports))
        began = time.monotonic()
        process = subprocess.Popen(
            [hub, "-f", "config.py"],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={"PATH": f"{proxy}:{hub.parent}:{os.environ['PATH']}", "HOME": str(folder)},
        )
        try:
            wait_for(lambda: _answers(f"http://127.0.0.1:{ports['public']}/hub/login"), "JupyterHub's first 200", 60)
            found["start"].append(time.monotonic() - began)
            time.sleep(SETTLE)
            found["pss"].append(pss_mb(tree(process.pid)))
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - a loopback address of ours
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _jupyterhub() -> tuple[Path, Path]:
    """JupyterHub and the folder of its proxy's program, installed on first use."""
    hub, proxy = peers() / "hub/bin/jupyterhub", peers() / "chp/node_modules/.bin"
    try:
        if not hub.exists():
            subprocess.run(
                [sys.executable, "-m", "venv", str(peers() / "hub")], check=True, capture_output=True, timeout=120
            )
            subprocess.run(
                [str(hub.parent / "pip"), "-q", "install", f"jupyterhub=={HUB_VERSION}"],
                check=True,
                capture_output=True,
                timeout=600,
            )
        if not (proxy / "configurable-http-proxy").exists():
            subprocess.run(
                [
                    "npm",
                    "install",
                    "--no-audit",
                    "--no-fund",
                    "--prefix",
                    str(peers() / "chp"),
                    f"configurable-http-proxy@{PROXY_VERSION}",
                ],
                check=True,
                capture_output=True,
                timeout=300,
            )
    except (OSError, subprocess.SubprocessError) as error:
        raise NotRun(f"JupyterHub cannot be installed: {error}") from error
    return hub, proxy


def broker_with_containers(rounds: int) -> list[Figure]:
    """F1c: the broker of the docker runtime, with the proxy and the IDE up and looked at. Needs an engine and the images.

    The engine and the images are the tests' own: tests/docker/setup.sh up, and one run of tests/docker.
    """
    with _images(), throwaway_accounts("d") as accounts:
        found = [_broker_of_containers(accounts) for _ in range(min(rounds, 3))]
    return [Figure("F1c", "broker PSS, MB, docker runtime", 15, 13, True, statistics.median(found))]


def _broker_of_containers(accounts: dict[str, str]) -> float:
    appliance = Appliance(accounts, runtime="docker")
    try:
        appliance.start()
        appliance.croft("services", "start", "ide")
        wait_for(lambda: appliance.service("ide")["health"] == "healthy", "the IDE in its container", 90)
        time.sleep(SETTLE)
        return pss_mb([appliance.broker_pid()])
    except AssertionError as error:
        raise NotRun(f"the appliance did not start: {str(error).splitlines()[0]}") from error
    finally:
        appliance.close()
        _docker("rm", "-f", "croft-ide", "croft-proxy")


@contextmanager
def _images() -> Iterator[None]:
    """The tests' images under the names that the appliance knows."""
    for name in ("ide", "proxy"):
        if _docker("tag", f"croft-test/{name}:slim", f"croft/{name}:pin"):
            raise NotRun("no Docker engine with the tests' images answers")
    try:
        yield
    finally:
        egress.remove()
        _docker("rmi", "--no-prune", "croft/ide:pin", "croft/proxy:pin")
        _docker("network", "prune", "-f", "--filter", "label=com.docker.compose.project=croft")


def _docker(*words: str) -> int:
    try:
        return subprocess.run(["docker", *words], capture_output=True, timeout=60, check=False).returncode
    except OSError as error:
        raise NotRun(f"docker cannot be run: {error.strerror}") from error


def idle_cpu(rounds: int) -> list[Figure]:
    """F3: both run side by side; CPU in the same windows."""
    with running_appliance(ide=True) as appliance, _netdata() as netdata:
        ours = [appliance.daemon_pid(), appliance.broker_pid()]
        time.sleep(10)  # what starting costs is F2's
        found: dict[str, list[float]] = {"ours": [], "netdata": []}
        for _ in range(rounds):
            before = cpu_seconds(ours), cpu_seconds(tree(netdata))
            time.sleep(6)
            found["ours"].append((cpu_seconds(ours) - before[0]) / 6 * 100)
            found["netdata"].append((cpu_seconds(tree(netdata)) - before[1]) / 6 * 100)
    detail = {f"{name} % of a core": statistics.median(values) for name, values in found.items()}
    return [
        Figure(
            "F3",
            "idle CPU of daemon and broker / Netdata at 1 s",
            0.20,
            0.05,
            True,
            ratio(found, "ours", "netdata"),
            detail=detail,
        )
    ]


@contextmanager
def _netdata() -> Iterator[int]:
    program = shutil.which("netdata", path=f"{os.environ['PATH']}:/usr/sbin")
    if not program:
        raise NotRun("netdata is not installed (Debian package netdata-core)")
    with scratch() as folder:
        for name in ("cache", "lib", "log", "run"):
            (folder / name).mkdir()
        (folder / "netdata.conf").write_text(
            f"[global]\nrun as user = {os.environ.get('USER', 'root')}\nupdate every = 1\n"
            f"[directories]\ncache = {folder}/cache\nlib = {folder}/lib\nlog = {folder}/log\n"
            f"[db]\nmode = ram\n[web]\nbind to = 127.0.0.1:{free_port()}\n[cloud]\nenabled = no\n"
        )
        process = subprocess.Popen(
            [program, "-D", "-c", str(folder / "netdata.conf"), "-P", str(folder / "run/pid")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            time.sleep(2)
            if process.poll() is not None:
                raise NotRun("netdata does not stay up here")
            yield process.pid
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(20)


def whole_appliance(rounds: int) -> list[Figure]:
    """F4. Open WebUI is several gigabytes, so it is measured only where somebody installed it.

    It runs without its hub, so it carries the libraries for its embedding model but not the model: a little in its favour.
    """
    program = os.environ.get("CROFT_BENCH_OPENWEBUI", "")
    with signed_in() as ready:
        time.sleep(SETTLE)
        supervisor = ready.appliance.process
        ours = pss_mb(tree(supervisor.pid)) if supervisor else 0.0
    figure = Figure(
        "F4", "whole appliance without a model, PSS / Open WebUI alone", 0.50, 0.45, True, detail={"appliance MB": ours}
    )
    if not program:
        figure.why = "Open WebUI is not installed (several GB); CROFT_BENCH_OPENWEBUI names its program"
        return [figure]
    with scratch() as folder:
        port = free_port()
        process = subprocess.Popen(
            [program, "serve", "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "DATA_DIR": str(folder), "OFFLINE_MODE": "1", "HF_HUB_OFFLINE": "1"},
        )
        try:
            wait_for(lambda: _answers(f"http://127.0.0.1:{port}/health"), "Open WebUI", 150)
            time.sleep(SETTLE)
            theirs = pss_mb(tree(process.pid))
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(20)
    figure.value, figure.detail["open-webui MB"] = ours / theirs, theirs
    return [figure]
