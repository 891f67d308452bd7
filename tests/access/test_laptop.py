"""``croft sign-in`` from another machine: the real command, the real application behind TLS, a real Chromium."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import socket
import ssl
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import BrowserContext, Page
from support import screens
from support.appliance import CHECKOUT
from support.front import Front
from support.screens import EVIL_NAME, Booth, Screen
from support.waiting import until

from appliance import hosts, remote
from appliance.errors import CroftError, Invalid
from appliance.verbs import laptop as laptop_verbs
from webui.guard import COOKIE

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def booth() -> AsyncIterator[Booth]:
    async with screens.chromium() as browser, screens.booth(browser) as opened:
        pem = await asyncio.to_thread((opened.front.folder / "front.pem").read_text)
        root = opened.front.settings.paths.proxy_root
        await asyncio.to_thread(root.parent.mkdir, parents=True, exist_ok=True)
        await asyncio.to_thread(root.write_text, pem[pem.index("-----BEGIN CERTIFICATE") :])
        yield opened


class Laptop:
    """Another machine: a home of its own, nothing of the appliance on it."""

    def __init__(self, folder: Path, booth: Booth) -> None:
        self.folder, self.booth = folder, booth
        self.file = folder / "croft/hosts.toml"
        self.ca = ("--ca", str(booth.front.settings.paths.proxy_root))

    async def start(self, *words: str, **environment: str) -> asyncio.subprocess.Process:
        clean = {"PATH": os.environ["PATH"], "PYTHONPATH": str(CHECKOUT), "HOME": str(self.folder)}
        code = "import sys; from appliance import cli, settings; from pathlib import Path; " + (
            # Where an appliance would have its settings: this machine is none, whatever else runs on it.
            f"settings.Paths.system = classmethod(lambda cls: cls.under(Path({str(self.folder / 'none')!r}))); sys.exit(cli.main())"
        )
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            code,
            *words,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**clean, "XDG_CONFIG_HOME": str(self.folder), **environment},
        )

    async def croft(self, *words: str, said: str = "", **environment: str) -> tuple[int, Any, str]:
        """Exit code, the JSON answer if there is one, and standard error."""
        process = await self.start(*words, "--json", **environment)
        out, err = await asyncio.wait_for(process.communicate(said.encode()), 60)
        return process.returncode or 0, json.loads(out) if out.strip() else None, err.decode()


@pytest.fixture
def laptop(tmp_path: Path, booth: Booth) -> Laptop:
    return Laptop(tmp_path, booth)


async def signed_in(booth: Booth, role: str) -> BrowserContext:
    context = await booth.browser.new_context(locale="en")
    cookie = await screens.sign_in(booth.front, role)
    await context.add_cookies([{"name": COOKIE, "value": cookie, "url": booth.address, "secure": True}])
    return context


async def told(process: asyncio.subprocess.Process, pattern: str) -> str:
    """The first match in what the command says on standard error."""
    assert process.stderr is not None
    seen = ""
    async with asyncio.timeout(30):
        while line := (await process.stderr.readline()).decode():
            seen += line
            if found := re.search(pattern, line):
                return found[0]
    raise AssertionError(f"it never said {pattern}: {seen}")


async def test_by_the_browser(booth: Booth, laptop: Laptop) -> None:
    """The round trip of most people, then every verb with a JSON route, then signing out."""
    context = await signed_in(booth, "operator")
    process = await laptop.start("sign-in", booth.address, *laptop.ca, "--json", "--name", EVIL_NAME)
    address = await told(process, r"https://\S+/connect\?\S+")
    page = await context.new_page()
    await page.goto(address)
    shown = await page.inner_text("main")
    assert EVIL_NAME in shown
    assert "This computer" in shown
    assert not await page.evaluate("window.pwned")
    await page.click("button[value=allow]")
    await page.wait_for_url(f"{booth.address}/connect/done")
    assert "let in" in await page.inner_text("h1")
    out, _ = await asyncio.wait_for(process.communicate(), 30)
    answer = json.loads(out)
    assert (answer["email"], answer["role"]) == ("operator@example.org", "operator")
    assert answer["scopes"] == ["read", "services", "commands"]
    assert stat.S_IMODE(laptop.file.stat().st_mode) == 0o600
    assert stat.S_IMODE(laptop.file.parent.stat().st_mode) == 0o700

    code, status, _ = await laptop.croft("status")
    assert (code, status["url"]) == (0, booth.address)
    code, restarted, _ = await laptop.croft("services", "restart", "ide", "--host", booth.address)
    assert code == 0
    assert {row["name"] for row in restarted["services"]} == {"ide", "proxy", "ai"}
    code, _, err = await laptop.croft("users", "list")
    assert code == 1
    assert json.loads(err)["error"]["code"] == "forbidden"
    code, left, _ = await laptop.croft("sign-out")
    assert (code, left["revoked"]) == (0, True)
    assert booth.front.api_tokens.of() == []
    assert "croft_api_" not in laptop.file.read_text()
    await context.close()


async def test_by_a_code(booth: Booth, laptop: Laptop) -> None:
    """Over SSH: the code is shown there and typed here."""
    context = await signed_in(booth, "viewer")
    process = await laptop.start("sign-in", booth.address, *laptop.ca, "--json", SSH_CONNECTION="1", LANG="C")
    typed = await told(process, r"\b[A-Z]{4}-[A-Z]{4}\b")
    page = await context.new_page()
    await page.goto(f"{booth.address}/connect/code")
    await page.fill("input[name=code]", "bcdf ghjk" if typed != "BCDF-GHJK" else "BCDF-GHJL")
    await page.click("main button.main")
    assert "No program waits" in await page.inner_text("main")
    await page.fill("input[name=code]", typed.lower().replace("-", " "))
    await page.click("main button.main")
    assert "in your own terminal" in await page.inner_text("main")
    await page.click("button[value=allow]")
    out, _ = await asyncio.wait_for(process.communicate(), 30)
    assert json.loads(out)["role"] == "viewer"
    await laptop.croft("sign-out")
    await context.close()


@pytest.mark.parametrize("way", ["browser", "code"])
async def test_turned_away(booth: Booth, laptop: Laptop, way: str) -> None:
    context = await signed_in(booth, "viewer")
    extra = ["--no-browser"] if way == "code" else []
    process = await laptop.start("sign-in", booth.address, *laptop.ca, *extra, "--json")
    page = await context.new_page()
    if way == "browser":
        await page.goto(await told(process, r"https://\S+/connect\?\S+"))
    else:
        typed = await told(process, r"\b[A-Z]{4}-[A-Z]{4}\b")
        await page.goto(f"{booth.address}/connect/code")
        await page.fill("input[name=code]", typed)
        await page.click("main button.main")
    await page.click("button[value=deny]")
    _, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 1
    assert json.loads(err.decode().strip().splitlines()[-1])["error"]["code"] == "grant_refused"
    assert booth.front.api_tokens.of() == []
    assert not laptop.file.exists()
    await context.close()


async def test_with_a_token_and_typos(booth: Booth, laptop: Laptop) -> None:
    _, text = await make(booth.front)
    wrong = text[:-1] + ("A" if text[-1] != "A" else "B")
    code, _, err = await laptop.croft("sign-in", booth.address, *laptop.ca, "--with-token", said=wrong)
    assert (code, json.loads(err)["error"]["code"]) == (1, "token_typo")
    code, answer, _ = await laptop.croft("sign-in", booth.address, *laptop.ca, "--with-token", said=text + "\n")
    assert (code, answer["email"]) == (0, "admin@example.org")
    code, _, _ = await laptop.croft("sign-in", booth.address, *laptop.ca, "--with-token", said=text + "\n")
    assert code == 0, "signing in again with the same token does not revoke it"
    laptop.file.chmod(0o640)
    code, _, err = await laptop.croft("status")
    assert (code, json.loads(err)["error"]["code"]) == (1, "hosts_file")
    laptop.file.chmod(0o600)
    await booth.front.api_tokens.revoke(booth.front.api_tokens.of(), "test")
    code, _, err = await laptop.croft("status")
    assert (code, json.loads(err)["error"]["code"]) == (1, "token_refused")
    code, left, _ = await laptop.croft("sign-out")
    assert (code, left["revoked"]) == (0, True)


async def test_a_token_that_could_not_be_kept_costs_nobody_the_one_before(
    booth: Booth, laptop: Laptop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk: who cannot keep the new token must still have the old one."""
    _, first = await make(booth.front, "first")
    _, second = await make(booth.front, "second")
    assert (await laptop.croft("sign-in", booth.address, *laptop.ca, "--with-token", said=first))[0] == 0

    def full(host: hosts.Host) -> None:
        raise hosts.HostsUnusable("no space left")

    monkeypatch.setattr(hosts, "keep", full)
    monkeypatch.setattr(laptop_verbs, "_token_from_input", lambda: second)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(laptop.folder))
    args = argparse.Namespace(url=booth.address, with_token=True, ca=laptop.ca[1], fingerprint="")
    with pytest.raises(hosts.HostsUnusable):
        await asyncio.to_thread(laptop_verbs.sign_in, args, booth.front.settings, None)
    code, answer, _ = await laptop.croft("status")
    assert code == 0, answer
    await booth.front.api_tokens.revoke(booth.front.api_tokens.of(), "test")


