"""Signing in to an appliance from another machine: by the browser there, by a short code, or with a token from standard input.

Rules: what listens does so on 127.0.0.1 alone, for one answer that carries our own state (RFC 8252 8.9), and the code that comes is
worth nothing without the verifier, which never leaves this process (RFC 7636). No certificate is taken on faith.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import secrets
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from appliance.errors import CroftError, Invalid
from appliance.settings import Settings
from appliance.verbs.base import Verbs, visible, when

if TYPE_CHECKING:
    from appliance.control import Control
    from appliance.hosts import Host
    from appliance.remote import Remote

SCOPES = ("read", "services", "commands")
BROWSER_SECONDS = 300.0


def register(verbs: Verbs) -> None:
    """Add the verbs of this page to the command."""
    enter = verbs.add("sign-in", sign_in, show_sign_in, "sign in to an appliance from this machine")
    enter.add_argument("url", metavar="https://HOST")
    way = enter.add_mutually_exclusive_group()
    way.add_argument("--no-browser", action="store_true", help="show a code to type into a browser elsewhere")
    way.add_argument("--with-token", action="store_true", help="read a token from standard input")
    trusted = enter.add_mutually_exclusive_group()
    trusted.add_argument("--ca", metavar="FILE", help="certificate (PEM) of the appliance's own authority")
    trusted.add_argument("--fingerprint", metavar="SHA256", help="what `croft certificate` prints on the machine")
    enter.add_argument(
        "--scope", action="append", help="what to ask for; may be given several times (read services commands)"
    )
    enter.add_argument("--days", type=int, default=30, help="how long to stay signed in, at most 365 (30)")
    enter.add_argument("--name", default="", help="what to call this machine")
    leave = verbs.add("sign-out", sign_out, show_sign_out, "forget an appliance and revoke the token kept for it")
    own = verbs.add("certificate", certificate, show_certificate, "fingerprint of this appliance's own authority")
    for verb in (enter, own):
        verb.set_defaults(here=True)
    leave.set_defaults(here=True, names_host=True)


def sign_in(args: argparse.Namespace, settings: Settings, control: Control) -> Any:
    from appliance import hosts
    from appliance.remote import Remote, trust

    origin = hosts.origin_of(args.url)
    hosts.all_hosts()  # a file that cannot be used is said before anybody is asked for anything
    ca = _authority(origin, args)
    context = trust(ca)
    nobody = Remote(origin, "", context)
    text = _token_from_input() if args.with_token else _ask(origin, nobody, args)
    me = Remote(origin, text, context).call("GET", "/api/me")
    token, user = me["token"], me["user"]
    kept = hosts.Host(origin, text, token["id"], user["email"], token["expires_at"], ca)
    former = hosts.all_hosts().get(origin)
    hosts.keep(kept)
    if former is not None and former.token != text:
        _leave(former)
    return {
        "url": origin,
        "email": user["email"],
        "role": me["role"],
        "scopes": token["scopes"],
        "expires_at": token["expires_at"],
        "file": str(hosts.path()),
    }


def _leave(former: Host) -> None:
    """Revoke the token that was replaced, as far as that can be done."""
    from appliance.remote import Remote

    try:
        Remote.to(former).call("DELETE", "/api/tokens/current")
    except CroftError:
        return  # expired or revoked already; if not, the tokens page still shows it


def _ask(origin: str, nobody: Remote, args: argparse.Namespace) -> str:
    verifier = secrets.token_urlsafe(48)
    digest = hashlib.sha256(verifier.encode("ascii")).digest()
    question: dict[str, Any] = {
        "name": args.name or _own_name(),
        "scopes": args.scope or list(SCOPES),
        "challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
        "days": args.days,
    }
    remotely = "SSH_CONNECTION" in os.environ and not _has_display()
    ask = _by_code if args.no_browser or remotely else _by_browser
    return ask(origin, nobody, question, verifier)


def _by_browser(origin: str, nobody: Remote, question: dict[str, Any], verifier: str) -> str:
    from appliance.verbs.loopback import Listener

    state = secrets.token_urlsafe(24)
    with Listener(state, f"{origin}/connect/done") as listener:
        asked = question | {"port": listener.port, "state": state, "scopes": " ".join(question["scopes"])}
        address = f"{origin}/connect?{urlencode(asked)}"
        _tell(f"Open this address in your browser and allow it:\n\n  {address}\n")
        if _has_display():
            _open_browser(address)
        code = listener.wait(BROWSER_SECONDS)
    return str(nobody.call("POST", "/api/connect/token", {"code": code, "verifier": verifier})["text"])


def _open_browser(address: str) -> None:
    # A browser that starts now may stay for days: it gets none of our streams, else who reads them would wait for its end.
    nowhere = subprocess.DEVNULL
    argv = [sys.executable, "-I", "-m", "webbrowser", address]
    subprocess.run(argv, stdin=nowhere, stdout=nowhere, stderr=nowhere, check=False)


def _by_code(origin: str, nobody: Remote, question: dict[str, Any], verifier: str) -> str:
    asked = nobody.call("POST", "/api/connect", question)
    _tell(
        f"Open {visible(asked['url'])} in a browser where you are signed in, and type:\n\n  {visible(asked['typed'])}\n"
    )
    deadline = time.monotonic() + float(asked["seconds"])
    while time.monotonic() < deadline:
        time.sleep(float(asked["interval"]))
        answer = nobody.call("POST", "/api/connect/token", {"code": asked["code"], "verifier": verifier})
        if answer["state"] == "done":
            return str(answer["text"])
    raise Invalid("nobody typed the code in time", hint="Run `croft sign-in` again.", code="grant_refused")


def _token_from_input() -> str:
    from appliance import token_text

    text = sys.stdin.readline(200).strip()
    if not token_text.well_formed(text):
        raise Invalid(
            "that is not a token: a character is wrong, or some are missing",
            hint="Copy it again; it starts with croft_api_.",
            code="token_typo",
        )
    return text


def _authority(origin: str, args: argparse.Namespace) -> str:
    """What to trust: '' for public authorities, else the certificate that was given or compared."""
    from appliance.remote import Remote, Untrusted, authority, fingerprint, trust

    if args.ca:
        try:
            text = Path(args.ca).read_text("ascii", "replace")
        except OSError as error:
            raise Invalid(
                f"cannot read the certificate: {error.strerror}", hint="Check the path after --ca."
            ) from error
        fingerprint(text)  # an empty file would mean every public authority
        return text
    if not args.fingerprint:
        try:
            Remote(origin, "", trust("")).call("GET", "/healthz")
            return ""
        except Untrusted:
            pass
    pem = authority(origin)
    seen = fingerprint(pem)
    if not (_same(seen, args.fingerprint) if args.fingerprint else _compared(origin, seen)):
        raise Untrusted(
            "the fingerprint is not the one of your appliance",
            hint="Somebody may be between you and it. `croft certificate` on the machine prints the right one.",
        )
    return pem


def _compared(origin: str, seen: str) -> bool:
    if not sys.stdin.isatty():
        raise Invalid(
            f"{origin} has an authority of its own, and nobody is here to compare its fingerprint",
            hint="Give --fingerprint with what `croft certificate` prints on the machine, or its file with --ca.",
            code="untrusted",
        )
    _tell(f"{origin} has an authority of its own. Its fingerprint (SHA-256) is\n\n  {seen}\n")
    _tell("Compare it with what `croft certificate` prints on the machine itself. Is it the same? Type yes to go on:")
    return sys.stdin.readline(20).strip().lower() == "yes"


def _same(seen: str, given: str) -> bool:
    plain = [text.upper().replace(":", "").replace(" ", "") for text in (seen, given)]
    return secrets.compare_digest(plain[0].encode(), plain[1].encode("utf-8", "replace"))


def sign_out(args: argparse.Namespace, settings: Settings, control: Control) -> Any:
    from appliance import hosts
    from appliance.remote import Remote

    host = hosts.find(args.host or os.environ.get("CROFT_HOST", ""))
    revoked = True
    try:
        Remote.to(host).call("DELETE", "/api/tokens/current")
    except CroftError as error:
        revoked = error.code == "token_refused"  # it did not work any more
    hosts.forget(host.origin)
    return {"url": host.origin, "revoked": revoked}


def certificate(args: argparse.Namespace, settings: Settings, control: Control) -> Any:
    from appliance.remote import fingerprint

    file = settings.paths.proxy_root
    try:
        return {"fingerprint": fingerprint(file.read_text("ascii", "replace")), "file": str(file)}
    except OSError as error:
        raise Invalid(
            "this appliance has no authority of its own",
            hint="Its certificate is a public one, or it has not started yet.",
            code="no_authority",
        ) from error


def show_sign_in(result: dict[str, Any]) -> None:
    print(f"Signed in to {result['url']} as {result['email']} ({result['role']}) until {when(result['expires_at'])}.")
    print(f"May: {', '.join(result['scopes'])}. Kept in {result['file']}.")


def show_sign_out(result: dict[str, Any]) -> None:
    print(f"Signed out of {result['url']}.")
    if not result["revoked"]:
        print("The token could not be revoked from here: revoke it on the tokens page.")


def show_certificate(result: dict[str, Any]) -> None:
    print(f"{result['fingerprint']}\n{result['file']}")


def _own_name() -> str:
    host = "".join(char for char in socket.gethostname() if char.isprintable())[:40]
    return f"croft on {host or 'a laptop'}"


def _has_display() -> bool:
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
