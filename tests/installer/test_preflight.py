"""What is looked at before anything is changed, and the runtime that is chosen by it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.machines import small

from appliance import settings
from appliance.broker.accounts import Account, Accounts
from appliance.host import machine as machine_module
from appliance.host import preflight
from appliance.host.install import behind, options, unit_files
from appliance.host.install.host import InstallError
from appliance.host.machine import Listener, Machine
from appliance.host.preflight import Level, Subject

ROOT = Path(__file__).resolve().parents[2]


def nobody(port: int) -> list[Listener]:
    return []


class TestPreflight:
    def findings(self, subject: Subject) -> dict[str, preflight.Finding]:
        return {check.id: finding for check, finding in preflight.run(subject)}

    def test_a_five_dollar_machine_passes_with_both_runtimes(self) -> None:
        for runtime in ("docker", "process"):
            assert not preflight.refused(preflight.run(Subject(small(), runtime, listeners=nobody)))

    @pytest.mark.parametrize(
        ("which", "changes"),
        [
            ("system", {"os_id": "fedora", "os_name": "Fedora 44"}),
            ("system", {"os_version": "11"}),
            ("python", {"python": (3, 10)}),
            ("processor", {"arch": "riscv64"}),
            ("memory", {"memory_mb": 500}),
            ("disk", {"disk_free_mb": 6500}),
        ],
    )
    def test_what_cannot_work_is_refused_with_the_way_out(self, which: str, changes: dict[str, object]) -> None:
        finding = self.findings(Subject(small(**changes), "process", listeners=nobody))[which]
        assert finding.level is Level.FAIL
        assert finding.suggestion

    def test_slow_ai_is_only_a_warning(self) -> None:
        slow = Subject(small(cpu_flags=frozenset()), "process", listeners=nobody)
        assert self.findings(slow)["processor"].level is Level.WARN

    def test_six_gigabytes_stay_free(self) -> None:
        needs = preflight.need("docker")
        enough = small(disk_free_mb=6144 + needs.disk_mb)
        short = small(disk_free_mb=6144 + needs.disk_mb - 1)
        assert self.findings(Subject(enough, "docker", listeners=nobody))["disk"].level is Level.PASS
        assert self.findings(Subject(short, "docker", listeners=nobody))["disk"].level is Level.FAIL

    def test_a_taken_port_names_who_and_how_to_live_with_it(self) -> None:
        nginx = [Listener(80, 42, "nginx", 33)]
        taken = Subject(small(), "process", listeners=lambda port: nginx if port == 80 else [])
        finding = self.findings(taken)["ports"]
        assert finding.level is Level.FAIL
        assert "nginx (process 42)" in finding.detail
        assert "--behind-proxy nginx" in finding.suggestion

    def test_our_own_proxy_is_no_obstacle(self) -> None:
        mine = Subject(
            small(),
            "process",
            listeners=lambda port: [Listener(port, 7, "caddy", 998)],
            installed=True,
            own_uids=frozenset({998}),
        )
        assert self.findings(mine)["ports"].level is Level.PASS

    def test_a_clock_in_the_past(self) -> None:
        assert self.findings(Subject(small(), "process", now=lambda: 0, listeners=nobody))["clock"].level is Level.FAIL

    def test_real_listeners_are_found(self) -> None:
        import socket

        with socket.create_server(("127.0.0.1", 0)) as server:
            found = machine_module.listeners(server.getsockname()[1])
        assert [(listener.pid, listener.uid) for listener in found] == [(os.getpid(), os.geteuid())]

    def test_this_machine_can_be_read(self) -> None:
        machine = machine_module.read()
        assert machine.memory_mb > 0
        assert machine.os_id


class TestRuntime:
    def target(
        self, machine: Machine, *argv: str, recorded: dict[str, object] | None = None, offered: bool = True
    ) -> options.Target:
        return options.target(options.parse(argv), machine, recorded or {}, compose_offered=offered)

    @pytest.mark.parametrize(
        ("machine", "offered", "runtime"),
        [
            (small(), True, "docker"),
            (small(), False, "process"),
            (small(memory_mb=1000), True, "process"),
            (small(systemd=False), True, "process"),
            (small(systemd=False, docker=True), True, "docker"),
            (small(container="lxc"), True, "process"),
        ],
    )
    def test_auto(self, machine: Machine, offered: bool, runtime: str) -> None:
        """DECIDED 21"""
        assert self.target(machine, offered=offered).runtime == runtime

    @pytest.mark.parametrize(
        ("memory_mb", "argv", "recorded", "engine"),
        [
            (1900, (), {}, True),
            (1000, (), {}, False),
            (1900, ("--no-engine",), {}, False),
            (1000, ("--engine",), {}, True),
            (8000, (), {"engine": False}, False),
            (8000, ("--engine",), {"engine": False}, True),
        ],
    )
    def test_the_engine_comes_along_where_there_is_room_and_nobody_said_no(
        self, memory_mb: int, argv: tuple[str, ...], recorded: dict[str, object], engine: bool
    ) -> None:
        asked = ("--runtime", "process", *argv)
        assert self.target(small(memory_mb=memory_mb), *asked, recorded=recorded).engine is engine
        assert not self.target(small(memory_mb=8000), "--runtime", "docker").engine
        with_it, without = preflight.need("process", engine=True), preflight.need("process")
        assert with_it.disk_mb > without.disk_mb

    def test_the_engines_unit_has_neither_network_nor_a_way_to_peoples_files(self) -> None:
        """NET-3, SYS-1: written from the broker's catalogue, with Croft's own Python."""
        ids = [
            Account(name, uid, uid, ())
            for uid, name in enumerate(("croft", "workspace", "croft-proxy", "croft-ai"), 11)
        ]
        found = settings.parse({"paths": {"ide": "/nonexistent"}}, settings.Paths.system())
        text = unit_files.engine_unit(found, Accounts(*ids, 15, True))
        assert "ExecStart=/opt/croft/venv/bin/python -I -m appliance.assistant.engine_child" in text
        assert "PrivateNetwork=yes" in text
        assert "User=croft-ai\n" in text
        assert "CapabilityBoundingSet=\n" in text
        assert "/var/lib/croft/models /run/croft/ai/ai.sock\n" in text

    def test_the_last_choice_holds(self) -> None:
        last = {"runtime": "process", "host": "a.example.org", "http_port": 81, "https_port": 444}
        again = self.target(small(), recorded=last)
        assert (again.runtime, again.host, again.http_port, again.https_port) == ("process", "a.example.org", 81, 444)
        with pytest.raises(InstallError, match="cannot change the runtime"):
            options.refuse_mixed(options.parse(["--runtime", "docker"]), {"runtime": "process"})

    @pytest.mark.parametrize(
        ("argv", "tls"),
        [
            ((), "internal"),
            (("--domain", "A.example.org."), "acme"),
            (("--domain", "box.lan"), "internal"),
            (("--domain", "a.example.org", "--behind-proxy", "nginx"), "off"),
        ],
    )
    def test_certificates_follow_from_the_name(
        self, argv: tuple[str, ...], tls: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(options, "default_host", lambda: "croft.localhost")
        assert self.target(small(), *argv).settings["proxy.tls"] == tls

    @pytest.mark.parametrize(
        "argv", [("--purge",), ("--https-port", "70000"), ("--images", "/nonexistent"), ("--what",)]
    )
    def test_misuse_is_2(self, argv: tuple[str, ...]) -> None:
        with pytest.raises(SystemExit) as ended:
            options.parse(argv)
        assert ended.value.code == 2

    @pytest.mark.parametrize("kind", options.FRONTS)
    def test_snippets_pass_websockets_and_addresses(self, kind: str) -> None:
        text = behind.snippet(kind, "a.example.org", 8088)
        assert "127.0.0.1:8088" in text
        assert "a.example.org" in text
