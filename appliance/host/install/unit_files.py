"""Unit files of the process runtime's services, written from the broker's own catalogue.

Rule: the words of a service's command line exist once, in `appliance.broker.catalogue`; here they are only put into
systemd's syntax.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from appliance.broker import catalogue, kernel
from appliance.broker.accounts import Accounts
from appliance.broker.catalogue import Program
from appliance.settings import Settings

_PYTHON = "/opt/croft/venv/bin/python"
_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./-]+\Z")
_DEFAULTS = (
    "import os; from appliance.broker.ide_settings import prepare; prepare(os.open('.', os.O_PATH | os.O_DIRECTORY))"
)
_CAPABILITY_NAMES = {kernel.CAP_NET_BIND_SERVICE: "CAP_NET_BIND_SERVICE"}

# What holds for every service; the IDE is somebody's shell, so it keeps what compilers, debuggers and Node need.
# RestrictSUIDSGID is the proxy's alone: systemd can only do it by taking openat2(2) away.
_COMMON = """\
ProtectSystem=strict
PrivateDevices=yes
ProtectHome=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
PrivateMounts=yes
NoNewPrivileges=yes
KeyringMode=private
LockPersonality=yes
RestrictRealtime=yes
SystemCallArchitectures=native
SystemCallFilter=~@clock @cpu-emulation @module @mount @obsolete @raw-io @reboot @swap
SystemCallErrorNumber=EPERM
LimitCORE=0
Slice=croft.slice
"""
_IDE = """\
PrivateTmp=yes
ReadWritePaths=/run/croft/ide /var/lib/croft/workspace /var/lib/croft/home
InaccessiblePaths=-/var/lib/croft/croft.db -/var/lib/croft/keys -/var/lib/croft/caddy -/run/croft/broker -/run/croft/web
InaccessiblePaths=-/run/croft/control -/run/docker.sock -/etc/croft
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
"""
_PROXY = """\
PrivateTmp=yes
ReadWritePaths=/var/lib/croft/caddy
InaccessiblePaths=-/var/lib/croft/workspace -/var/lib/croft/home -/var/lib/croft/keys
InaccessiblePaths=-/run/croft/broker -/run/croft/control
MemoryDenyWriteExecute=yes
RestrictNamespaces=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
"""
_AI = """\
PrivateTmp=yes
PrivateNetwork=yes
ReadWritePaths=/run/croft/ai
InaccessiblePaths=-/var/lib/croft/workspace -/var/lib/croft/home -/var/lib/croft/croft.db -/var/lib/croft/keys
InaccessiblePaths=-/var/lib/croft/caddy -/run/croft/broker -/run/croft/web -/run/croft/control -/run/docker.sock -/etc/croft
RestrictNamespaces=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
"""


def render(settings: Settings, accounts: Accounts) -> dict[str, str]:
    """Unit name and text of each service of the process runtime."""
    ide = catalogue.program(settings, accounts, "ide")
    proxy = catalogue.program(settings, accounts, "proxy")
    prepare = f"ExecStartPre={_PYTHON} -I -c {_quote(_DEFAULTS)}\n"
    return {
        "croft-ide.service": _unit("Croft IDE", "ide", ide, prepare + _IDE, settings.paths.log),
        "croft-proxy.service": _unit("Croft web proxy", "proxy", proxy, _PROXY, settings.paths.log),
        "croft-ai.service": engine_unit(settings, accounts),
    }


def engine_unit(settings: Settings, accounts: Accounts) -> str:
    """The engine's: it is there whether or not the engine is installed."""
    program = catalogue.ai(settings, accounts)
    program = replace(program, argv=(_PYTHON, *program.argv[1:]))  # not whatever runs the installer
    return _unit("Croft engine", "ai", program, _AI, settings.paths.log)


def _unit(title: str, name: str, program: Program, body: str, logs: Path) -> str:
    capabilities = " ".join(_CAPABILITY_NAMES[number] for number in sorted(program.capabilities))
    environment = "".join(f"Environment={_quote(f'{key}={value}')}\n" for key, value in program.env.items())
    return f"""\
# Started and stopped by croft-broker.service alone; written by the installer from the broker's catalogue.
[Unit]
Description={title}
StartLimitIntervalSec=0

[Service]
Type=exec
User={program.account.name}
ExecStart={" ".join(map(_quote, program.argv))}
WorkingDirectory={program.folder}
{environment}StandardOutput=append:{logs}/{name}.log
StandardError=append:{logs}/{name}.log
Restart=no
TimeoutStopSec=10
OOMScoreAdjust={program.oom_score_adj}
OOMPolicy=continue
LimitNOFILE={program.nofile}
TasksMax={program.pids}
UMask={program.umask:04o}
CapabilityBoundingSet={capabilities}
AmbientCapabilities={capabilities}
{body}{_COMMON}"""


def _quote(word: str) -> str:
    """systemd.service(5), "Command lines": quotes, and no expansion of % and $."""
    escaped = word.replace("%", "%%").replace("$", "$$")
    if _PLAIN.match(word):
        return escaped
    return '"' + escaped.replace("\\", "\\\\").replace('"', '\\"') + '"'
