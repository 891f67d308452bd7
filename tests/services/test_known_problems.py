"""The table of problems: each is recognised from what is known, and has words in both languages."""

from __future__ import annotations

import re
import time
import tomllib
from pathlib import Path

import pytest
from msgspec.structs import replace

from appliance.services import problems
from appliance.services.certificate import Certificate
from appliance.services.history import History, Tuning
from appliance.services.model import Desired, Missing, Observed, State, Want
from appliance.services.problems import TABLE, Facts

LOCALE = Path(__file__).resolve().parents[2] / "webui/locale"
NOW = time.time()
DAY = 86_400
SERVED = Certificate(("croft.example",), "R11", NOW - DAY, NOW + 80 * DAY)
OWN = replace(SERVED, issuer="Caddy Local Authority - ECC Intermediate", not_after=NOW + DAY)
FAILED = Observed("ide", State.FAILED, run_id="a", exit_code=1)
WISH = Desired("ide", Want.ON_DEMAND, awake=True)


def words(language: str) -> dict[str, dict[str, object]]:
    document = tomllib.loads((LOCALE / f"problems.{language}.toml").read_text("utf-8"))
    return document["problem"]


def flat(text: object) -> str:
    return text if isinstance(text, str) else " ".join(text.values())


@pytest.mark.parametrize("language", ["en", "ar"])
def test_every_problem_has_all_its_words_and_no_word_is_left_over(language) -> None:
    catalogue = words(language)
    assert set(catalogue) == set(TABLE)
    for code, texts in catalogue.items():
        assert set(texts) == {"title", "why", "next"}, code
        assert all(flat(text).strip() for text in texts.values()), code


def test_both_languages_fill_in_the_same_values() -> None:
    english, arabic = words("en"), words("ar")
    for code, texts in english.items():
        used = {part: set(re.findall(r"\{(\w+)\}", flat(text))) for part, text in texts.items()}
        assert used == {part: set(re.findall(r"\{(\w+)\}", flat(text))) for part, text in arabic[code].items()}, code


def of_service(seen=FAILED, wish=WISH, tail=(), facts=None, **history: object) -> list[str]:
    found = problems.of_service(seen, wish, History(**history), tail, facts or Facts(), Tuning())
    check_words(found)
    return [one.code for one in found]


def of_machine(**facts: object) -> list[str]:
    found = problems.of_machine(Facts(**facts), NOW)
    check_words(found)
    return [one.code for one in found]


def check_words(found: list[problems.Problem]) -> None:
    """A text may only name values that its problem brings along."""
    for one in found:
        for part, text in words("en")[one.code].items():
            assert set(re.findall(r"\{(\w+)\}", flat(text))) <= set(one.params), (one.code, part)


def test_a_service_s_problems() -> None:
    assert of_service() == []
    assert of_service(failures=1, cause="exited") == ["exited"]
    assert of_service(failures=5, cause="unhealthy") == ["retrying", "unhealthy"]
    assert of_service(failures=13, cause="exited", parked="crash_loop") == ["crash_loop", "exited"]
    assert of_service(failures=1, cause="out_of_memory", parked="too_big") == ["too_big"]
    assert of_service(failures=1, cause="pull_failed") == ["pull_failed"]
    assert of_service(failures=1, cause="something new") == ["exited"]
    assert of_service(seen=replace(FAILED, state=State.RUNNING), safe=True, over=False) == ["ide_safe_mode"]


def test_what_works_again_is_not_said_to_fail() -> None:
    running = replace(FAILED, state=State.RUNNING, exit_code=None)
    assert of_service(seen=running, failures=2, cause="exited", over=False, healthy_since=1.0) == ["recovered"]
    assert of_service(seen=running, failures=2, cause="exited", over=False) == ["exited"]
    assert TABLE["recovered"] == "info"


def test_a_stopped_service_has_no_problem() -> None:
    assert of_service(wish=replace(WISH, want=Want.STOP), failures=13, parked="crash_loop") == []


