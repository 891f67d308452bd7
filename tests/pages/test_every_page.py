"""Every page of the interface: one row a page, each seen in both languages, themes and sizes, by keyboard, and at 200 %.

A new page joins by its row; a page that has none fails a test. Pictures go to tests/.artifacts/screens and are looked at before
a change of the pages is called done.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from urllib.parse import quote

import pytest
import pytest_asyncio
from msgspec.structs import replace
from playwright.async_api import Browser
from support import screens
from support.front import Front
from support.screens import EVIL, EVIL_NAME, Booth, Screen
from support.tiny_model import tiny_model

from appliance.assistant import choice
from appliance.commands.asker import Asker
from appliance.commands.history import Outcome, Run, State
from appliance.commands.leases import Leases, Terms
from appliance.commands.model import Actor, Limits, Verdict
from appliance.commands.output import STDERR, STDOUT
from appliance.commands.recording import Output
from appliance.commands.runbooks import Book, Parameter
from appliance.commands.tokenizer import joined
from appliance.identity.api_tokens import checked
from appliance.identity.hints import FIRST_RUN
from appliance.identity.sign_in import Caller
from appliance.identity.users import Role
from appliance.messages import Message
from webui import routes
from webui.handlers.welcome import STEPS

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]


ELSEWHERE = Caller("203.0.113.9", "test")


async def a_login_link(front: Front) -> dict[str, str]:
    """A sign-in link nobody has used."""
    secret, _, _ = await front.links.create(await screens.member(front, "operator"), "console")
    return {"secret": secret}


async def a_setup_link(front: Front) -> dict[str, str]:
    """The link the first owner gets."""
    secret, _, _ = await front.links.create(None, "console")
    return {"secret": secret}


async def a_mailed_link(front: Front) -> dict[str, str]:
    """What a sign-in mail leads to."""
    asked = await front.mailed.ask((await screens.member(front, "operator")).email, ELSEWHERE, "", remember=False)
    return {"secret": asked.link}


async def an_invitation(front: Front) -> dict[str, str]:
    """Open, by somebody with a hostile name, with a hostile note; the one before it is withdrawn."""
    admin = next(user for user in await front.users.all() if user.role is Role.admin)
    for one in await front.invitations.all():
        if one.state == "open":
            await front.invitations.revoke(one.id, "test")
    note = f"أهلًا {screens.EVIL_NAME}\nSee you on Monday."
    _, secret = await front.invitations.create("ليلى@مثال.إختبار", Role.operator, admin, admin.id, note=note)
    return {"secret": secret}


async def a_member(front: Front) -> dict[str, str]:
    await several_sessions(front)
    return {"id": (await screens.member(front, "viewer")).id}


async def several_sessions(front: Front) -> None:
    """Other people signed in, one with a browser whose name is an attack."""
    if len(front.sessions.of(None)) < 12:
        await screens.sign_in(front, "viewer", EVIL, "203.0.113.77")


async def several_tokens(front: Front) -> None:
    """One that works, one about to end, one that has ended, of several people; with words that look like an attack."""
    for role, name, days in (("admin", screens.EVIL_NAME, 30), ("admin", "نسخ احتياطي", 3), ("viewer", "مراقبة", 90)):
        user = await screens.member(front, role)
        if name not in {token.name for token in front.api_tokens.of(user.id)}:
            scopes = ["read", "services", "commands", "people"] if days == 30 else ["read"]
            wanted = checked(name, scopes, days, Role.admin, screens.EVIL_NAME if days == 30 else "")
            token, _ = await front.api_tokens.create(user, wanted, user.id, "page")
            front.api_tokens.used(token, "2001:db8::1")
            if name == "مراقبة":
                token.expires_at = front.clock.now() - 60


ASKING = "port=50000&state=aaaaaaaaaaaaaaaaaaaaaaaa&challenge=" + "A" * 43 + "&name={name}&scopes=read+services&days=30"


async def just_proved(front: Front) -> None:
    """A proof of identity that is fresh, however long the tour has taken."""
    for session in front.sessions.of(None):
        session.proved = front.clock.uptime()


async def a_name(front: Front) -> dict[str, str]:
    """A program that calls itself something hostile."""
    await just_proved(front)
    return {"name": quote(screens.EVIL_NAME)}


async def ways_in_of_the_admin(front: Front) -> None:
    """Two passkeys, one with an attack for a name and a copy somewhere, three codes left, and a device that attacks too."""
    user, database = await screens.member(front, "admin"), front.store.database
    if await front.passkeys.of(user.id):
        return
    for number, (name, suspect) in enumerate((("حاسوب العمل", None), (EVIL_NAME, front.clock.now()))):
        await database.execute(
            "INSERT INTO passkeys VALUES (?, ?, ?, x'', 0, ?, '[]', ?, ?, NULL, ?)",
            (f"key{number}", bytes([number]), user.id, name, number, front.clock.now() - 90_000, suspect),
        )
    await front.recovery.replace(user)
    await database.execute("DELETE FROM recovery_codes WHERE hash NOT IN (SELECT hash FROM recovery_codes LIMIT 3)")
    await screens.sign_in(front, "admin", EVIL)


def first_run(step: str) -> screens.Seed:
    """The first run, at one of its screens."""

    async def seed(front: Front) -> None:
        await front.hints.keep(await screens.member(front, "admin"), FIRST_RUN, step)

    return seed


async def an_evil_record(front: Front) -> None:
    """A record whose details are an attack."""
    await front.audit.note("access.denied", "anyone", route=EVIL)


# What a hostile program writes: markup, links and titles for a terminal, letters that turn the line, one line of a megabyte.
WROTE = (
    EVIL.encode()
    + b"\n\x1b]8;;javascript:alert(1)\x07click\x1b]8;;\x07\x1b]0;title\x07 \x1b[31mred\x1b[0m \x1b[2J\x9b2Jend\n"
    + "السلام عليكم \u202egnp.exe\n".encode()
    + b"x" * (1 << 20)
    + b"\nlast line\n"
)


async def some_runs(front: Front) -> dict[str, str]:
    """One that waits, asked for by somebody hostile; one that failed and wrote as badly as it could; one with a lease."""
    user, database = await screens.member(front, "viewer"), front.store.database
    asker = Asker(Actor.HUMAN, "viewer", user.id, screens.EVIL_NAME)
    words = (("git", "commit", "-m", EVIL_NAME, "", "فحص قبل الدمج"),)
    made = Run(
        "run-waits", State.WAITING, asker, "workspace", joined(words), words, words, "src/عربي", "plain", EVIL, Verdict.ASK,
        "git-commit", Message("policy.ask.unknown", {"program": EVIL_NAME}), Limits(), "digest", "shape", front.clock.now(),
        front.clock.uptime(), front.store.boot_id, hash="ab" * 32, leasable=True,
    )  # fmt: skip
    failed = replace(
        made, id="run-failed", state=State.FAILED, started_at=front.clock.now(), ended_at=front.clock.now(), decided_by="زياد",
        outcome=Outcome(1, None, "exit", seconds=2.5, stdout_bytes=len(WROTE), truncated=True),
    )  # fmt: skip
    history = front.commands.history
    async with database.transaction() as tx:
        await tx.execute("DELETE FROM runs")
        await tx.execute("DELETE FROM leases")
        for run in (made, failed):
            await history.add(tx, run)
        await Leases(database, front.clock, front.store.boot_id).give(
            tx, Terms(5, 30), digest="cd" * 32, account="user:x", name=screens.EVIL_NAME, line=EVIL, cwd="src", run="run-failed",
            by="Salma Haddad", giver="nobody",
        )  # fmt: skip
    history.folder.mkdir(exist_ok=True)
    history.output("run-failed").unlink(missing_ok=True)
    output = Output(history.output("run-failed"), 4 << 20)
    output.feed(STDOUT, WROTE)
    output.feed(STDERR, b"error: " + EVIL.encode())
    output.end()
    await output.ended()
    return {"id": "run-failed"}


JOBS = (
    ("job-1", "model.pull", "llama-3.2-3b-instruct", "paused", "downloading", 820_000_000, 2_019_373_920, "", ""),
    ("job-2", "model.pull", EVIL_NAME, "failed", "checking", 0, 0, "wrong_hash", f"the file has another sha256 {EVIL}"),
    ("job-3", "model.measure", "tiny", "done", "measuring", 300, 512, "", ""),
)


async def several_models(front: Front) -> None:
    """One in use, one on its way, one that failed, and a file that somebody put there."""
    models = front.settings.paths.state / "models"
    if (models / "tiny.gguf").exists():
        return
    models.mkdir(exist_ok=True)
    for name in ("tiny", "found"):
        tiny_model(models, name=name)
    size, now = (models / "tiny.gguf").stat().st_size, front.clock.now()
    async with front.store.database.transaction() as tx:
        await tx.execute(
            "INSERT INTO models VALUES ('tiny.gguf', 'tiny', ?, ?, '', ?, 11.25, ?, ?)",
            ("0" * 64, size, now, now, '{"passed": 5, "total": 8, "tasks": {}}'),
        )
        for number, (job, kind, subject, state, phase, current, total, code, cause) in enumerate(JOBS):
            await tx.execute(
                "INSERT INTO jobs VALUES (?, ?, ?, '{}', 'console', ?, ?, ?, ?, 1, ?, ?, '{}', ?, ?, ?)",
                (job, kind, subject, state, phase, current, total, code, cause, now, now, now - number),
            )
        await tx.execute("UPDATE jobs SET ended_at = NULL WHERE state = 'paused'")
    choice.write(models, choice.Choice("tiny", "tiny.gguf", 512))


# What a hostile model answers: markup, scripts, links and images that would ask for something; Arabic with code in it; a wide table.
SAID = f"""{EVIL}