async def make(front: Front, name: str = "made") -> tuple[Any, str]:
    from appliance.identity.api_tokens import checked
    from appliance.identity.users import Role

    user = await screens.member(front, "admin")
    return await front.api_tokens.create(user, checked(name, ["read", "people"], 1, Role.admin), user.id, "page")


async def test_no_certificate_is_taken_on_faith(booth: Booth, laptop: Laptop) -> None:
    """Without anybody to compare, with a wrong fingerprint, with another's certificate: refused before a token is sent."""
    _, text = await make(booth.front)
    token = booth.front.api_tokens.of()[0]
    for words in (("--fingerprint", "00:" * 31 + "00"), ()):
        code, _, err = await laptop.croft("sign-in", booth.address, "--with-token", *words, said=text + "\n")
        assert (code, json.loads(err)["error"]["code"]) == (1, "untrusted")
    other = laptop.folder / "other.pem"
    other.write_text(ssl.DER_cert_to_PEM_cert(b"\x30\x03\x02\x01\x01"))
    code, _, err = await laptop.croft("sign-in", booth.address, "--with-token", "--ca", str(other), said=text + "\n")
    assert (code, json.loads(err)["error"]["code"]) == (1, "untrusted")
    assert token.used_at is None
    assert not laptop.file.exists()
    right = remote.fingerprint(booth.front.settings.paths.proxy_root.read_text())
    code, _, _ = await laptop.croft("sign-in", booth.address, "--with-token", "--fingerprint", right, said=text + "\n")
    assert code == 0
    assert hosts.origin_of(booth.address) in laptop.file.read_text()
    assert laptop.file.read_text().count("BEGIN CERTIFICATE") == 1
    assert (await laptop.croft("status"))[0] == 0
    assert (await laptop.croft("tokens", "revoke", token.id))[0] == 0


