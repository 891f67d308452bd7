"""Steps, journal and settings on a made-up root, with the distribution's real tools where there are any."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tomllib
from pathlib import Path

import pytest
from support.machines import small

from appliance import settings
from appliance.broker import layout
from appliance.broker.accounts import Account, Accounts
from appliance.host.install import config, docker, options, packages, python_env
from appliance.host.install.accounts import USERS, WEB, EnsureAccounts
from appliance.host.install.host import Console, Host, InstallError
from appliance.host.install.journal import FILE, Journal, lock
from appliance.host.install.step import apply_all, undo_all

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def host(tmp_path: Path, lines: list[str]) -> Host:
    for name in ("etc/passwd", "etc/group", "etc/shadow", "etc/gshadow"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/bash\nann:x:1000:1000::/home/ann:/bin/bash\n")
    (tmp_path / "etc/group").write_text("root:x:0:\nann:x:1000:\n")
    return Host(tmp_path, Console(lines.append))


class TestAccounts:
    def test_made_once_and_taken_back(self, host: Host) -> None:
        journal = Journal(host)
        step = EnsureAccounts(host, journal)
        before = host.read("/etc/passwd"), host.read("/etc/group")
        assert not step.check()
        step.apply()
        assert step.check()
        ids = step.ids()
        assert all(0 < ids[f"{user.name}:uid"] < 1000 for user in USERS)
        assert f"{WEB}:x:" in host.read("/etc/group")
        step.apply()
        assert step.ids() == ids
        step.undo()
        assert (host.read("/etc/passwd"), host.read("/etc/group")) == before

    def test_nobody_signs_in_as_them(self, host: Host) -> None:
        EnsureAccounts(host, Journal(host)).apply()
        rows = [line.split(":") for line in host.read("/etc/shadow").splitlines()]
        assert {(row[1][:1], row[7]) for row in rows} == {("!", "1")}  # locked, and expired on 2 January 1970

    def test_a_name_that_is_somebody_elses_is_refused(self, host: Host) -> None:
        host.path("/etc/passwd").write_text("workspace:x:1001:1001::/home/workspace:/bin/bash\n")
        with pytest.raises(InstallError, match="cannot create the account workspace: it exists"):
            EnsureAccounts(host, Journal(host)).apply()
        assert "croft" not in host.read("/etc/passwd")

    def test_an_older_installation_gets_the_account_that_is_new(self, host: Host) -> None:
        """And one of that name which somebody else made since is refused all the same."""
        journal = Journal(host)
        EnsureAccounts(host, journal).apply()
        journal.put("accounts", names=["croft", "workspace", "croft-proxy"])
        for name in ("passwd", "shadow", "group", "gshadow"):
            text = host.read(f"/etc/{name}")
            host.path(f"/etc/{name}").write_text("".join(x for x in text.splitlines(True) if x[:8] != "croft-ai"))
        before = host.read("/etc/passwd")
        host.path("/etc/passwd").write_text(before + "croft-ai:x:1001:1001::/home/x:/bin/bash\n")
        with pytest.raises(InstallError, match="cannot create the account croft-ai: it exists"):
            EnsureAccounts(host, journal).apply()
        host.path("/etc/passwd").write_text(before)
        EnsureAccounts(host, journal).apply()
        assert EnsureAccounts(host, journal).check()
        assert "croft-ai:" in host.read("/etc/passwd")

    def test_data_kept_from_before_gets_its_old_ids(self, host: Host) -> None:
        journal = Journal(host)
        journal.put("kept", ids={"workspace:uid": 345, "workspace:gid": 346})
        step = EnsureAccounts(host, journal)
        step.apply()
        assert (step.ids()["workspace:uid"], step.ids()["workspace:gid"]) == (345, 346)


class TestSettingsFile:
    @pytest.mark.parametrize(
        "text",
        [
            "",
            'host = "x"\n',
            "[proxy]\n# mine\nhttp_port = 1 # old\n\n[ide]\nidle_minutes = 5\n",
            "[ide]\nidle_minutes = 5",
        ],
    )
    def test_one_value_changes_and_the_rest_stays(self, text: str) -> None:
        once = config.with_value(config.with_value(text, "proxy.http_port", 8080), "host", "a.example.org")
        expected = tomllib.loads(text)
        expected["host"] = "a.example.org"
        expected["proxy"] = {**expected.get("proxy", {}), "http_port": 8080}
        assert tomllib.loads(once) == expected
        assert config.with_value(once, "proxy.http_port", 8080) == once
        assert set(text.splitlines()) - set(once.splitlines()) <= {'host = "x"', "http_port = 1 # old"}

    def test_what_the_installer_writes_is_accepted(self) -> None:
        target = options.target(
            options.parse(["--domain", "a.example.org", "--email", "o@example.org"]), small(), {}, compose_offered=True
        )
        text = ""
        for name, value in target.settings.items():
            text = config.with_value(text, name, value)
        assert settings.parse(tomllib.loads(text), settings.Paths.system()).host == "a.example.org"


class TestPurge:
    def purge(self, host: Host) -> None:
        journal = Journal(host)
        config.EnsureFolders(host, journal, EnsureAccounts(host, journal), purge=True).undo()

    def test_no_depth_of_folders_holds_it_up(self, host: Host) -> None:
        """SYS-9, SEC-6: anybody in the workspace could make their data stay."""
        folder = host.path("/var/lib/croft/workspace")
        folder.mkdir(parents=True)
        fd = os.open(folder, os.O_RDONLY)
        for _ in range(1500):
            os.mkdir("d", dir_fd=fd)
            above, fd = fd, os.open("d", os.O_RDONLY, dir_fd=fd)
            os.close(above)
        os.close(fd)
        self.purge(host)
        assert not host.path("/var/lib/croft").exists()

    @pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root, as CI has it")
    @pytest.mark.parametrize("name", ["projects", "my projects"])
    def test_what_is_mounted_there_is_not_removed(self, host: Host, tmp_path: Path, name: str) -> None:
        """SYS-9: a folder of the owner's that is shown in the workspace is not Croft's data."""
        theirs, place = tmp_path / "theirs", host.path(f"/var/lib/croft/workspace/{name}")
        for folder in (theirs, place):
            folder.mkdir(parents=True)
        (theirs / "work").touch()
        subprocess.run(["mount", "--bind", theirs, place], check=True)
        try:
            with pytest.raises(InstallError, match=f"mounted at .*{name}"):
                self.purge(host)
        finally:
            subprocess.run(["umount", place], check=True)
        assert (theirs / "work").exists()
        self.purge(host)
        assert not host.path("/var/lib/croft").exists()


class TestJournal:
    def test_facts_survive_and_are_private(self, host: Host) -> None:
        """SEC-1"""
        Journal(host).put("step", fact=1)
        assert Journal(host).get("step", "fact") == 1
        assert host.path(FILE).stat().st_mode & 0o777 == 0o600

    def test_a_damaged_or_newer_journal_is_refused(self, host: Host) -> None:
        Journal(host).put("step", fact=1)
        for text in ("{", '{"version": 2, "steps": {}}'):
            host.path(FILE).write_text(text)
            with pytest.raises(InstallError):
                Journal(host)

    def test_two_runs_at_once_are_refused(self, host: Host) -> None:
        held = lock(host)
        with pytest.raises(InstallError, match="another installation is running"):
            lock(host)
        os.close(held)

    def test_steps_run_once_and_come_back_in_reverse(self, host: Host, lines: list[str]) -> None:
        journal, seen = Journal(host), list[str]()

        class Step:
            def __init__(self, name: str) -> None:
                self.id = self.title = name

            def check(self) -> bool:
                return journal.touched(self.id)

            def plan(self) -> list[str]:
                return []

            def apply(self) -> None:
                journal.put(self.id, done=True)

            def undo(self) -> None:
                seen.append(self.id)

        steps = [Step("a"), Step("b")]
        assert apply_all(steps, host.console) == 2
        assert apply_all(steps, host.console) == 0
        undo_all(steps, journal, host.console)
        assert seen == ["b", "a"]
        assert journal.empty


class TestDocker:
    @pytest.mark.parametrize(
        "present",
        [
            {},
            {"bip": "10.1.0.1/24"},
            {"live-restore": False},
            {"log-driver": "journald", "data-root": "/d"},
            {"log-opts": {"max-size": "1m"}},
        ],
    )
    def test_existing_values_win_and_come_back(
        self, host: Host, present: dict[str, object], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """SYS-8"""
        text = json.dumps(present) if present else ""
        if text:
            host.write(docker.DAEMON_JSON, text)
        step = docker.EnsureEngine(host, Journal(host), was_here=False)
        monkeypatch.setattr(Host, "run", lambda *_, **__: subprocess.CompletedProcess((), 0, "", ""))
        step.apply()
        merged = json.loads(host.read(docker.DAEMON_JSON))
        assert merged.items() >= present.items()
        assert "live-restore" in merged
        step.undo()
        assert host.read(docker.DAEMON_JSON) == text

    def test_an_engine_that_was_here_is_at_most_started(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        ran: list[tuple[str, ...]] = []
        monkeypatch.setattr(Host, "run", lambda _, *argv, **__: ran.append(argv))
        step = docker.EnsureEngine(host, Journal(host), was_here=True)
        assert not step.check()
        step.apply()
        assert ran == [("systemctl", "start", "docker.service")]
        assert not host.path(docker.DAEMON_JSON).exists()

    @pytest.mark.parametrize(
        ("version", "offered", "works"), [("2.26.1", False, True), ("2.20.3", True, False), ("", False, False)]
    )
    def test_compose_is_here_and_new_enough_or_offered(
        self, host: Host, version: str, offered: bool, works: bool
    ) -> None:
        if version:
            plugin = host.path("/usr/libexec/docker/cli-plugins/docker-compose")
            plugin.parent.mkdir(parents=True)
            plugin.write_text(f"#!/bin/sh\necho {version}\n")
            plugin.chmod(0o755)
        with contextlib.nullcontext() if works else pytest.raises(InstallError, match=version or "cannot find"):
            docker.require_compose(host, offered=offered)


class TestPackages:
    def test_names(self) -> None:
        assert "caddy" in packages.names_for("process", "debian", "python3", engine=False, compose=False)
        assert "libgomp1" in packages.names_for(
            "process", "debian", "python3", engine=False, compose=False, models=True
        )
        assert "docker-compose-v2" in packages.names_for("docker", "ubuntu", "python3", engine=False, compose=False)
        beside = packages.names_for("docker", "debian", "python3", engine=True, compose=False)
        assert not {"docker.io", "docker-cli", "caddy"} & set(beside)
        assert {"docker-compose", "nftables"} <= set(beside)
        assert "docker-compose" not in packages.names_for("docker", "debian", "python3", engine=False, compose=True)
        assert "python3.11-venv" in packages.names_for("process", "ubuntu", "python3.11", engine=False, compose=False)


class TestSource:
    def test_socket_folders_at_boot_are_the_brokers(self) -> None:
        """One table in the broker, one file for systemd-tmpfiles: they must say the same."""

        def account(name: str, uid: int) -> Account:
            return Account(name, uid, uid, ())

        names = {0: "root", 11: "croft", 12: "workspace", 13: "croft-proxy", 14: "croft-web", 15: "croft-ai"}
        made = [account(name, uid) for uid, name in names.items() if uid not in (0, 14)]
        ids = Accounts(made[0], made[1], made[2], made[3], 14, True)
        rows = layout.table(settings.parse({}, settings.Paths.system()), ids)
        wanted = {
            (str(row.path), f"{row.mode:04o}", names[row.uid], names[row.gid])
            for row in rows
            if row.path.is_relative_to("/run")
        }
        text = (ROOT / "systemd/tmpfiles.d/croft.conf").read_text()
        lines = [line.split() for line in text.splitlines() if line[:1] == "d"]
        assert {(path, mode, user, group) for _, path, mode, user, group in lines} == wanted

    def test_locks_cover_every_requirement_and_name_no_registry(self) -> None:
        """SUP-1"""
        wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
        locked = {line.split("==")[0] for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line}
        assert {word.split(">")[0].split("[")[0] for word in wanted} <= locked
        for name in (
            "requirements.txt",
            "requirements-build.txt",
            "requirements-ide.txt",
            "requirements-engine.txt",
            "requirements-test.txt",
        ):
            text = (ROOT / name).read_text()
            assert "://" not in text
            assert all(" \\" in line or "==" not in line for line in text.splitlines())
        lock_file = json.loads((ROOT / "appliance/host/ide/package-lock.json").read_text())
        bare = [name for name, entry in lock_file["packages"].items() if name and "integrity" not in entry]
        assert not bare
        assert not [entry for entry in lock_file["packages"].values() if "resolved" in entry]

    def test_an_altered_wheel_stops_the_installation(self, tmp_path: Path, host: Host) -> None:
        """SUP-1"""
        import zipfile

        wheel = tmp_path / "idna-3.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("idna.py", "")
            archive.writestr("idna-3.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: idna\nVersion: 3.0\n")
            archive.writestr(
                "idna-3.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            archive.writestr("idna-3.0.dist-info/RECORD", "")
        source = tmp_path / "source"
        (source / "wheels").mkdir(parents=True)
        wheel.rename(source / "wheels" / wheel.name)
        (source / "requirements.txt").write_text(f"idna==3.0 --hash=sha256:{'0' * 64}\n")
        step = python_env.EnsurePython(host, Journal(host), source, "/usr/bin/python3")
        with pytest.raises(InstallError, match=r"DO NOT MATCH|hash"):
            step.apply()
        assert not step.check()

    @pytest.mark.parametrize(
        ("unit", "drop_in", "threshold"),
        [
            ("croft.service", "", 15),
            ("croft-broker.service", "", 50),
            ("croft-broker.service", "croft-broker.docker.conf", 42),
        ],
    )
    def test_exposure(self, unit: str, drop_in: str, threshold: int, tmp_path: Path) -> None:
        """SYS-1; docs/decisions/0005 says why the broker's figures are what they are."""
        text = (ROOT / "systemd" / unit).read_text().replace("[Install]", "", 1)
        extra = (ROOT / "systemd" / drop_in).read_text() if drop_in else ""
        (tmp_path / unit).write_text(text.replace("WantedBy=multi-user.target", "") + extra)
        done = subprocess.run(
            (
                "systemd-analyze",
                "security",
                "--offline=true",
                f"--threshold={threshold}",
                "--no-pager",
                str(tmp_path / unit),
            ),
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-200:]

    def test_every_step_is_in_the_manual(self) -> None:
        text = (ROOT / "docs/changes-to-your-machine.md").read_text()
        for path in (
            *docker_paths(),
            config.FILE,
            config.POLICY,
            python_env.VENVS,
            python_env.COMMAND,
            "croft-web",
            "swapfile",
            "/etc/fstab",
            "ufw",
            "/etc/tmpfiles.d/croft.conf",
            "/var/lib/croft-install",
        ):
            assert path in text, path


def docker_paths() -> tuple[str, ...]:
    return docker.DAEMON_JSON, docker.COMPOSE
