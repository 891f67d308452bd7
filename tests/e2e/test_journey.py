"""The journey the product exists for, on real parts: link, editor, a file, a terminal, signing out."""

from __future__ import annotations

import json
import os
import time
import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import Browser
from support.appliance import Appliance, ide_tree
from support.browser import editor_frame, person, sign_in
from support.journey import edit_and_save, trust_the_folder, use_the_terminal
from support.waiting import poll

from appliance.broker.client import call

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


def sockets_of(appliance: Appliance) -> int:
    """IDE sockets that the relay holds for everybody signed in."""
    return sum(row["ide_sockets"] for row in appliance.control.call("GET", "/api/sessions")["sessions"])


def test_from_link_to_file_on_disk_and_out_again(appliance: Appliance, browser: Browser) -> None:
    """Set-up link, IDE, a file edited and saved, a terminal command, then signing out elsewhere (AUTH-1, AUTH-9)."""
    workspace = appliance.paths.workspace
    context = person(browser)
    page = context.new_page()
    sign_in(page, appliance.croft("login-link")["url"])
    page.goto(f"{appliance.url}/workspace")
    frame = editor_frame(page)
    assert frame.url.startswith(appliance.settings.ide_origin)

    edit_and_save(page, frame, workspace)
    trust_the_folder(page, frame)
    account, folder = use_the_terminal(page, frame, workspace)
    assert account == appliance.settings.users_workspace
    assert folder == str(workspace)

    # Signing out in another tab cuts the editor's sockets within five seconds.
    assert sockets_of(appliance) > 0
    other = context.new_page()
    other.goto(appliance.url)
    begun = time.monotonic()
    other.locator("form[action='/sign-out'] button").first.evaluate("button => button.form.submit()")
    other.wait_for_url("**/sign-in")
    poll(lambda: sockets_of(appliance) == 0, "the editor's sockets are gone", 5)
    assert time.monotonic() - begun < 5
    other.goto(f"{appliance.settings.ide_origin}/")
    assert other.url.startswith(f"{appliance.url}/sign-in"), "the IDE host lets nobody in after signing out (A5)"
    context.close()


def test_a_used_link_does_not_work_again(appliance: Appliance, browser: Browser) -> None:
    """AUTH-1: single use, and the second try reads like any other refusal (AUTH-5)."""
    link = appliance.croft("login-link")["url"]
    first, second = person(browser), person(browser)
    sign_in(first.new_page(), link)
    page = second.new_page()
    page.goto(link)
    assert page.locator("form[action='/sign-in/link']").count() == 0
    assert "__Host-croft" not in [cookie["name"] for cookie in second.cookies()]
    first.close()
    second.close()


def test_extensions_and_settings_outlive_the_ide(appliance: Appliance) -> None:
    """A .vsix that somebody installs, and their settings, are there after a stop and a restart of everything."""
    workspace, home = appliance.paths.workspace, appliance.paths.ide_home
    make_vsix(workspace / "hello.vsix")
    appliance.croft("services", "start", "ide")
    poll(lambda: appliance.service("ide")["health"] == "healthy", "the IDE is ready", 60)
    assert "croft-test.hello" not in as_workspace(appliance, "--list-extensions")
    as_workspace(appliance, "--install-extension", str(workspace / "hello.vsix"))
    settings = home / ".local/share/code-server/User/settings.json"
    chosen = settings.read_text().rstrip().rstrip("}").rstrip() + ',\n  "editor.fontSize": 17\n}\n'
    settings.write_text(chosen)

    appliance.croft("services", "stop", "ide")
    poll(lambda: appliance.service("ide")["state"] == "stopped", "the IDE stops", 30)
    appliance.stop()
    appliance.start()
    appliance.croft("services", "start", "ide")
    poll(lambda: appliance.service("ide")["health"] == "healthy", "the IDE is ready", 60)
    assert "croft-test.hello" in as_workspace(appliance, "--list-extensions")
    assert settings.read_text() == chosen


def as_workspace(appliance: Appliance, *words: str) -> str:
    """code-server's own command line, run as the broker runs commands for people: as the workspace account."""
    home, ide = appliance.paths.ide_home, ide_tree()
    reply = call(
        appliance.paths.socket("broker"),
        "spawn",
        argv=[
            str(ide / "node/bin/node"),
            str(ide / "code/node_modules/code-server"),
            *words,
            "--user-data-dir",
            str(home / ".local/share/code-server"),
            "--extensions-dir",
            str(home / ".local/share/code-server/extensions"),
        ],
        cwd=".",
        env={},
        stdin=None,
        view="plain",
        timeout=60,
        limits={"seconds": 60, "pids": 64, "memory_mb": 1024},
    )
    pidfd, out, err = reply.fds
    os.close(pidfd)
    with os.fdopen(out, "rb") as stdout, os.fdopen(err, "rb") as stderr:
        said = stdout.read().decode()
        assert "Error" not in said, said + stderr.read().decode()
    return said


def make_vsix(path: Path) -> None:
    """The smallest extension there can be (a .vsix is a zip with a manifest and a package.json)."""
    manifest = """<?xml version="1.0" encoding="utf-8"?>
<PackageManifest Version="2.0.0" xmlns="http://schemas.microsoft.com/developer/vsx-schema/2011">
<Metadata><Identity Language="en-US" Id="hello" Version="1.0.0" Publisher="croft-test"/><DisplayName>Hello</DisplayName>
<Description xml:space="preserve">Hello</Description></Metadata>
<Installation><InstallationTarget Id="Microsoft.VisualStudio.Code"/></Installation>
<Dependencies/><Assets><Asset Type="Microsoft.VisualStudio.Code.Manifest" Path="extension/package.json" Addressable="true"/></Assets>
</PackageManifest>"""
    package = {"name": "hello", "publisher": "croft-test", "version": "1.0.0", "engines": {"vscode": "^1.80.0"}}
    types = (
        '<?xml version="1.0" encoding="utf-8"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
        '<Default Extension=".json" ContentType="application/json"/><Default Extension=".vsixmanifest" ContentType="text/xml"/></Types>'
    )
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("extension.vsixmanifest", manifest)
        made.writestr("[Content_Types].xml", types)
        made.writestr("extension/package.json", json.dumps(package))
    path.chmod(0o644)