[click](javascript:window.pwned=1) ![i](https://evil.example/x.png) <https://example.org>

يمكنك استعمال `Counter` من وحدة `collections`، كما في src/عربي.py:12 أدناه.

```python
# احسب الطلبات
print("{EVIL_NAME.replace('"', "'")}")  # سطر سطر
```

1. أولًا:
   ```sh
   git status
   ```

| Status | {"Wide " * 12} |
|---|---:|
| 200 | 9,120 |
"""


async def some_conversations(front: Front) -> dict[str, str]:
    """One with everything an answer may hold, pinned; one that failed; one whose name is an attack."""
    owner, store = (await screens.member(front, "admin")).id, await front.conversations.get()
    kept = (await store.page(owner)).conversations
    if kept:
        return {"id": kept[0].id}
    chips = [{"kind": "file", "path": EVIL, "text": "x"}, {"kind": "selection", "text": "y"}]
    steps = [{"n": 1, "tool": "read_file", "about": EVIL, "state": "done", "note": ""}]
    usage = {"completion_tokens": 312, "seconds": 14, "context": 4096, "context_used": 1240}
    made = await store.create(owner, screens.EVIL_NAME)
    first = await store.add(made, None, "user", f"كيف أعدّ الطلبات؟\n{EVIL}", context=chips)
    await store.add(made, first.id, "assistant", "Another answer.", model="tiny")
    answer = await store.add(made, first.id, "assistant", SAID, model=EVIL_NAME, usage=usage, steps=steps)
    again = await store.add(made, answer.id, "user", "And in English?")
    await store.add(
        made, again.id, "assistant", "It begins,", state="failed", usage={"error": {"message": EVIL, "code": "x"}}
    )
    await store.pin(made, True)
    await store.create(owner, "ترتيب السجلات حسب التاريخ")
    return {"id": made.id}


async def the_policy(front: Front) -> None:
    """The packaged rules, in force and with a version."""
    await front.policy_file.open()


async def a_runbook(front: Front) -> None:
    """One with hostile words and one of every kind of parameter."""
    parameters = (Parameter("branch", "word", screens.EVIL_NAME), Parameter("level", "enum(low,high)", "المستوى"))
    titles, abouts = {"en": screens.EVIL_NAME, "ar": "سجل الفرع"}, {"en": "Shows what a branch holds.", "ar": ""}
    asker = Asker(Actor.HUMAN, "admin", (await screens.member(front, "admin")).id, "admin", session="test")
    await front.runbooks.save(Book("branch-log", "git log {branch} {level}", titles, abouts, parameters), asker)
    await front.runbooks.save(Book("nightly", "git fsck", {"en": "Check"}, {}, schedule="weekly 1 03:30"), asker)


# name, path, who looks, what it needs. Keep one row a line.
# fmt: off
SCREENS: tuple[Screen, ...] = (
    Screen("sign-in", "/sign-in", role=""),
    Screen("sign-in-first", "/sign-in", role="", world="fresh"),
    Screen("link", "/sign-in/link?t={secret}", role="", seed=a_login_link),
    Screen("link-setup", "/sign-in/link?t={secret}", role="", seed=a_setup_link, world="fresh"),
    Screen("link-gone", "/sign-in/link?t=used", role=""),
    Screen("code", "/sign-in/code", role=""),
    Screen("mailed-link", "/sign-in/mailed?t={secret}", role="", seed=a_mailed_link),
    Screen("invitation", "/invitation?t={secret}", role="", seed=an_invitation, shows=("{{7*7}}",)),
    Screen("invitation-gone", "/invitation?t=used", role=""),
    Screen("not-found", "/nowhere", status=404),
    Screen("forbidden", "/workspace", role="viewer", status=403),
    Screen("home", "/"),
    Screen("home-viewer", "/", role="viewer"),
    Screen("workspace", "/workspace"),
    Screen("assistant", "/assistant", seed=some_conversations, shows=(screens.EVIL_NAME,)),
    Screen("assistant-search", "/assistant?q=collections", seed=some_conversations, shows=("collections",)),
    Screen("assistant-viewer", "/assistant", role="viewer"),
    Screen("conversation", "/assistant/{id}", seed=some_conversations, shows=("<script>window.pwned=1</script>", "احسب الطلبات")),
    Screen("machine", "/machine"),
    Screen("models", "/machine/models", seed=several_models, shows=(EVIL_NAME, "found.gguf")),
    Screen("models-viewer", "/machine/models", role="viewer", seed=several_models),
    Screen("models-none", "/machine/models", world="fresh"),
    Screen("jobs", "/machine/jobs", seed=several_models, shows=(EVIL_NAME,)),
    Screen("jobs-none", "/machine/jobs", world="fresh"),
    Screen("tools", "/machine/tools", role="operator"),
    Screen("logs", "/machine/logs/ide", role="operator", shows=("</script>",)),
    Screen("people", "/people", seed=several_sessions, shows=(screens.EVIL_NAME,)),
    Screen("person", "/people/{id}", seed=a_member, shows=(screens.EVIL_NAME,)),
    Screen("invitations", "/people/invitations", seed=an_invitation, shows=("{{7*7}}",)),
    Screen("recovery", "/sign-in/recovery", role=""),
    Screen("account", "/account", seed=ways_in_of_the_admin, shows=(EVIL_NAME, "حاسوب العمل")),
    Screen("account-empty", "/account", role="operator"),
    Screen("account-start", "/account/start", role="operator"),
    *(Screen(f"welcome-{step}", "/welcome", seed=first_run(step)) for step in STEPS),
    Screen("commands", "/commands", seed=some_runs, shows=(EVIL_NAME,)),
    Screen("commands-none", "/commands?q=nothing-like-this"),
    Screen("commands-viewer", "/commands", role="viewer", seed=some_runs, shows=(EVIL_NAME,)),
    Screen("approvals", "/commands/approvals", seed=some_runs, shows=(EVIL_NAME, "فحص قبل الدمج", "U+202E")),
    Screen("approvals-viewer", "/commands/approvals", role="viewer", seed=some_runs, shows=(EVIL_NAME,)),
    Screen("run", "/commands/{id}", seed=some_runs, shows=("السلام عليكم", "<script>")),
    Screen("run-waiting", "/commands/run-waits", role="operator", seed=some_runs, shows=("U+202E",)),
    Screen("policy", "/policy?line=git+status+--evil", seed=the_policy, shows=("--evil",)),
    Screen("policy-viewer", "/policy", role="viewer", seed=the_policy),
    Screen("runbooks", "/commands/runbooks", seed=a_runbook, shows=("git log {branch} {level}",)),
    Screen("runbook", "/commands/runbooks/branch-log", seed=a_runbook, shows=(screens.EVIL_NAME,)),
    Screen("runbook-new", "/commands/runbooks/new", role="operator"),
    Screen("runbook-edit", "/commands/runbooks/nightly/edit", seed=a_runbook),
    Screen("settings", "/settings"),
    Screen("privacy", "/settings/privacy", shows=("Open VSX",)),
    Screen("audit", "/audit", seed=an_evil_record, shows=("<img src=x onerror=window.pwned=1>",)),
    Screen("audit-none", "/audit?q=nothing-like-this"),
    Screen("audit-checked", "/audit?verify=1&event=sign-in"),
    Screen("sessions", "/sessions", seed=several_sessions, shows=("viewer@example.org",)),
    Screen("tokens", "/account/tokens", seed=several_tokens, shows=(screens.EVIL_NAME,)),
    Screen("tokens-none", "/account/tokens", role="operator"),
    Screen("tokens-all", "/people/tokens", seed=several_tokens, shows=("viewer@example.org", screens.EVIL_NAME)),
    Screen("tokens-new", "/account/tokens/new", seed=just_proved),
    Screen("connect", "/connect?" + ASKING, seed=a_name, shows=(screens.EVIL_NAME,)),
    Screen("connect-code", "/connect/code", seed=just_proved),
    Screen("connect-done", "/connect/done"),
)
# fmt: on

# Routes that answer a GET with something other than a page.
NOT_PAGES = re.compile(
    r"/(api/|static/|account/data|assistant/[^/]+/export|ca\.pem|healthz|readyz|metrics|audit/export|favicon\.ico|manifest\.webmanifest|v1/)|.*\.(txt|csv|jsonl|json)$"
)


def test_every_page_has_its_row() -> None:
    pages = [route.path for route in routes.UI if route.method == "GET" and not NOT_PAGES.match(route.path)]
    shown = [screen.path.split("?")[0] for screen in SCREENS]
    patterns = {path: re.compile(re.sub(r"\{[^}]+\}", "[^/]+", path) + r"\Z") for path in pages}
    assert [path for path, pattern in patterns.items() if not any(map(pattern.match, shown))] == []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def opened() -> AsyncIterator[Browser]:
    async with screens.chromium() as browser:
        yield browser


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worlds(opened: Browser) -> AsyncIterator[dict[str, Booth]]:
    async with screens.booth(opened, '[mail]\nhost = "localhost"\n') as lived, screens.booth(opened) as fresh:
        await screens.sign_in(lived.front, "admin")
        yield {"lived": lived, "fresh": fresh}


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("screen", SCREENS, ids=lambda screen: screen.name)
async def test_page(worlds: dict[str, Booth], screen: Screen) -> None:
    """WEB-3, WEB-4, PRV-5: no violation, no script from data, nothing from outside; axe finds nothing; no page is too wide,
    cut off at 200 % or closed to the keyboard."""
    booth, found = worlds[screen.world], []
    for lang in ("en", "ar"):
        page = await booth.visit(screen, lang)
        try:
            for size in ("wide", "phone"):
                await screens.in_size(page, f"{screen.name}.{lang}", size)
                faults = await screens.look(page, screen, size)
                # axe takes most of the time: these two hold every theme, language and size once.
                if (lang, size) in (("en", "wide"), ("ar", "phone")):
                    await screens.in_theme(page, "light" if lang == "en" else "dark")
                    faults += await screens.ask_axe(page, booth.axe)
                found += [f"{lang} {size}: {fault}" for fault in faults]
            if lang == "en":
                found += await screens.zoom(page) + await screens.keyboard(page)
        finally:
            await page.close()
    # A page whose own answer is an error makes the browser report just that.
    assert found + [text for text in booth.told() if screen.status < 400 or str(screen.status) not in text] == []