def test_what_an_appliance_cannot_do_without_is_missed() -> None:
    for name in ("ide", "proxy"):
        assert of_service(seen=Observed(name, State.ABSENT, missing=Missing.PROGRAM)) == ["not_installed"]
    assert of_service(seen=Observed("ai", State.ABSENT, missing=Missing.PROGRAM)) == []


@pytest.mark.parametrize(
    ("line", "owner", "code"),
    [
        ("listening on :443: listen tcp :443: bind: address already in use", "", "port_taken"),
        ("listen tcp4 127.0.0.1:80: bind: address already in use", "nginx", "port_taken_by"),
        ("listen udp :443: bind: address already in use", "", "port_taken"),
        ("listen tcp :80: bind: permission denied", "", "port_denied"),
        ("address already in use, said nobody", "", "exited"),
    ],
)
def test_causes_are_recognised_from_the_last_words(line, owner, code) -> None:
    facts = Facts(port_owners={80: owner, 443: owner})
    proxy = replace(FAILED, service="proxy")
    assert of_service(seen=proxy, tail=["...", line], facts=facts, failures=1, cause="exited") == [code]


def test_the_certificate() -> None:
    """R22, R9."""
    assert of_machine(certificate=SERVED, acme=True) == []
    assert of_machine(certificate=replace(SERVED, not_after=NOW + 13 * DAY), acme=True) == ["certificate_expiring"]
    assert of_machine(certificate=replace(SERVED, not_after=NOW - 1)) == ["certificate_expired"]
    assert of_machine(certificate=replace(SERVED, not_before=NOW + DAY)) == ["clock_off"]
    assert of_machine(certificate=replace(SERVED, distrust="self-signed")) == ["certificate_untrusted"]
    assert of_machine(certificate=OWN) == []
    assert of_machine(certificate=OWN, acme=True) == ["acme_pending"]
    assert of_machine(certificate=OWN, acme=True, acme_cause="DNS problem") == ["acme_failing"]
    assert of_machine(certificate=replace(OWN, not_after=NOW + 600)) == ["own_certificate_expiring"]


def test_the_machine() -> None:
    assert of_machine(gone="engine_gone") == ["engine_gone"]
    assert of_machine(gone="runtime_gone") == ["runtime_gone"]
    assert of_machine(disk_free_mb=500) == ["disk_nearly_full"]
    assert of_machine(disk_free_mb=50_000) == []
    assert of_machine(disk_free_mb=50_000, disk_percent=84.9) == []
    assert of_machine(disk_free_mb=50_000, disk_percent=85.0) == ["disk_nearly_full"]
    assert of_machine(disk_free_mb=1000, disk_percent=95.0) == ["disk_full"]


@pytest.mark.parametrize(
    ("version", "codes"),
    [
        ("v2.11.4 h1:abc=", []),
        ("2.12.0", []),
        ("2.6.2", ["old_proxy"]),
        ("v2.11.3", ["old_proxy"]),
        ("2.5.1", ["too_old_proxy"]),
        ("", []),
        ("devel", []),
    ],
)
def test_the_proxy_s_version(version, codes) -> None:
    """FWD-12, with Debian's 2.6.2 accepted and said."""
    assert of_machine(proxy_version=version) == codes


def test_the_reason_of_a_failing_certificate_is_the_latest_and_harmless() -> None:
    lines = [
        '{"level":"error","msg":"could not get certificate from issuer","error":"old"}',
        '{"level":"error","msg":"could not get certificate from issuer","error":"403:<script>x</script>\\u001b[31m"}',
        "not json: will retry",
        '["will retry"]',
        '{"msg":"will retry","error":7}',
        '{"level":"info","msg":"served"}',
    ]
    assert problems.acme_cause(lines) == "403: script x /script [31m"
    assert problems.acme_cause([]) == ""
    assert len(problems.acme_cause(['{"msg":"will retry","error":"' + "x" * 10_000 + '"}'])) == 300
