"""The appliances this person's ``croft`` signs in to: ``hosts.toml`` in their configuration folder (XDG base directories).

Rule: it holds tokens, so it is written 0600 in a folder of 0700, by rename, and is not read when others may read it too.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from urllib.parse import urlsplit

from appliance.errors import CroftError, Invalid, NotFound


@dataclass(frozen=True)
class Host:
    """One appliance. ``ca`` is the certificate (PEM) of its own authority; empty means that public ones are trusted."""

    origin: str
    token: str
    token_id: str
    email: str
    expires_at: float
    ca: str = ""


class HostsUnusable(CroftError):
    """hosts.toml cannot be read or written."""

    code = "hosts_file"


def path() -> Path:
    """Where the file lies."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    folder = Path(base) if Path(base).is_absolute() else Path.home() / ".config"
    return folder / "croft" / "hosts.toml"


def origin_of(text: str) -> str:
    """``https://HOST[:PORT]`` from what a person typed. Raises Invalid: nothing but HTTPS is spoken."""
    address = text.strip()
    try:
        parts = urlsplit(address if "://" in address else f"https://{address}")
        port = parts.port
    except ValueError as error:
        raise _no_origin() from error
    plain = (
        parts.scheme == "https"
        and parts.hostname
        and ":" not in parts.hostname  # an IPv6 address: an appliance has a name
        and not (parts.path.strip("/") or parts.query or parts.fragment or parts.username)
    )
    if not plain or not parts.hostname or any(not char.isprintable() or char.isspace() for char in parts.netloc):
        raise _no_origin()
    try:
        host = parts.hostname.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise _no_origin() from error
    return f"https://{host}" + (f":{port}" if port not in (None, 443) else "")


def _no_origin() -> Invalid:
    return Invalid("that is not the address of an appliance", hint="It looks like https://croft.example.org.")


def all_hosts() -> dict[str, Host]:
    """Every appliance by origin. Raises HostsUnusable."""
    text = _read(path())
    try:
        document = tomllib.loads(text)
        return {origin: _host(origin, entry) for origin, entry in document.items()}
    except (tomllib.TOMLDecodeError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise HostsUnusable(
            "cannot use hosts.toml: it is damaged", hint="Remove it, then run `croft sign-in https://HOST` again."
        ) from error


def find(name: str) -> Host:
    """The appliance called ``name`` (an address or a host name); with '' the only one. Raises NotFound, Invalid."""
    known = all_hosts()
    if not name:
        if len(known) == 1:
            return next(iter(known.values()))
        names = ", ".join(origin.removeprefix("https://") for origin in known)
        raise NotFound(
            "it is not clear which appliance is meant" if known else "you are not signed in to any appliance",
            hint=f"Say --host with one of {names}." if known else "Run `croft sign-in https://HOST`.",
        )
    origin = origin_of(name)
    if origin not in known:
        raise NotFound(f"you are not signed in to {origin}", hint=f"Run `croft sign-in {origin}`.")
    return known[origin]


def keep(host: Host) -> None:
    """Add an appliance, or replace what was known of it. Raises HostsUnusable."""
    _write({**all_hosts(), host.origin: host})


def forget(origin: str) -> None:
    """Remove an appliance. Raises HostsUnusable."""
    _write({each: host for each, host in all_hosts().items() if each != origin})


def _host(origin: str, entry: Mapping[str, object]) -> Host:
    text = {each.name: entry.get(each.name, "") for each in fields(Host) if each.name not in ("origin", "expires_at")}
    at = entry["expires_at"]
    if origin_of(origin) != origin or not all(isinstance(value, str) for value in text.values()):
        raise ValueError("an entry is not as we write it")
    if not isinstance(at, (int, float)):
        raise TypeError("a time is not a number")
    return Host(origin=origin, expires_at=float(at), **{name: str(value) for name, value in text.items()})


def _read(file: Path) -> str:
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise HostsUnusable(
            f"cannot read hosts.toml: {error.strerror}", hint="It must be your own, plain file."
        ) from error
    with os.fdopen(fd, encoding="utf-8", errors="replace") as opened:
        found = os.fstat(fd)
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise HostsUnusable(
                "cannot use hosts.toml: others can read the tokens in it",
                hint="Run `chmod 600` on it, and revoke its tokens if somebody may have read them.",
            )
        return opened.read()


def _write(hosts: Mapping[str, Host]) -> None:
    file = path()
    scratch = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "w", encoding="utf-8") as opened:
                opened.write("\n".join(_entry(host) for host in hosts.values()))
                opened.flush()
                os.fsync(opened.fileno())
            scratch.rename(file)
        except BaseException:
            scratch.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise HostsUnusable(
            f"cannot write hosts.toml: {error.strerror}", hint="Check your configuration folder."
        ) from error


def _entry(host: Host) -> str:
    rows = [f"{name} = {_value(value)}" for name, value in asdict(host).items() if name != "origin"]
    return "\n".join([f"[{_value(host.origin)}]", *rows]) + "\n"


def _value(value: str | float) -> str:
    # A JSON text is a TOML one once DEL, which TOML alone wants escaped, cannot be in it.
    return json.dumps(value.replace("\x7f", ""), ensure_ascii=False) if isinstance(value, str) else repr(float(value))