async def test_a_second_certificate_in_the_answer_is_not_trusted() -> None:
    one, two = (ssl.DER_cert_to_PEM_cert(byte * 8) for byte in (b"a", b"b"))
    assert remote.fingerprint(one + two) == remote.fingerprint(one)
    assert ssl.DER_cert_to_PEM_cert(remote._der(one + two)) == one


async def test_the_ear_takes_our_state_alone() -> None:
    """What listens on the laptop: other states, hosts and methods do not end the wait and are told nothing."""
    from appliance.verbs.loopback import Listener

    with Listener("right" * 5, "https://croft.localhost/connect/done") as ear:
        waiting = asyncio.create_task(asyncio.to_thread(ear.wait, 20))
        host = f"127.0.0.1:{ear.port}"
        good = f"/?state={'right' * 5}&code=abc"
        for head in (
            f"GET /?state=wrong&code=evil HTTP/1.1\r\nHost: {host}",
            f"GET {good} HTTP/1.1\r\nHost: evil.example:{ear.port}",
            f"POST {good} HTTP/1.1\r\nHost: {host}",
            f"GET {good}&state=x HTTP/1.1\r\nHost: {host}",
            f"GET /favicon.ico HTTP/1.1\r\nHost: {host}",
            "\x00\xff",
        ):
            assert b" 404 " in await asyncio.to_thread(_say, ear.port, head)
        assert not waiting.done()
        answer = await asyncio.to_thread(_say, ear.port, f"GET {good} HTTP/1.1\r\nHost: {host}")
        assert b"Location: https://croft.localhost/connect/done" in answer
        assert await waiting == "abc"


def _say(port: int, head: str) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(head.encode("latin-1") + b"\r\n\r\n")
        return client.recv(4096)


@pytest.mark.parametrize(
    "typed",
    [
        "http://x.example",
        "https://user@x.example",
        "https://x.example/path",
        "https://",
        "ftp://x",
        "https://x y",
        "https://x:99999",
        "https://[::1]:8443",
    ],
)
async def test_only_https_addresses_are_taken(typed: str) -> None:
    with pytest.raises(Invalid):
        hosts.origin_of(typed)


