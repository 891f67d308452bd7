"""Changing settings on the page: what may be changed, by whom, when it counts, and what the file's owner keeps (PRV-1, LOG-6)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.front import Front, front

from appliance.leaving import LEAVES
from appliance.settings import ROWS, TABLE
from appliance.settings_desk import RefusedValue
from webui.handlers.settings import GROUPS

FORM = {"Accept": "text/html"}


async def send(door: Front, cookie: str, group: str, **fields: Any) -> Any:
    data = {name.replace("__", "."): str(value) for name, value in fields.items()}
    return await door.ask("POST", f"/settings/{group}", cookie, data=data, headers=FORM)


async def events(door: Front, event: str) -> list[dict[str, Any]]:
    return [record.detail for record in await door.audit.records(event=event)]


def test_every_setting_is_on_the_page_or_for_the_console_alone() -> None:
    shown = {name for names in GROUPS.values() for name in names}
    left_out = {row.name for row in TABLE} - shown
    assert {name.split(".")[0] for name in left_out} == {"users", "paths"}
    assert [name for name in left_out if ROWS[name].change != "root"] == []


async def test_what_is_live_counts_at_once_and_is_recorded(tmp_path: Path) -> None:
    async with front(tmp_path) as door:
        door.desk.on_change(lambda before, after: told.append((before.language, after.language)))
        told: list[tuple[str, str]] = []
        _, cookie = await door.sign_in_as("admin")
        answer = await send(door, cookie, "look", language="ar", theme="dark")
        assert answer.status == 303
        page = await (await door.ask("GET", "/sign-in", headers=FORM)).text()
        assert '<html lang="ar" dir="rtl" data-theme="dark"' in page
        assert told == [("en", "ar")]
        changes = await events(door, "settings.change")
        assert {"name": "language", "old": "en", "new": "ar"} in changes
        assert len(changes) == 2


async def test_a_refused_value_is_kept_for_mending_and_nothing_else_is_saved(tmp_path: Path) -> None:
    async with front(tmp_path) as door:
        _, cookie = await door.sign_in_as("admin")
        answer = await send(door, cookie, "limits", session__hours=100, session__idle_minutes="abc<b>")
        page = await answer.text()
        assert answer.status == 400
        assert 'value="abc&lt;b&gt;"' in page
        assert 'value="100"' in page
        assert "from 1 to 1440" in page
        assert door.desk.current.session_hours == 24
        assert await events(door, "settings.change") == []


async def test_what_counts_after_a_restart_says_so_and_is_there_then(tmp_path: Path) -> None:
    async with front(tmp_path) as door:
        _, cookie = await door.sign_in_as("admin")
        await send(door, cookie, "limits", ide__idle_minutes=45)
        assert door.desk.current.ide_idle_minutes == 30
        page = await (await door.ask("GET", "/settings", cookie, headers=FORM)).text()
        assert "1 change takes effect after a restart." in page
        await door.ask("POST", "/settings/restart", cookie, headers=FORM)
        assert len(door.restarts) == 1
        assert len(await events(door, "daemon.restart")) == 1
    async with front(tmp_path) as door:
        assert door.desk.current.ide_idle_minutes == 45
        assert door.desk.waiting() == []


async def test_the_file_wins_over_the_page(tmp_path: Path) -> None:
    """Root's word stands: neither a new change nor an older one from the page goes before it."""
    async with front(tmp_path) as door:
        await door.desk.change({"language": "ar", "session.hours": "48"}, "test")
    (tmp_path / "etc").mkdir(exist_ok=True)
    (tmp_path / "etc/croft.toml").write_text('language = "en"\n')
    async with front(tmp_path) as door:
        assert (door.desk.current.language, door.desk.current.session_hours) == ("en", 48)
        with pytest.raises(RefusedValue, match=r"croft\.toml"):
            await door.desk.change({"language": "ar"}, "test")
        _, cookie = await door.sign_in_as("admin")
        page = await (await door.ask("GET", "/settings", cookie, headers=FORM)).text()
        assert "Set in croft.toml" in page
        assert 'name="language"' not in page


@pytest.mark.parametrize("name", [row.name for row in TABLE if row.change == "root"])
async def test_rows_of_root_cannot_be_changed_by_any_form(tmp_path: Path, name: str) -> None:
    async with front(tmp_path) as door:
        with pytest.raises(RefusedValue):
            await door.desk.change({name: str(ROWS[name].default)}, "test")


async def test_changing_needs_a_fresh_proof(tmp_path: Path) -> None:
    """AUTH-10: a session that was left open changes nothing."""
    async with front(tmp_path) as door:
        _, cookie = await door.sign_in_as("admin")
        door.clock.advance(301)
        await send(door, cookie, "look", language="ar")
        assert door.desk.current.language == "en"


async def test_another_mail_server_does_not_get_the_password(tmp_path: Path) -> None:
    """Who took over an admin's session cannot have the mail account's password sent to a server of theirs."""
    async with front(tmp_path) as door:
        door.desk.on_change(lambda before, after: door.mailer.use(after))
        await door.desk.change({"mail.host": "mail.example.org"}, "test")
        await door.mailer.set_password("kept")
        await door.desk.change({"mail.from_name": "Ours"}, "test")
        assert door.mailer.has_password()
        await door.desk.change({"mail.host": "evil.example.net"}, "test")
        assert not door.mailer.has_password()


async def test_privacy_page_names_every_field_that_leaves(tmp_path: Path) -> None:
    """PRV-1: the page is made from the list, whole."""
    async with front(tmp_path) as door:
        _, cookie = await door.sign_in_as("admin")
        page = await (await door.ask("GET", "/settings/privacy", cookie, headers=FORM)).text()
        page = page[page.index('<ul class="leaves"') : page.index('id="never-title"')]
        assert page.count("<dd>") == sum(len(one.fields) for one in LEAVES)
        assert page.count("<h3>") == len(LEAVES)
