"""Every setting of an appliance in one table, read once into a frozen object and passed in.

Standard library only: the broker reads the same file. Rule: nothing here reads the environment or a file at import time.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from appliance.errors import SettingsError

# sockaddr_un.sun_path holds 108 bytes with the final NUL (unix(7)).
UNIX_PATH_MAX = 107
LOOPBACK = ("localhost", "127.0.0.1", "::1")

# 253 bytes (RFC 1035 2.3.4) less "ide."; the last label is not a number, or browsers read the name as an address (WHATWG URL 3.5).
_HOST = r"(?=.{1,249}\Z)(?!(.*\.)?([0-9]+|0x[0-9a-f]*)\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*\Z"
_EMAIL = r"[^\s@{}\"'\\]{1,64}@[^\s@{}\"'\\]{1,190}\Z"
# A name, or an address where there is no TLS to check a name by.
_MAIL_HOST = r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?\Z|::1\Z"
_URL = r"https://[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9._~/-]*)?\Z"
_ENDPOINT = r"https?://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]{1,253})(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]{0,200})?\Z"
_MODEL = r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,200}\Z"
_USER = r"[a-z_][a-z0-9_-]{0,31}\Z"


class Setting(NamedTuple):
    """One row of the table: dotted name, default (its type is the setting's type), help, what is allowed, who may change it."""

    name: str
    default: str | int | bool
    help: str
    choices: tuple[str, ...] = ()
    low: int = 0
    high: int = 1 << 31
    pattern: str = ""  # compiled when a value is checked
    # Who may change it, and when that counts: root in croft.toml only; an admin on the settings page, after a restart of the
    # daemon, or at once. What root wrote into croft.toml always wins.
    change: Literal["root", "restart", "live"] = "root"


TABLE: tuple[Setting, ...] = (
    Setting("host", "croft.localhost", "Name of the web interface. The IDE lives at ide.HOST.", pattern=_HOST),
    Setting("runtime", "auto", "How services run.", choices=("auto", "docker", "process")),
    Setting("language", "en", "Language before a person has chosen one.", choices=("en", "ar"), change="live"),
    Setting(
        "theme", "auto", "Appearance before a person has chosen one.", choices=("auto", "light", "dark"), change="live"
    ),
    Setting("proxy.http_port", 80, "Port for plain HTTP (redirects, ACME).", low=1, high=65535),
    Setting("proxy.https_port", 443, "Port for HTTPS.", low=1, high=65535),
    Setting("proxy.bind", "", "Addresses Caddy listens on, separated by commas; empty means all."),
    Setting(
        "proxy.tls",
        "internal",
        "Certificates: own authority, or ACME with the own authority as a fallback.",
        choices=("internal", "acme", "off"),
    ),
    Setting("proxy.email", "", "Address given to the certificate authority.", pattern=_EMAIL),
    Setting("proxy.acme_directory", "", "ACME directory URL; empty means Caddy's default.", pattern=_URL),
    Setting("proxy.acme_root", "", "Certificate file that the ACME directory's own TLS is checked against."),
    Setting(
        "ide.idle_minutes",
        30,
        "Minutes without use after which the IDE is stopped; 0 never stops it.",
        high=10_080,
        change="restart",
    ),
    Setting(
        "ide.memory_mb",
        0,
        "Memory limit of the IDE in MiB; 0 computes it from the machine.",
        high=1 << 20,
        change="restart",
    ),
    Setting(
        "session.idle_minutes", 60, "Minutes without use after which a session ends.", low=1, high=1440, change="live"
    ),
    Setting("session.hours", 24, "Hours after which a session ends in any case.", low=1, high=720, change="live"),
    Setting(
        "session.remember_days", 30, "Days that 'stay signed in on this device' lasts.", low=1, high=90, change="live"
    ),
    Setting(
        "mail.host",
        "",
        "Mail server that takes our mail (SMTP); empty means that no mail is sent.",
        pattern=_MAIL_HOST,
        change="live",
    ),
    Setting("mail.port", 587, "Its port: usually 587 with starttls, 465 with tls.", low=1, high=65535, change="live"),
    Setting(
        "mail.tls",
        "starttls",
        "How the connection to it is protected; none is for a server on this machine alone.",
        choices=("starttls", "tls", "none"),
        change="live",
    ),
    Setting(
        "mail.user",
        "",
        "Account at the mail server; empty means none. Its password: `croft mail password`.",
        change="live",
    ),
    Setting("mail.from_name", "Croft", "Name that our mail comes from.", change="live"),
    Setting(
        "mail.from_address",
        "",
        "Address that our mail comes from; empty means croft@HOST.",
        pattern=_EMAIL,
        change="live",
    ),
    Setting(
        "mail.root", "", "Certificate file that the mail server is checked against; empty means the machine's own."
    ),
    Setting(
        "ai.rate_minute",
        60,
        "Requests a minute that one API token may make of the language model; 0 is no limit.",
        high=100_000,
        change="live",
    ),
    Setting("ai.rate_burst", 20, "How many of them may come at once.", low=1, high=10_000, change="live"),
    Setting(
        "ai.parallel",
        8,
        "Requests of one API token that may be under way at the same time; 0 is no limit.",
        high=1000,
        change="live",
    ),
    Setting(
        "ai.token_day", 1_000_000, "Tokens of text a day that one API token may use; 0 is no limit.", change="live"
    ),
    Setting(
        "ai.person_day",
        2_000_000,
        "Tokens of text a day that one person may use with all their API tokens; 0 is no limit.",
        change="live",
    ),
    Setting("ai.steps", 12, "Tools that the assistant may use in one answer.", low=1, high=100, change="live"),
    Setting(
        "ai.answer_tokens", 8192, "Tokens of text that it may write in one answer.", low=64, high=1 << 20, change="live"
    ),
    Setting("ai.answer_minutes", 15, "Minutes that it may work on one answer.", low=1, high=240, change="live"),
    Setting(
        "ai.engine",
        "local",
        "Who answers the assistant's questions: the engine on this machine, an endpoint elsewhere, or nobody.",
        choices=("local", "remote", "nobody"),
        change="live",
    ),
    Setting(
        "ai.idle_minutes",
        15,
        "Minutes without a question after which the engine on this machine is stopped; 0 never stops it.",
        high=10_080,
        change="live",
    ),
    Setting(
        "ai.url",
        "",
        "Address of an OpenAI-compatible endpoint, for ai.engine = remote. Its key: `croft assistant key`.",
        pattern=_ENDPOINT,
        change="live",
    ),
    Setting(
        "ai.network",
        "public",
        "Where that endpoint is: public needs https and a public address; private allows this machine and its networks.",
        choices=("public", "private"),
        change="live",
    ),
    Setting("ai.model", "", "Name of the model there.", pattern=_MODEL, change="live"),
    Setting("ai.context", 8192, "Tokens that model can hold.", low=512, high=1 << 20, change="live"),
    Setting(
        "ai.mirror",
        "",
        "Address that model files are fetched from in place of huggingface.co; it may be in the own network.",
        pattern=_URL,
    ),
    Setting(
        "conversations.keep_days",
        0,
        "Days after which a conversation that nobody went on with is deleted; 0 keeps it. Pinned ones stay.",
        high=36_500,
        change="live",
    ),
    Setting(
        "conversations.archived_days",
        0,
        "The same for archived ones.",
        high=36_500,
        change="live",
    ),
    Setting("log.level", "info", "How much is logged.", choices=("debug", "info", "warning", "error"), change="live"),
    Setting(
        "log.format",
        "auto",
        "Log lines as text or JSON; auto is JSON unless on a terminal.",
        choices=("auto", "text", "json"),
    ),
    Setting(
        "log.service_mb",
        10,
        "Size in MiB at which a service's log file is rotated (one old file is kept).",
        low=1,
        high=1024,
    ),
    Setting("users.daemon", "croft", "Account of the daemon.", pattern=_USER),
    Setting("users.workspace", "workspace", "Account of the IDE, of commands and of their files.", pattern=_USER),
    Setting("users.proxy", "caddy", "Account of Caddy.", pattern=_USER),
    Setting("users.ai", "croft-ai", "Account of the engine.", pattern=_USER),
    Setting("paths.ide", "", "Folder that holds code-server and its Node; empty means the installed one."),
    Setting("paths.caddy", "", "Caddy's program; empty means the one on PATH."),
    Setting(
        "paths.local_ai",
        "",
        "LocalAI's program, for the process runtime; empty means the one on PATH, if there is one.",
    ),
)

ROWS: dict[str, Setting] = {setting.name: setting for setting in TABLE}
NAMES: frozenset[str] = frozenset(ROWS)


@dataclass(frozen=True, eq=False, repr=False)
class Paths:
    """Where everything lies. Built by :meth:`system` or :meth:`under`; nothing else makes paths up."""

    config: Path
    policy: Path
    state: Path
    run: Path
    log: Path
    programs: Path

    @classmethod
    def system(cls) -> Paths:
        """The places of an installed appliance."""
        return cls(
            Path("/etc/croft/croft.toml"),
            Path("/etc/croft/policy"),
            Path("/var/lib/croft"),
            Path("/run/croft"),
            Path("/var/log/croft"),
            Path("/opt/croft"),
        )

    @classmethod
    def under(cls, home: Path) -> Paths:
        """Everything beneath one folder: a checkout or a test."""
        home = home.resolve()
        return cls(
            home / "etc/croft.toml", home / "etc/policy", home / "state", home / "run", home / "log", home / "programs"
        )

    @property
    def database(self) -> Path:
        return self.state / "croft.db"

    @property
    def keys(self) -> Path:
        return self.state / "keys"

    @property
    def workspace(self) -> Path:
        return self.state / "workspace"

    @property
    def ide_home(self) -> Path:
        return self.state / "home"

    @property
    def caddy_data(self) -> Path:
        return self.state / "caddy"

    @property
    def proxy_root(self) -> Path:
        """The root certificate of Caddy's own authority, published by the broker for everyone on the machine."""
        return self.run / "proxy" / "root.crt"

    def socket(self, name: str) -> Path:
        """The socket called ``name``: broker, docker, web, verify, ide, editor or control.

        Raises SettingsError when the path is longer than the kernel takes.
        """
        folder = {"docker": "broker", "verify": "web"}.get(name, name)
        path = self.run / folder / f"{name}.sock"
        if len(bytes(path)) > UNIX_PATH_MAX:
            raise SettingsError(
                f"the socket path for {name} is longer than {UNIX_PATH_MAX} bytes",
                hint="Use a shorter folder with --home.",
            )
        return path


@dataclass(frozen=True, eq=False, repr=False)  # what nobody asks of it costs each start a millisecond
class Settings:
    """All settings, typed. Field names are the dotted names with dots as underscores."""

    host: str
    runtime: str
    language: str
    theme: str
    proxy_http_port: int
    proxy_https_port: int
    proxy_bind: str
    proxy_tls: str
    proxy_email: str
    proxy_acme_directory: str
    proxy_acme_root: str
    ide_idle_minutes: int
    ide_memory_mb: int
    session_idle_minutes: int
    session_hours: int
    session_remember_days: int
    mail_host: str
    mail_port: int
    mail_tls: str
    mail_user: str
    mail_from_name: str
    mail_from_address: str
    mail_root: str
    ai_rate_minute: int
    ai_rate_burst: int
    ai_parallel: int
    ai_token_day: int
    ai_person_day: int
    ai_steps: int
    ai_answer_tokens: int
    ai_answer_minutes: int
    ai_engine: str
    ai_idle_minutes: int
    ai_url: str
    ai_network: str
    ai_model: str
    ai_context: int
    ai_mirror: str
    conversations_keep_days: int
    conversations_archived_days: int
    log_level: str
    log_format: str
    log_service_mb: int
    users_daemon: str
    users_workspace: str
    users_proxy: str
    users_ai: str
    paths_ide: str
    paths_caddy: str
    paths_local_ai: str
    paths: Paths
    given: frozenset[str] = frozenset()  # the names that croft.toml itself sets

    @property
    def ide_host(self) -> str:
        return f"ide.{self.host}"

    @property
    def ui_origin(self) -> str:
        """Origin of the web interface, as browsers write it (default ports are left out)."""
        return self._origin(self.host)

    @property
    def ide_origin(self) -> str:
        return self._origin(self.ide_host)

    def _origin(self, host: str) -> str:
        # With TLS off another proxy in front of Caddy ends TLS, on the usual port.
        port = 443 if self.proxy_tls == "off" else self.proxy_https_port
        return f"https://{host}" + ("" if port == 443 else f":{port}")


def load(paths: Paths) -> Settings:
    """Read ``paths.config``; a missing file means all defaults.

    Raises SettingsError naming the setting, what is wrong with it and what is allowed.
    """
    try:
        text = paths.config.read_text("utf-8")
    except FileNotFoundError:
        text = ""
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise SettingsError(f"cannot read croft.toml: {cause}", hint="It must be a readable UTF-8 file.") from error
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"croft.toml is not valid TOML: {error}", hint="Mend the line named above.") from error
    return parse(document, paths)


