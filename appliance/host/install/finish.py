"""The end of an installation, in the person's own terminal: start, look through the front door, show the link.

Rule: the one-time link is printed here and nowhere else; it never reaches the log of the installation.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from types import FrameType

from appliance.host.install import behind
from appliance.host.install.host import PATH, Host, InstallError
from appliance.host.install.options import Options, Target
from appliance.host.install.python_env import CURRENT

READY_SECONDS = 120.0
CERTIFICATE_SECONDS = 30.0
_CROFT = f"{CURRENT}/bin/croft"


def with_systemd(host: Host, options: Options, target: Target) -> int:
    """The units run already: test, then the link."""
    if options.start:
        await_front_door(target)
        _show_front(host, options, target)
        _invite()
    else:
        host.console.say("Not started. Start it with: systemctl start croft-broker croft")
    return 0


def in_foreground(host: Host, options: Options, target: Target) -> int:
    """No systemd: serve from here until Ctrl-C, with the link printed once the front door answers."""
    if not options.start:
        host.console.say("Not started. Start it with: croft serve")
        return 0
    process = subprocess.Popen((_CROFT, "serve"), env={"PATH": PATH, "LANG": "C.UTF-8"})

    def pass_on(number: int, frame: FrameType | None) -> None:
        process.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, pass_on)
    try:
        await_front_door(target, process)
        _show_front(host, options, target)
        _invite()
        host.console.say("Croft runs in this terminal; Ctrl-C stops it. Start it again with: croft serve")
    except InstallError:
        process.terminate()
        process.wait(30)
        raise
    return process.wait()


def await_front_door(target: Target, process: subprocess.Popen[bytes] | None = None) -> None:
    """Ask through Caddy as a browser would, until it answers. Raises InstallError after two minutes."""
    tls = target.settings["proxy.tls"] != "off"
    port = target.https_port if tls else target.http_port
    deadline = time.monotonic() + READY_SECONDS
    while why := behind.answers(target.host, port, tls=tls):
        if process is not None and process.poll() is not None:
            raise InstallError(f"croft serve ended with code {process.returncode}", hint="Its last words stand above.")
        if time.monotonic() > deadline:
            raise InstallError(f"the self-test failed: {why}", hint="See `croft doctor` and `croft services list`.")
        time.sleep(0.5)


def _invite() -> None:
    """The owner's link with its QR code, by the command that people use later, too. Before there is an owner it makes one."""
    # Not captured: on a terminal the command adds the QR code.
    code = subprocess.run((_CROFT, "login-link"), check=False, env={"PATH": PATH, "LANG": "C.UTF-8"}).returncode
    if code != 0:
        raise InstallError(f"cannot make a sign-in link: `croft login-link` ended with {code}", hint="Try it by hand.")


def _show_front(host: Host, options: Options, target: Target) -> None:
    console, front = host.console, options.behind_proxy
    port = "" if target.https_port == 443 or front else f":{target.https_port}"
    console.say("")
    console.say(f"Croft answers at https://{target.host}{port} (the IDE at https://ide.{target.host}{port}).")
    if front:
        console.say(f"Put this into your {front}, then reload it:\n")
        console.say(behind.snippet(front, target.host, target.http_port) + "\n")
        why = behind.answers(target.host)
        console.say(f"Not through your {front} yet: {why}" if why else f"It works through your {front}.")
    elif target.settings["proxy.tls"] == "internal":
        console.say(
            "Its certificate comes from its own authority: your browser asks once. For a public one pass --domain."
        )
    elif why := _without_certificate(host, target):
        console.say(f"Its own authority stands in for the public one meanwhile: {why}")


def _without_certificate(host: Host, target: Target) -> str:
    """Why a public certificate is not here after half a minute at most; empty when it is."""
    names = (target.host, f"ide.{target.host}")
    deadline = time.monotonic() + CERTIFICATE_SECONDS
    while any(behind.is_own(name, target.https_port) for name in names):
        told = host.run(_CROFT, "status", "--json", check=False).stdout
        found = {row["code"]: row for row in json.loads(told or "{}").get("problems", [])}
        row = found.get("acme_failing") or found.get("acme_pending", {})
        if "acme_failing" in found or time.monotonic() > deadline:
            return f"{row.get('why', '')} {row.get('next', '')}".strip() or "`croft status` says more."
        time.sleep(0.5)
    return ""
