"""croft.toml: every row of the table, and every way to get it wrong, ends in a value or in words for people."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from appliance.errors import SettingsError
from appliance.settings import NAMES, TABLE, UNIX_PATH_MAX, Paths, Setting, Settings, load, parse

PATHS = Paths.under(Path("/tmp/croft-test"))
NUMBERS = [row for row in TABLE if type(row.default) is int]


def nested(name: str, value: Any) -> dict[str, Any]:
    table, _, key = name.rpartition(".")
    return {table: {key: value}} if table else {key: value}


def refusal(document: dict[str, Any]) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        parse(document, PATHS)
    assert caught.value.message
    assert caught.value.hint
    return caught.value


def test_a_missing_file_means_all_defaults(tmp_path: Path) -> None:
    settings = load(Paths.under(tmp_path))
    for row in TABLE:
        assert getattr(settings, row.name.replace(".", "_")) == row.default, row.name


def test_the_object_has_a_field_for_each_row_and_nothing_else() -> None:
    fields = {field.name for field in dataclasses.fields(Settings)} - {"paths", "given"}
    assert fields == {name.replace(".", "_") for name in NAMES}
    assert len(NAMES) == len(TABLE), "a setting is listed twice"


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_every_row_explains_itself_and_refuses_another_type(row: Setting) -> None:
    assert row.help.endswith("."), row
    wrong: dict[type, list[Any]] = {str: [1, True, ["a"], 1.5], int: ["1", True, 1.5, [1]], bool: [1, "true"]}
    for value in wrong[type(row.default)]:
        assert row.name in refusal(nested(row.name, value)).message


@pytest.mark.parametrize("row", NUMBERS, ids=lambda row: row.name)
def test_numbers_hold_their_bounds(row: Setting) -> None:
    others = {"proxy.http_port": {"https_port": 9443}, "proxy.https_port": {"http_port": 9080}}.get(row.name, {})
    for value in (row.low, row.high):
        document = nested(row.name, value)
        if others:
            document["proxy"].update(others)
        assert getattr(parse(document, PATHS), row.name.replace(".", "_")) == value
    for value in (row.low - 1, row.high + 1, 10**30, -(10**30)):
        assert str(row.high) in refusal(nested(row.name, value)).message


@pytest.mark.parametrize("row", [row for row in TABLE if row.choices], ids=lambda row: row.name)
def test_choices(row: Setting) -> None:
    for value in row.choices:
        parse(nested(row.name, value), PATHS)
    for value in ("", "AUTO", row.choices[0] + " ", "other"):
        assert row.choices[0] in refusal(nested(row.name, value)).message


@pytest.mark.parametrize("row", [row for row in TABLE if type(row.default) is str], ids=lambda row: row.name)
def test_no_text_can_break_out_of_a_file_it_is_written_to(row: Setting) -> None:
    """Values end up in a Caddyfile, units and environment files."""
    for bad in "\n\r\0\t{}\"'\\`\x7f\x85\u2028":
        refusal(nested(row.name, f"a{bad}b"))


@pytest.mark.parametrize(
    "host",
    [
        "croft.localhost",
        "example.org",
        "203-0-113-7.sslip.io",
        "xn--mgbh0fb.example",
        "a.b.c.d.example",
        "x" * 63 + ".org",
    ],
)
def test_good_hosts(host: str) -> None:
    settings = parse({"host": host}, PATHS)
    assert settings.ui_origin == f"https://{host}"
    assert settings.ide_origin == f"https://ide.{host}"


@pytest.mark.parametrize(
    "host",
    [
        "",
        " ",
        ".",
        "-a.org",
        "a-.org",
        "a..org",
        "a.org.",
        "A.org",
        "a_b.org",
        "https://a.org",
        "a.org/x",
        "a.org:443",
        "*.a.org",
        "127.0.0.1",
        "::1",
        "[::1]",
        "127.1",
        "2130706433",
        "0x7f000001",
        "a.0x7f",
        "a.1",
        "x" * 64 + ".org",
        "a." * 130 + "org",
        "مثال.org",
        "localhost",
        "a b",
        "a\tb",
    ],
)
def test_bad_hosts(host: str) -> None:
    """A number at the end of a name is an address to browsers, however it is written."""
    assert "host" in refusal({"host": host}).message


def test_names_of_accounts_cannot_be_left_empty() -> None:
    for name in ("daemon", "workspace", "proxy"):
        refusal({"users": {name: ""}})
        refusal({"users": {name: "root; rm"}})
        refusal({"users": {name: "-rf"}})


def test_ports_in_origins_and_behind_another_proxy() -> None:
    assert parse({"proxy": {"https_port": 8443}}, PATHS).ui_origin == "https://croft.localhost:8443"
    assert parse({"proxy": {"https_port": 8443, "tls": "off"}}, PATHS).ui_origin == "https://croft.localhost"
    assert "differ" in refusal({"proxy": {"https_port": 80}}).message


@pytest.mark.parametrize(
    "document", [{"hots": "a.org"}, {"proxy": {"port": 1}}, {"a": {"b": {"c": 1}}}, {"proxy": 5}, {"": 1}]
)
def test_unknown_settings_are_named(document: dict[str, Any]) -> None:
    assert "unknown setting" in refusal(document).message


@pytest.mark.parametrize(
    ("content", "word"), [(b"host = ", "TOML"), (b"\xff\xfe", "UTF-8"), (b"host = 'a'\nhost = 'b'", "TOML")]
)
def test_unreadable_files(tmp_path: Path, content: bytes, word: str) -> None:
    paths = Paths.under(tmp_path)
    paths.config.parent.mkdir(parents=True)
    paths.config.write_bytes(content)
    with pytest.raises(SettingsError, match=word) as caught:
        load(paths)
    assert str(tmp_path) not in caught.value.message


def test_a_folder_in_the_files_place(tmp_path: Path) -> None:
    paths = Paths.under(tmp_path)
    paths.config.mkdir(parents=True)
    with pytest.raises(SettingsError, match=r"cannot read croft\.toml: Is a directory"):
        load(paths)


def test_socket_paths_that_the_kernel_does_not_take(tmp_path: Path) -> None:
    long = Paths.under(Path("/tmp") / ("x" * 90))
    with pytest.raises(SettingsError, match="longer than"):
        long.socket("control")
    for name in ("broker", "docker", "web", "verify", "ide", "editor", "control"):
        assert len(bytes(Paths.system().socket(name))) <= UNIX_PATH_MAX
    # Bytes count, not letters.
    with pytest.raises(SettingsError, match="longer than"):
        Paths.under(Path("/tmp") / ("ع" * 45)).socket("control")
