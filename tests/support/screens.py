"""Every page in a real browser: the real web application behind TLS, looked at in all the ways people look at it.

A page is one row (:class:`Screen`) of the table in tests/pages/test_every_page.py. Rule: nothing here knows a page; what is
true of one page alone belongs into its own test.
"""

from __future__ import annotations

import asyncio
import base64
import datetime
import functools
import hashlib
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, async_playwright

from appliance.clock import SystemClock
from appliance.identity.sign_in import Caller
from appliance.identity.users import Role, User
from support.appliance import free_port
from support.browser import FLAGS
from support.front import Front, front
from webui.guard import COOKIE

CHECKOUT = Path(__file__).resolve().parents[2]
PICTURES = CHECKOUT / "tests/.artifacts/screens"
AXE_VERSION = "4.14.1"
HOST = "croft.localhost"

# Text that would run, break out of its element, or reorder its line, wherever a page forgot to treat it as text.
EVIL = """<img src=x onerror=window.pwned=1>"'></script><script>window.pwned=1</script>{{7*7}}\u202egnp.exe\u2066"""
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
# Chromium says this of every such frame; the editor is of another origin, so it cannot reach its own element.
SANDBOX_NOTE = "An iframe which has both allow-scripts and allow-same-origin"
# What of it passes as a person's name: visible, up to 80 characters.
EVIL_NAME = """<img src=x onerror=window.pwned=1>"'></script>{{7*7}}"""
# Who looks, by role.
PEOPLE = {"admin": "Salma Haddad", "operator": "زياد النجار", "viewer": EVIL_NAME}

Seed = Callable[[Front], Awaitable[dict[str, str] | None]]


async def nothing(front: Front) -> None:
    """The seed of a page that needs none."""


@dataclass(frozen=True)
class Screen:
    """One page. ``seed`` prepares the store (it may run several times) and may give what fills ``{...}`` in ``path``;
    ``role`` is who looks, "" nobody signed in; ``shows`` must be readable on the page, word for word; ``world`` is ``lived``
    (people, sessions, history) or ``fresh`` (nobody yet)."""

    name: str
    path: str
    role: str = "admin"
    seed: Seed = nothing
    shows: tuple[str, ...] = ()
    status: int = 200
    world: str = "lived"


@dataclass
class Booth:
    """A browser before one running front. ``address`` is its origin; ``faults`` collects what pages may not do."""

    front: Front
    browser: Browser
    address: str
    axe: str
    faults: list[str] = field(default_factory=list)
    _contexts: dict[tuple[str, str], BrowserContext] = field(default_factory=dict)

    async def visit(self, screen: Screen, lang: str) -> Page:
        """A fresh tab that shows the screen, signed in as its role; wide and light."""
        filled = await screen.seed(self.front) or {}
        context = await self._context(screen.role, lang)
        page = await context.new_page()
        page.set_default_timeout(20_000)
        address = self.address + screen.path.format(**filled)
        answer = await page.goto(address, wait_until="load")
        # A container that starts elsewhere on this machine changes its network, and Chromium drops what it was loading.
        while any("ERR_NETWORK_CHANGED" in fault for fault in self.faults):
            self.faults.clear()
            answer = await page.goto(address, wait_until="load")
        assert answer is not None
        if answer.status != screen.status:
            self.faults.append(f"status {answer.status} at {page.url}")
        await page.evaluate("document.fonts.ready.then(() => 0)")
        return page

    def told(self) -> list[str]:
        """What pages did that they may not, since the last call."""
        found, self.faults = self.faults, []
        return found

    async def _context(self, role: str, lang: str) -> BrowserContext:
        found = self._contexts.get((role, lang))
        if found is None:
            found = await self.browser.new_context(
                viewport=SIZES["wide"], locale=lang, color_scheme="light", reduced_motion="reduce"
            )
            await self._watch(found)
            if role:
                cookie = {"name": COOKIE, "value": await sign_in(self.front, role), "url": self.address, "secure": True}
                await found.add_cookies([cookie | {"httpOnly": True, "sameSite": "Strict"}])  # type: ignore[arg-type]
            self._contexts[role, lang] = found
        return found

    async def _watch(self, context: BrowserContext) -> None:
        """Collect violations of the policy, errors, and requests that leave the appliance (WEB-3, WEB-4, PRV-5)."""
        ide = self.front.settings.ide_origin
        await context.add_init_script(
            "addEventListener('securitypolicyviolation', (e) => console.error('CSP', e.violatedDirective, e.sample))"
        )
        context.on("console", self._heard)
        context.on("weberror", lambda error: self.faults.append(str(error.error)))
        context.on(
            "request",
            lambda request: request.url.startswith((self.address, ide)) or self.faults.append(f"asked {request.url}"),
        )

    def _heard(self, said: ConsoleMessage) -> None:
        # Behind the editor's host there is no editor here; the hand-over to it has tests of its own.
        from_editor = said.location.get("url", "").startswith(self.front.settings.ide_origin)
        if said.type in ("error", "warning") and not from_editor and not said.text.startswith(SANDBOX_NOTE):
            self.faults.append(said.text)

    async def close(self) -> None:
        for context in self._contexts.values():
            await context.close()


THEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
SIZES: dict[str, Any] = {"wide": {"width": 1280, "height": 800}, "phone": {"width": 390, "height": 844}}


async def member(made: Front, role: str) -> User:
    """The person with ``role``, made once."""
    email = f"{role}@example.org"
    for user in await made.users.all():
        if user.email == email:
            return user
    return await made.users.create(email, PEOPLE[role], Role[role], "test")


async def sign_in(made: Front, role: str, agent: str = FIREFOX, address: str = "203.0.113.4") -> str:
    """The cookie of a new session, got by a link as people get it."""
    for each in PEOPLE:
        await member(made, each)
    secret, _, _ = await made.links.create(await member(made, role), "console")
    return (await made.sign_in.by_link(secret, Caller(address, agent), remember=False)).cookie


@asynccontextmanager
async def booth(browser: Browser, settings: str = "") -> AsyncIterator[Booth]:
    """A front of its own behind TLS, and the browser before it. ``settings`` is TOML added to croft.toml."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="croft-booth-")))
        port = free_port()
        (folder / "etc").mkdir()
        (folder / "etc/croft.toml").write_text(f"[proxy]\nhttps_port = {port}\n{settings}")
        made = await stack.enter_async_context(front(folder, SystemClock()))
        yield await stack.enter_async_context(booth_of(made, browser))


@asynccontextmanager
async def booth_of(made: Front, browser: Browser) -> AsyncIterator[Booth]:
    """A running front, put behind TLS on the port of its settings, and the browser before it."""
    port = made.settings.proxy_https_port
    await web.TCPSite(made.runner, "127.0.0.1", port, ssl_context=_tls(made.folder)).start()
    opened = Booth(made, browser, made.settings.ui_origin, await asyncio.to_thread(axe_source))
    try:
        yield opened
    finally:
        await opened.close()


def trust() -> str:
    """The flag that makes Chromium trust the booths' certificate as it would a real one."""
    return f"--ignore-certificate-errors-spki-list={_certificate()[1]}"


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """One browser for all booths. It trusts their certificate as it would a real one: it keeps what may be kept."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path="/usr/bin/chromium", args=[*FLAGS, trust()])
        try:
            yield browser
        finally:
            await browser.close()


@functools.cache
def _certificate() -> tuple[bytes, str]:
    """Key and certificate of every booth as PEM, and the hash of its public key as Chromium wants it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST), x509.DNSName(f"ide.{HOST}")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    pin = base64.b64encode(hashlib.sha256(public).digest()).decode()
    return private + made.public_bytes(serialization.Encoding.PEM), pin


def _tls(folder: Path) -> ssl.SSLContext:
    file = folder / "front.pem"
    file.write_bytes(_certificate()[0])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)
    return context


def axe_source() -> str:
    """The source of axe-core, installed once into the checkout's cache."""
    return npm("axe-core", AXE_VERSION, "axe.min.js").read_text("utf-8")


def npm(package: str, version: str, file: str, seconds: float = 100) -> Path:
    """A file of an npm package, installed once into the checkout's cache."""
    folder = CHECKOUT / ".cache" / f"{package}-{version}"
    found = folder / "node_modules" / package / file
    if not found.exists():
        folder.mkdir(parents=True, exist_ok=True)
        words = ["npm", "install", "--no-save", "--silent", "--prefix", str(folder), f"{package}@{version}"]
        subprocess.run(words, check=True, timeout=seconds)
    return found


# What a person would stumble over, as a list of words; [] is good. -----------------------------------------------------

_OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
# Buttons that something else lies upon: a person would press the other thing.
_COVERED = """() => [...document.querySelectorAll('main button, main a.button')].filter((item) => {
  if (!item.checkVisibility()) return false;
  const box = item.getBoundingClientRect(), x = box.left + box.width / 2, y = box.top + box.height / 2;
  if (!box.width || x < 0 || y < 0 || x > innerWidth || y > innerHeight) return false;
  const top = document.elementFromPoint(x, y);
  return top && !item.contains(top) && !top.contains(item) && top.closest('main');
}).map((item) => `covered: ${item.textContent.trim()}`)"""
# Controls below 44 px on a phone; links within text are left out.
_SMALL = """() => [...document.querySelectorAll('.button, .place, .segments button, .input, .tabs a')]
  .filter((e) => e.checkVisibility()).map((e) => [e.getBoundingClientRect(), e.outerHTML.slice(0, 120)])
  .filter(([box]) => box.height < 43.5 || box.width < 43.5)
  .map(([box, html]) => `too small: ${box.width}x${box.height} ${html}`)"""
