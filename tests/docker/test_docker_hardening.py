"""What live containers are allowed: read back from the engine and the kernel, not from our own file."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from appliance.broker.shares import measure, plan

SERVICES = ("ide", "proxy")
DANGEROUS = ("docker.sock", "/var/run/docker", "broker", "/proc", "/sys", "/dev", "/etc/croft", "croft.db", "keys")


@pytest.fixture(scope="module")
def running(module_broker) -> Iterator[Any]:
    module_broker.up("ide", model_mb=2309)
    module_broker.up("proxy", model_mb=2309)
    return module_broker


@pytest.fixture(params=SERVICES)
def live(request, running, engine: docker.DockerClient) -> dict[str, Any]:
    """The engine's own description of a running container."""
    return engine.containers.get(f"croft-{request.param}").attrs


def test_powers_are_dropped(live: dict[str, Any]) -> None:
    """SYS-3 (CIS 5.3, 5.4, 5.12, 5.15-5.17, 5.20, 5.21, 5.25, 5.28-5.31)."""
    host = live["HostConfig"]
    assert host["CapDrop"] == ["ALL"]
    assert (host["CapAdd"] or []) == ([] if "ide" in live["Name"] else ["NET_BIND_SERVICE"])
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["Privileged"] is False
    assert host["ReadonlyRootfs"] is True
    assert 0 < host["PidsLimit"] <= 512
    assert host["PidMode"] == host["UTSMode"] == host["UsernsMode"] == ""
    assert host["IpcMode"] == "private"
    assert host["NetworkMode"] not in ("host", "default", "bridge")
    assert not host["Devices"]
    assert not host["VolumesFrom"]
    assert host["RestartPolicy"]["Name"] == "no"
    assert live["State"]["Health"], "a health check is declared"


def test_limits_are_there_for_the_kernel_too(live: dict[str, Any]) -> None:
    """SYS-3, SYS-5, SYS-10: memory, processors and processes, as the control groups say."""
    from appliance.broker.containers import group

    wanted = plan(measure(), docker=True, model_mb=2309).shares["ide" if "ide" in live["Name"] else "proxy"].memory_mb
    assert live["HostConfig"]["Memory"] == wanted << 20
    found = group(live["State"]["Pid"])
    memory = found.folders.get("memory") or found.folders["unified"]
    limit = next(path for name in ("memory.max", "memory.limit_in_bytes") if (path := memory / name).exists())
    assert int(limit.read_text()) == wanted << 20
    assert 0 < found.figures()["memory_bytes"] < wanted << 20
    goes_first = Path(f"/proc/{live['State']['Pid']}/oom_score_adj").read_text().strip()
    assert goes_first == ("500" if "ide" in live["Name"] else "0")


def test_processes_have_no_power_left(live: dict[str, Any], running) -> None:
    """SYS-3: uid, capabilities, no_new_privs and seccomp of every process inside."""
    role = "workspace" if "ide" in live["Name"] else "proxy"
    pid = live["State"]["Pid"]
    pids = [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()] + [pid]
    assert len(pids) >= 2
    for one in pids:
        fields = dict(line.split(":\t", 1) for line in Path(f"/proc/{one}/status").read_text().splitlines())
        assert set(fields["Uid"].split()) == {str(running.uid(role))}
        assert int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == 0
        assert int(fields["CapBnd"], 16) in (0, 1 << 10)
        assert fields["NoNewPrivs"].strip() == "1"
        assert fields["Seccomp"].strip() == "2"


def test_no_socket_and_nothing_of_the_host_is_mounted(live: dict[str, Any], running) -> None:
    """SYS-4, DECIDED 8: no engine or broker socket; folders, never sockets; nothing outside Croft's own places."""
    own = [running.paths.run, running.paths.state, running.paths.programs / "docker"]
    assert live["Mounts"]
    for mount in live["Mounts"]:
        source = Path(mount["Source"])
        assert any(source.is_relative_to(folder) for folder in own), source
        relative = next(source.relative_to(folder) for folder in own if source.is_relative_to(folder))
        assert not any(word in str(relative) for word in DANGEROUS), source
        assert not source.is_socket()
        assert source.is_dir() or source.name in ("passwd", "group")
        assert mount["Propagation"] in ("rprivate", "private", "")


def test_logs_are_bounded(live: dict[str, Any]) -> None:
    """SYS-7."""
    assert live["HostConfig"]["LogConfig"] == {"Type": "json-file", "Config": {"max-file": "2", "max-size": "10m"}}


def test_only_the_proxy_publishes_ports(running, engine: docker.DockerClient) -> None:
    """NET-1."""
    assert not engine.containers.get("croft-ide").attrs["HostConfig"]["PortBindings"]
    bound = engine.containers.get("croft-proxy").attrs["NetworkSettings"]["Ports"]
    published = {row["HostPort"] for rows in bound.values() for row in rows or []}
    assert published == {str(running.http_port), str(running.https_port)}


def test_images_run_by_the_id_on_record(running, engine: docker.DockerClient, images: dict[str, str]) -> None:
    assert {name: engine.containers.get(f"croft-{name}").image.id for name in SERVICES} == images