def parse(document: dict[str, Any], paths: Paths) -> Settings:
    """Check a parsed document against TABLE. Raises SettingsError."""
    flat = _flatten(document)
    unknown = sorted(set(flat) - NAMES)
    if unknown:
        raise SettingsError(
            f"croft.toml has an unknown setting: {unknown[0]}", hint="`croft doctor --settings` lists every setting."
        )
    values = {field_of(row.name): check(row, flat.get(row.name, row.default)) for row in TABLE}
    if values["proxy_http_port"] == values["proxy_https_port"]:
        raise SettingsError("proxy.http_port and proxy.https_port must differ", hint="The usual ones are 80 and 443.")
    if values["mail_tls"] == "none" and values["mail_host"] not in ("", *LOOPBACK):
        raise SettingsError(
            "mail.tls can be none only for a mail server on this machine",
            hint=f"Use starttls or tls, or one of the hosts {', '.join(LOOPBACK)}.",
        )
    return Settings(**values, paths=paths, given=frozenset(flat))


def field_of(name: str) -> str:
    """The field of :class:`Settings` that holds the setting ``name``."""
    return name.replace(".", "_")


def _flatten(document: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def check(row: Setting, value: Any) -> Any:
    """``value`` if it is one that ``row`` may have. Raises SettingsError."""
    kind = type(row.default)
    if type(value) is not kind:
        raise SettingsError(f"{row.name} must be of type {kind.__name__}, not {type(value).__name__}", hint=row.help)
    if isinstance(value, str):
        _check_text(row, value)
    elif not isinstance(value, bool) and not row.low <= value <= row.high:
        raise SettingsError(f"{row.name} must be between {row.low} and {row.high}, not {value}", hint=row.help)
    return value


def _check_text(row: Setting, value: str) -> None:
    if any(not char.isprintable() or char in "{}\"'\\`" for char in value):
        raise SettingsError(f"{row.name} holds a character that is not allowed here", hint=row.help)
    if row.choices and value not in row.choices:
        raise SettingsError(f"{row.name} must be one of {', '.join(row.choices)}, not {value!r}", hint=row.help)
    if row.name == "host":
        _check_host(value)
    # A row whose default is empty may be left empty; the others may not.
    if row.pattern and (value or row.default) and not re.match(row.pattern, value):
        raise SettingsError(f"{row.name} is not valid: {value!r}", hint=row.help)


def _check_host(value: str) -> None:
    if _is_address(value):
        raise SettingsError(
            "host must be a name, not an address: cookies of two sites on one address cannot be kept apart",
            hint="Use a wildcard-IP DNS name such as 203-0-113-7.sslip.io.",
        )
    if value == "localhost":
        raise SettingsError(
            "host cannot be localhost: browsers treat ide.localhost as a different site", hint="Use croft.localhost."
        )


def _is_address(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True