_IN_REACH = """() => [...document.querySelectorAll('a[href], button, input, select, textarea, summary, iframe, [tabindex]')]
  .filter((e) => e.tabIndex >= 0 && !e.disabled && e.type !== 'hidden' && e.checkVisibility({visibilityProperty: true})
                 && !(e.type === 'radio' && !e.checked)).length"""
# Where the focus is after one more press of Tab: which element, and whether a person can see that it is there.
_FOCUS = """() => {
  const e = document.activeElement;
  if (!e || e === document.body) return null;
  const style = getComputedStyle(e), box = e.getBoundingClientRect();
  const field = e.parentElement ? getComputedStyle(e.parentElement) : style;
  const ring = (s) => (s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) > 0) || s.boxShadow !== 'none';
  const middle = [Math.min(Math.max(box.left + box.width / 2, 0), innerWidth - 1),
                  Math.min(Math.max(box.top + box.height / 2, 0), innerHeight - 1)];
  const top = document.elementFromPoint(...middle);
  window.focused ??= new Map();
  if (!window.focused.has(e)) window.focused.set(e, window.focused.size);
  return {id: window.focused.get(e), html: e.outerHTML.slice(0, 120), seen: ring(style) || ring(field),
          outside: box.bottom < 0 || box.right < 0 || box.top > innerHeight || box.left > innerWidth,
          under: e.matches('a, button, input, select, textarea, summary') && !!top && !e.contains(top) && !top.contains(e)};
}"""


async def look(page: Page, screen: Screen, size: str) -> list[str]:
    """What is wrong with the page as it stands: too wide, covered, too small to touch, data that ran or is missing."""
    faults = ["a script from data ran"] if await page.evaluate("window.pwned") else []
    if (over := await page.evaluate(_OVERFLOW)) > 0:
        faults.append(f"{over} px too wide")
    faults += await page.evaluate(_COVERED)
    if size == "phone":
        faults += await page.evaluate(_SMALL)
    text = await page.evaluate("document.body.innerText")
    return faults + [f"does not show {words!r}" for words in screen.shows if words not in text]


async def in_size(page: Page, name: str, size: str) -> None:
    """Bring the page to a size and keep how it looks in both themes."""
    await page.set_viewport_size(SIZES[size])
    PICTURES.mkdir(parents=True, exist_ok=True)
    for theme in THEMES:
        await in_theme(page, theme)
        await page.screenshot(path=PICTURES / f"{name}.{theme}.{size}.png")


async def in_theme(page: Page, theme: Literal["light", "dark"]) -> None:
    await page.emulate_media(color_scheme=theme)


async def ask_axe(page: Page, axe: str) -> list[str]:
    """What axe-core finds."""
    await page.evaluate(axe)
    found = await page.evaluate("axe.run({resultTypes: ['violations'], iframes: false})")
    return [f"{rule['id']}: {node['html'][:160]}" for rule in found["violations"] for node in rule["nodes"][:3]]


async def zoom(page: Page) -> list[str]:
    """200 %: half as many CSS pixels, nothing cut off, every control still there (WCAG 1.4.4)."""
    await page.set_viewport_size(SIZES["wide"])
    before = await page.evaluate(_MAIN_CONTROLS)
    await page.set_viewport_size({"width": SIZES["wide"]["width"] // 2, "height": SIZES["wide"]["height"] // 2})
    over = await page.evaluate(_OVERFLOW)
    after = await page.evaluate(_MAIN_CONTROLS)
    await page.set_viewport_size(SIZES["wide"])
    faults = [f"{over} px too wide at 200 %"] if over > 0 else []
    return faults + ([f"{before} controls, {after} at 200 %"] if after < before else [])


_MAIN_CONTROLS = """() => [...document.querySelectorAll('main a[href], main button, main input, main select')]
  .filter((e) => e.type !== 'hidden' && e.checkVisibility()).length"""


async def keyboard(page: Page) -> list[str]:
    """Tab through the page: every stop is seen and reachable, all are visited, and the way leads out again."""
    await page.evaluate("document.activeElement?.blur?.()")
    reach, seen, last, faults = await page.evaluate(_IN_REACH), set(), -1, []
    for _ in range(3 * reach + 8):  # a field for a date has several stops of its own
        await page.keyboard.press("Tab")
        stop = await page.evaluate(_FOCUS)
        if stop is not None and stop["id"] == last:
            continue
        if stop is None or stop["id"] in seen:
            break
        seen.add(last := stop["id"])
        if stop["html"].startswith("<iframe"):
            return faults  # from here on the keys are another host's
        faults += [f"focus not {word}: {stop['html']}" for word in _hidden(stop)]
    return faults + ([f"{len(seen)} of {reach} controls reached by Tab"] if len(seen) < reach else [])


def _hidden(stop: dict[str, Any]) -> list[str]:
    judged = (("shown", not stop["seen"]), ("in view", stop["outside"]), ("on top", stop["under"]))
    return [word for word, bad in judged if bad]