def test_the_root_cannot_be_written_but_home_workspace_and_tmp_can(running, engine: docker.DockerClient) -> None:
    ide = engine.containers.get("croft-ide")
    home, workspace = running.paths.ide_home, running.paths.workspace
    for place in (home, workspace, "/tmp"):
        assert ide.exec_run(["touch", f"{place}/written"]).exit_code == 0
    for place in ("/", "/etc", "/usr/bin", "/var"):
        assert ide.exec_run(["touch", f"{place}/written"], user="0").exit_code != 0
    assert (workspace / "written").stat().st_uid == running.uid("workspace")
    names = ide.exec_run(["sh", "-c", "id -un; echo $HOME"]).output.decode().split()
    assert names == [running.accounts["workspace"], str(home)]


def test_the_socket_of_the_ide_is_for_the_proxys_group_alone(running) -> None:
    """DECIDED 8: ide.sock is the workspace's, and its group may speak to it."""
    import grp

    path = running.paths.socket("ide")
    running.poll(path.exists, what="code-server's socket")
    found = path.stat()
    assert (found.st_uid, found.st_gid) == (
        running.uid("workspace"),
        grp.getgrnam(f"{running.accounts['daemon']}-web").gr_gid,
    )
    assert found.st_mode & 0o777 == 0o660


PROBE = (
    "import socket, sys\nhost, port = sys.argv[1], int(sys.argv[2])\n"
    "s = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET)\ns.settimeout(1)\n"
    "try:\n s.connect((host, port)); print('open')\n"
    "except ConnectionRefusedError: print('refused')\nexcept OSError as e: print('closed')\n"
)


def reach(engine: docker.DockerClient, container: str, host: str, port: int) -> str:
    return engine.containers.get(container).exec_run(["python3", "-c", PROBE, host, str(port)]).output.decode().strip()


@pytest.fixture(scope="module")
def listener() -> Iterator[int]:
    """A service of this machine that listens on every address, as sshd does."""
    with socket.create_server(("0.0.0.0", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    server.accept()[0].close()
                except OSError:
                    return

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def own_addresses() -> list[str]:
    text = subprocess.run(["ip", "-4", "-o", "addr"], capture_output=True, text=True, check=True).stdout
    return sorted(set(re.findall(r"inet ([0-9.]+)", text)) - {"127.0.0.1"})


@pytest.mark.parametrize("container", ["croft-ide", "croft-proxy"])
def test_containers_do_not_reach_this_machine(running, engine, listener: int, container: str) -> None:
    """NET-2: neither through the bridge's gateway nor through any other address of the host."""
    gateways = [
        network["Gateway"] for network in engine.containers.get(container).attrs["NetworkSettings"]["Networks"].values()
    ]
    assert gateways
    for address in {*gateways, *own_addresses()}:
        assert reach(engine, container, address, listener) == "closed", address
        with socket.create_connection((address, listener), 3):
            pass  # it does listen there


def test_the_ide_does_not_reach_other_containers_or_metadata(running, engine, stranger) -> None:
    """NET-2: published ports and bridges of others, and 169.254.0.0/16."""
    stranger.exec_run(["python3", "-m", "http.server", "8000"], detach=True)
    stranger.reload()
    others = [(stranger.attrs["NetworkSettings"]["IPAddress"], 8000)]
    for name in ("croft-proxy",):
        for network in engine.containers.get(name).attrs["NetworkSettings"]["Networks"].values():
            others.append((network["IPAddress"], running.https_port))
    for address, port in [*others, ("169.254.169.254", 80), ("169.254.1.1", 53), ("100.100.100.200", 80)]:
        assert reach(engine, "croft-ide", address, port) == "closed", address


def test_the_proxy_still_serves_the_world_and_the_ide_gets_out(running, engine) -> None:
    """NET-1, DECIDED 24: the fence lets in what is published, and the IDE out, to a network beside this machine."""
    with socket.create_connection(("127.0.0.1", running.https_port), 5):
        pass
    name = f"cr{os.getpid() % 100000}"
    run = lambda *words: subprocess.run(words, check=True, capture_output=True)  # noqa: E731
    run("ip", "netns", "add", name)
    try:
        run("ip", "link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b", "netns", name)
        run("ip", "addr", "add", "203.0.113.1/30", "dev", f"{name}a")
        run("ip", "link", "set", f"{name}a", "up")
        run("ip", "netns", "exec", name, "ip", "addr", "add", "203.0.113.2/30", "dev", f"{name}b")
        run("ip", "netns", "exec", name, "ip", "link", "set", f"{name}b", "up")
        assert reach(engine, "croft-ide", "203.0.113.2", 9) == "refused", "the packet went there and came back"
    finally:
        run("ip", "netns", "del", name)


def test_the_fence_survives_what_others_do_to_the_firewall(running, engine, listener: int) -> None:
    """NET-7: the table is our own; flushing Docker's or ufw's chains, or making it twice, changes nothing."""
    from appliance.broker import egress

    egress.install()
    gateway = next(iter(engine.containers.get("croft-ide").attrs["NetworkSettings"]["Networks"].values()))["Gateway"]
    subprocess.run(["iptables", "-I", "INPUT", "-j", "ACCEPT"], check=True)
    try:
        assert reach(engine, "croft-ide", gateway, listener) == "closed"
    finally:
        subprocess.run(["iptables", "-D", "INPUT", "-j", "ACCEPT"], check=True)
