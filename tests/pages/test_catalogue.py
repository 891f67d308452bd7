"""The string catalogue: both languages say the same, in every plural form, and every key asked for exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.assistant.catalogue import entries
from appliance.assistant.proposals import Kind as ProposalKind
from appliance.audit import EVENTS
from appliance.commands.history import State as RunState
from appliance.commands.model import ROLES, Actor, Effect, Scope, Verdict
from appliance.commands.rehearsal_rows import CAUSES as REHEARSAL_CAUSES
from appliance.commands.rehearsal_rows import Stage
from appliance.host.toolbox import WHY
from appliance.identity.api_tokens import SCOPES as TOKEN_SCOPES
from appliance.identity.links import Kind as LinkKind
from appliance.identity.sign_in import Way
from appliance.leaving import LEAVES
from appliance.services.model import SERVICES, Action, State
from appliance.settings import ROWS, field_of
from webui import chat
from webui.audit_words import KNOWN_ACTORS
from webui.charts import MACHINE, SERVICE, SPANS
from webui.filters import NAVIGATION, SECTIONS
from webui.handlers.audit import FAULTS
from webui.handlers.jobs import ACTIONS as ACTIONS_OF_JOBS
from webui.handlers.settings import GROUPS
from webui.handlers.welcome import STEPS
from webui.i18n import FSI, PDI, Catalogue, Translator, UnknownText, missing, plural
from webui.log_lines import SINCE
from webui.run_words import MEANINGS
from webui.tool_settings import filled_in

WEBUI = Path(__file__).parents[2] / "webui"
CATALOGUE = Catalogue.load(WEBUI / "locale", strict=True)
KINDS_OF_JOBS = ["model_pull", "model_adopt", "model_measure", "model_check"]
# Keys made from a value: every value must have its text.
FAMILIES = {
    "models.": [
        *(
            f"{action}{part}"
            for action in ("pull", "use", "remove", "measure", "check", "adopt")
            for part in ("", "_named")
        ),
        *("fit_fits", "fit_big"),
    ],
    "models.language.": sorted({code for entry in entries() for code in entry.languages}),
    "job.": [f"{action}{part}" for action in (*ACTIONS_OF_JOBS, "again") for part in ("", "_named")],
    "job.kind.": KINDS_OF_JOBS,
    "job.failed.": KINDS_OF_JOBS,
    "job.state.": ["queued", "running", "paused", "done", "failed", "cancelled"],
    "job.phase.": ["connecting", "downloading", "waiting", "checking", "starting", "measuring", "asking", "setting_up"],
    "job.why.": [
        *("error", "interrupted", "unreachable", "refused", "gone", "changed", "wrong_hash", "not_a_model"),
        *("disk_full", "disk", "unsafe_url", "model_exists", "audit_unavailable", "unavailable", "too_little"),
        *("no_rehearsal", "no_model", "no_engine", "too_small", "localai", "model_gallery_only"),
    ],
    "tools.": [
        *(f"{action}{part}" for action in ("add", "update", "remove", "cancel") for part in ("", "_named")),
        *("working_add", "working_remove", "packages_process", "packages_docker"),
    ],
    "tools.why.": WHY,
    "service.": [
        f"{name}.{part}"
        for name in SERVICES
        for part in (
            "name",
            "about",
            "logs",
            "effect",
            "ask_stop",
            "ask_restart",
            *get_args(Action),
            *(f"done_{action}" for action in get_args(Action)),
        )
    ],
    "state.": [*map(str, State), "parked", "unwell", "sleeping"],
    "phase.": ["pulling", "extracting", "creating", "starting", "loading", "ready"],
    "action.": list(get_args(Action)),
    "nav.": sorted({place.id for group in (NAVIGATION, *SECTIONS.values()) for place in group}),
    "role.": ["viewer", "operator", "admin"],
    "invitation.": ["as_viewer", "as_operator", "as_admin"],
    "invitations.": ["state_expired", "state_accepted", "state_revoked"],
    "people.": ["done_role", "done_suspend", "done_resume", "done_remove"],
    "rehearsal.": [
        *(f"state.{stage}" for stage in Stage if stage is not Stage.LOST),
        *(f"cause.{cause}" for cause in REHEARSAL_CAUSES),
    ],
    "theme.": ["auto", "light", "dark"],
    "language.": ["en", "ar"],
    "tokens.": [
        *(f"tool.{tool.key}" for tool in filled_in("", "")),
        *(f"tested.{name}" for name in ("models", "asking", "starting", "works", "silent", "none", "failed")),
        *(f"scope.{scope}.{part}" for scope in TOKEN_SCOPES for part in ("name", "about")),
        *(
            f"{family}.{name}"
            for family, names in (("state", ("expired", "suspended")), ("need", ("soon", "over")))
            for name in names
        ),
    ],
    "level.": ["debug", "info", "warning", "error"],
    "log.": ["from_debug", "from_info", "from_warning", "from_error", "live", "lost"]
    + [f"since_{name or 'all'}" for name in SINCE],
    "chart.": [spec.name for spec in (*MACHINE, *(spec for pair in SERVICE.values() for spec in pair))],
    "series.": [
        name for spec in (*MACHINE, *(spec for pair in SERVICE.values() for spec in pair)) for name in spec.series
    ],
    "span.": list(SPANS),
    "link.": [
        *(f"{kind}.{part}" for kind in ("login", "setup", "mailed") for part in ("title", "about", "go", "note")),
        "gone.title",
        "gone.about",
        "elsewhere.title",
        "elsewhere.about",
    ],
    "error.": ["other.title", "other.why", "other.next"],
    "fault.": ["error", "invalid"],
    "time.": [f"{kind}.{unit}" for kind in ("ago", "until", "duration") for unit in ("minutes", "hours", "days")]
    + ["duration.seconds"],
    "setting.": [
        f"{field_of(name)}.{part}" for names in GROUPS.values() for name in names for part in ("label", "help")
    ],
    "choice.": sorted({choice for names in GROUPS.values() for name in names for choice in ROWS[name].choices}),
    "settings.": [f"{group}.{part}" for group in GROUPS for part in ("title", "about")]
    + [f"fault.{why}" for why in ("choice", "range", "form")],
    "leaving.": [f"{one.id}.{part}" for one in LEAVES for part in ("title", "when")]
    + sorted({f"field.{field}" for one in LEAVES for field in one.fields}),
    "audit.": [f"{part}.{event}" for event in EVENTS for part in ("kind", "said")]
    + [f"actor.{who}" for who in (*KNOWN_ACTORS, "token", "first-admin")]
    + [f"value.way.{way}" for way in get_args(Way)]
    + [f"value.kind.{kind}" for kind in (*get_args(LinkKind), *ProposalKind)]
    + [f"value.why.{why}" for why in ("expired", "revoked", "suspended", "removed")]
    + [f"value.what.{what}" for what in ("own data", "audit log", *(f"logs of {name}" for name in SERVICES))]
    + [
        f"value.end.{end}"
        for end in (*RunState, "accepted", "rejected", "stale", "conflict", "paused", "stopped", "mistake")
    ],
    "fault.audit_": sorted(set(FAULTS.values())),
    "welcome.": [f"{step}.{part}" for step in STEPS for part in ("title", "about")],
    "console.": ["link", "person", "doctor"],
    "machine.": ["memory", "swap", "disk"],
    "command.": [f"state.{state}" for state in RunState]
    + [
        f"ended.{how}"
        for how in ("done", "failed", "signal", "cancelled", "timeout", "oom", "killed", "interrupted", "pids")
    ],
}

FAMILIES |= {
    "commands.": [
        *(f"{family}.{verdict}" for family in ("verdict", "short") for verdict in Verdict),
        *(f"kind.{kind}" for kind in ("recent", "program", "word", "flag", "path")),
    ],
    "approvals.": [
        *(f"actor.{actor}" for actor in ("ai", "token", "registry")),
        *("done_deny", "done_approve", "done_revoke"),
    ],
    "meaning.": sorted({"host", "pipeline", "other", *MEANINGS.values()}),
    "changes.": [
        *("added", "changed", "deleted", "mode", "replaced"),
        *(f"kind.{kind}" for kind in ("binary", "large", "link", "folder")),
    ],
    "chat.": [
        *(f"proposes_{kind}" for kind in ("command", "write")),
        *(f"write_{state}" for state in ("open", "writing", "accepted", "rejected", "stale", "failed")),
        *(f"chip.{kind}" for kind in chat.CHIP_ICONS),
        *(f"add.{kind}" for kind in ("file", "selection", "diagnostics", "names")),
        *(f"next.{reason}" for reason in chat.STEPS),
        *(f"tool.{name}" for name in (*chat.TOOLS, "other")),
        *(f"over.{state}" for state in ("done", "stopped", "failed", "interrupted")),
        *(f"fault.{state}" for state in ("failed", "interrupted")),
        *(
            f"phase.{name}"
            for name in ("queued", "begun", "engine", "reading", "thinking", "writing", "choosing", "tool", "deciding")
        ),
        *(f"keys.{name}" for name in ("new", "write", "stop", "again")),
    ],
    "conversations.role.": ["user", "assistant", "tool", "summary"],
    "touches.": ["host", *get_args(Effect)],
    "policy_page.": [
        *(f"actor_is.{actor}" for actor in Actor),
        *(f"scope_is.{scope}" for scope in get_args(Scope)),
        *(f"by.{who}" for who in ("file", "croft", "console")),
    ],
    "runbooks.": [
        *(f"for.{role}" for role in ROLES),
        *(f"when.{kind}" for kind in ("never", "every", "daily", "weekly")),
        *(f"{part}_in.{lang}" for part in ("title", "about") for lang in ("en", "ar")),
        *("done_save", "done_remove"),
    ],
    "timetable.": ["daily", "every", *(f"{part}.{day}" for part in ("weekly", "day") for day in range(1, 8))],
}


def test_both_languages_are_complete() -> None:
    assert missing(CATALOGUE) == []


def test_every_key_that_is_asked_for_exists() -> None:
    """Whole keys in templates and scripts exist; keys that are put together belong to a family whose members exist."""
    asked = re.compile(r"""\bt\(\s*["'`]([a-z_]+\.[a-zA-Z0-9_.]*)""")
    for sources, least in (
        (WEBUI.glob("templates/*.html"), 500),
        (WEBUI.glob("static/js/*.js"), 50),
        (WEBUI.rglob("*.py"), 20),
    ):
        keys = [(path.name, key) for path in sources for key in asked.findall(path.read_text("utf-8"))]
        assert len(keys) > least, "they are found"
        for name, key in keys:
            assert CATALOGUE.has(key) or any(key.startswith(family) for family in FAMILIES), f"{name}: {key}"


def test_every_text_of_the_pages_is_used(tmp_path: Path) -> None:
    """A text nobody asks for is a leftover. (Problems and reasons belong to the services' own test.)"""
    sources = [*WEBUI.glob("templates/*.html"), *WEBUI.glob("static/js/*.js"), *WEBUI.rglob("*.py")]
    asked = set(re.findall(r"""["'`]([a-z_]+\.[a-z_.]+)["'`]""", "".join(path.read_text("utf-8") for path in sources)))
    asked |= {family + key for family, keys in FAMILIES.items() for key in keys}
    (tmp_path / "en.toml").write_text((WEBUI / "locale/en.toml").read_text("utf-8"), "utf-8")
    unused = [
        key
        for key in Catalogue.load(tmp_path).texts["en"]
        if key not in asked and not key.startswith(("error.", "fault.", "time.month.", "ide_signed_out."))
    ]
    assert unused == []


@pytest.mark.parametrize("family", FAMILIES)
def test_families_are_whole(family: str) -> None:
    assert [key for key in FAMILIES[family] if not CATALOGUE.has(family + key)] == []


def test_scripts_get_the_strings_they_ask_for() -> None:
    """A key that a script uses lies under a prefix that its page sends along."""
    everywhere = {"js", "time", "service", "fault"}
    sent = {
        "services.js": {"state", "phase", "machine"},
        "logs.js": {"level", "log"},
        "charts.js": {"chart"},
        "tools.js": {"machine"},
        "jobs.js": {"machine", "job"},
        "workspace.js": {"state"},
        "blocks.js": {"chat"},
        "composer.js": {"chat"},
        "chat.js": {"chat"},
        "acts.js": {"chat"},
        "editor.js": {"chat"},
        "proposals.js": {"chat", "changes"},
        "assistant.js": {"chat"},
        "commands.js": {"commands", "command", "approvals"},
        "output.js": {"commands", "command"},
        "decide.js": {"approvals"},
        "rehearsal.js": {"changes"},
        "approvals.js": {"approvals"},
        "wake.js": {"machine", "phase"},
        "token_test.js": {"tokens"},
    }
    asked: dict[str, set[str]] = {}
    for path in WEBUI.glob("static/js/*.js"):
        asked[path.name] = set(re.findall(r"""\bt\(\s*["'`]([a-z_]+)\.""", path.read_text("utf-8"))) - everywhere
    assert {
        name: prefixes - sent.get(name, set()) for name, prefixes in asked.items() if prefixes - sent.get(name, set())
    } == {}
    assert {name for name, prefixes in asked.items() if prefixes} <= set(sent)
    assert set(sent) <= set(asked), "a script that is gone is struck off"


def test_unknown_keys_and_values_are_refused() -> None:
    t = Translator(CATALOGUE, "en")
    with pytest.raises(UnknownText):
        t("no.such.key")
    with pytest.raises(UnknownText):
        t("machine.used_of", used="1")
    assert Translator(Catalogue(CATALOGUE.texts), "en")("no.such.key") == "no.such.key"


@given(st.integers(min_value=0, max_value=100_000))
def test_arabic_plurals_follow_cldr(n: int) -> None:
    """Unicode CLDR: zero, one, two by value; few for 3-10 and many for 11-99 of the last two digits; else other."""
    last = n % 100
    by_tail = "few" if 3 <= last <= 10 else "many" if 11 <= last <= 99 else "other"
    assert plural("ar", n) == {0: "zero", 1: "one", 2: "two"}.get(n, by_tail)


@given(st.text())
def test_values_cannot_leave_their_place(value: str) -> None:
    """Whatever a value holds, isolates stay balanced and nothing overrides the direction of the sentence."""
    for lang in ("en", "ar"):
        t = Translator(CATALOGUE, lang)
        said = t("js.state_changed", service=value, state="x")
        assert said.count(FSI) == said.count(PDI)
        assert not set("\u202a\u202b\u202d\u202e\u2066\u2067") & set(said)


def test_numbers_times_and_sizes_read_well() -> None:
    en, ar = Translator(CATALOGUE, "en"), Translator(CATALOGUE, "ar")
    assert en.bytes(812 << 20) == "812 MB"
    assert en.bytes(1.26 * (1 << 30)) == "1.3 GB"
    assert en.ago(0, 3 * 3600) == "3 hours ago"
    assert en.ago(10, 0) == "just now"
    assert en.duration(93784) == "1 day 2 h"
    assert en.datetime(1_800_000_000) == "15 Jan 2027, 08:00 UTC"
    assert ar.ago(0, 2 * 3600) == "قبل ساعتين"
    assert ar("summary.problems", n=11) == "11 أمرًا تحتاج إلى انتباهك."


def test_faults_are_found(tmp_path: Path) -> None:
    (tmp_path / "en.toml").write_text('a = "x {n}"\nonly = "x"\n[b]\none = "1"\nother = "2"\n', "utf-8")
    (tmp_path / "ar.toml").write_text('a = "x"\n[b]\none = "1"\nother = "2"\n', "utf-8")
    faults = missing(Catalogue.load(tmp_path))
    assert [fault.split(":")[0] for fault in faults] == ["a", "b", "only"]
    (tmp_path / "more.en.toml").write_text('a = "again"\n', "utf-8")
    with pytest.raises(ValueError, match="a is given twice"):
        Catalogue.load(tmp_path, strict=True)