async def test_a_browser_that_stays_holds_nothing_of_ours(tmp_path: Path) -> None:
    """`answer=$(croft sign-in --json ...)` ends with the command, and holds its answer alone."""
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "noise $1"\necho $$ > {tmp_path}/pid\nexec sleep 60\n')
    browser.chmod(0o755)
    code = "from appliance.verbs.laptop import _open_browser; _open_browser('https://a.example/'); print('answer')"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        code,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(CHECKOUT), "BROWSER": f"{browser} %s &"},
    )
    said = await asyncio.wait_for(process.communicate(), 30)
    await until((tmp_path / "pid").exists, "the browser runs")
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
    assert said == (b"answer\n", b"")


async def test_an_empty_certificate_is_not_every_public_authority(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    with pytest.raises(remote.Untrusted):
        laptop_verbs._authority("https://a.example", argparse.Namespace(ca=str(tmp_path / "ca.pem"), fingerprint=None))


async def test_names_of_appliances_are_understood() -> None:
    assert hosts.origin_of("croft.example.org") == "https://croft.example.org"
    assert hosts.origin_of("https://Croft.Example.org:443/") == "https://croft.example.org"
    assert hosts.origin_of("https://مثال.example:8443") == "https://xn--mgbh0fb.example:8443"


async def test_the_file_round_trips_what_people_are_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    kept = hosts.Host("https://a.example", "croft_api_x", "id", 'so"me\\one@مثال.example', 1e9, "-----BEGIN\nx\n")
    hosts.keep(kept)
    hosts.keep(hosts.Host("https://b.example", "t", "i", "e", 2.0))
    assert hosts.find("a.example") == kept
    with pytest.raises(CroftError, match="not clear"):
        hosts.find("")
    hosts.forget("https://b.example")
    assert hosts.find("") == kept
    for damage in ("x = [", '["https://a.example"]\ntoken = 3', "a = 1"):
        hosts.path().write_text(damage)
        with pytest.raises(hosts.HostsUnusable):
            hosts.find("")
    hosts.path().unlink()
    hosts.path().symlink_to("/etc/passwd")
    with pytest.raises(hosts.HostsUnusable):
        hosts.find("")


async def test_making_one_in_the_browser(booth: Booth) -> None:
    """Shown once; reloading makes no second one; the examples hold it; the list shows it; revoking takes it away."""
    context = await signed_in(booth, "admin")
    page: Page = await context.new_page()
    await page.goto(f"{booth.address}/account/tokens/new")
    await page.fill("#name", "backup")
    await page.check("input[name=scope_audit]")
    await page.select_option("#days", "90")
    await page.click("main button.main")
    text = await page.inner_text(".copy code >> nth=0")
    assert booth.front.api_tokens.check(text) is not None
    assert f"Bearer {text}" in await page.inner_text("main")
    made = Screen("token-made", page.url)
    for size in ("phone", "wide"):
        await screens.in_size(page, "token-made.en", size)
        assert await screens.look(page, made, size) + await screens.ask_axe(page, booth.axe) == []
    page.on("dialog", lambda dialog: dialog.accept())
    await page.reload()
    assert "of this name already" in await page.inner_text("main")
    await page.goto(f"{booth.address}/account/tokens")
    assert text not in await page.content()
    assert "backup" in await page.inner_text("table")
    await page.click("tr[data-token] button")
    await page.click("#confirm button[value=yes]")
    await page.wait_for_selector("tr[data-token]", state="detached")
    assert booth.front.api_tokens.check(text) is None
    await context.close()


async def test_without_scripts(booth: Booth) -> None:
    context = await booth.browser.new_context(locale="ar", java_script_enabled=False)
    cookie = await screens.sign_in(booth.front, "viewer")
    await context.add_cookies([{"name": COOKIE, "value": cookie, "url": booth.address, "secure": True}])
    page = await context.new_page()
    await page.goto(f"{booth.address}/account/tokens/new")
    await page.fill("#name", "نسخ احتياطي")
    await page.click("main button.main")
    assert "croft_api_" in await page.inner_text(".copy code >> nth=0")
    await page.goto(f"{booth.address}/account/tokens")
    await page.click("tr[data-token] button")
    await page.wait_for_url(f"{booth.address}/account/tokens")
    assert booth.front.api_tokens.of((await screens.member(booth.front, "viewer")).id) == []
    await context.close()
