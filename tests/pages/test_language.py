"""Both languages, everywhere: nothing untranslated, no sentence glued together, one kind of digits, Gregorian dates, names in
their own letters (issue: Languages)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from webui import filters
from webui.i18n import PLURALS, Catalogue, Translator

WEBUI = Path(__file__).parents[2] / "webui"
CATALOGUE = Catalogue.load(WEBUI / "locale", strict=True)
TEMPLATES = sorted(WEBUI.glob("templates/*.html"))
SCRIPTS = sorted(WEBUI.glob("static/js/*.js"))
ARABIC = re.compile("[\u0621-\u064a]")
# Names of things that are the same everywhere, and texts that are nothing but values.
SAME_IN_ARABIC = re.compile(
    r"(English|TLS|STARTTLS|JSON|CSV|JSONL|CPU|GPU|SSH|UTC|/s|[A-Za-z]+\.?(mp4|toml)|\{[a-z_]+\}|[\s:·,،()/+%–-])*\Z"
)
OTHER_DIGITS = re.compile("[\u0660-\u0669\u06f0-\u06f9]")


def forms(lang: str, key: str) -> list[str]:
    found = CATALOGUE.texts[lang][key]
    return list(found.values()) if isinstance(found, dict) else [found]


def test_no_text_was_left_in_english() -> None:
    """Arabic texts hold Arabic letters, but for names and pure values."""
    left = [
        f"{key}: {form}"
        for key in CATALOGUE.texts["ar"]
        for form in forms("ar", key)
        if not ARABIC.search(form) and not SAME_IN_ARABIC.match(form)
    ]
    assert left == []


def test_english_holds_no_arabic() -> None:
    names = {"language.ar", "choice.ar"}
    assert [key for key in CATALOGUE.texts["en"] if ARABIC.search("".join(forms("en", key))) and key not in names] == []


@pytest.mark.parametrize("lang", ["en", "ar"])
def test_plurals_are_complete(lang: str) -> None:
    """CLDR: a text that counts has every form its language knows."""
    counted = {key: text for key, text in CATALOGUE.texts[lang].items() if isinstance(text, dict)}
    assert counted
    assert [key for key, text in counted.items() if set(text) != PLURALS[lang]] == []


def test_what_counts_people_or_things_has_plurals() -> None:
    """A text with {n} beside a noun is written in forms; one without says a bare number."""
    bare = re.compile(r"\{n\}\s+[a-z]{3,}s\b")
    assert [key for key, text in CATALOGUE.texts["en"].items() if isinstance(text, str) and bare.search(text)] == []


def test_digits_are_latin_in_every_text_and_page() -> None:
    """One policy: digits that can be copied into a terminal."""
    sources = [*WEBUI.glob("locale/*.toml"), *TEMPLATES, *SCRIPTS]
    assert [path.name for path in sources if OTHER_DIGITS.search(path.read_text("utf-8"))] == []


def test_scripts_format_numbers_and_dates_by_that_policy() -> None:
    """Whatever scripts let the browser write out is asked for in Latin digits and the Gregorian calendar."""
    for path in SCRIPTS:
        text = path.read_text("utf-8")
        assert "toLocaleString" not in text, path.name
        assert "toLocaleDateString" not in text, path.name
        for call in re.findall(r"new Intl\.(?:DateTimeFormat|NumberFormat|RelativeTimeFormat)\(([^,)]*)", text):
            assert "-u-" in call, f"{path.name}: {call}"
            assert "nu-latn" in call, f"{path.name}: {call}"
        for call in re.findall(r"new Intl\.DateTimeFormat\(([^,)]*)", text):
            assert "ca-gregory" in call, f"{path.name}: {call}"


def test_dates_are_gregorian_in_both() -> None:
    for lang, said in (("en", "15 Jan 2027, 08:00 UTC"), ("ar", "15 يناير 2027، \u206808:00\u2069 UTC")):
        assert Translator(CATALOGUE, lang).datetime(1_800_000_000) == said


# Two texts side by side inside one element, or a text beside bare words: a sentence put together, whose order another language
# cannot change. Label and value, and words beside an icon, are no sentence.
GLUED = (
    re.compile(r"""\bt\([^()]*\)\s*~\s*(?!["']\s*["'])"""),  # {{ t("a") ~ ... }}
    re.compile(r"""~\s*t\("""),
    re.compile(r"\}\}[ ]?[a-z]{2,}[ ][^<{]*\{\{"),  # {{ x }} words of English {{ y }}
)
GLUED_IN_SCRIPTS = (
    re.compile(r"""\bt\([^()]*\)\s*\+"""),
    re.compile(r"""\+\s*t\("""),
    re.compile(r"`[^`]*\$\{t\([^`]*\$\{t\([^`]*`"),
)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_no_template_glues_a_sentence(path: Path) -> None:
    text = re.sub(r"\{#.*?#\}", "", path.read_text("utf-8"), flags=re.DOTALL)
    assert [found[0] for pattern in GLUED for found in pattern.finditer(text)] == []


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_script_glues_a_sentence(path: Path) -> None:
    text = re.sub(r"/\*.*?\*/|//[^\n]*", "", path.read_text("utf-8"), flags=re.DOTALL)
    assert [found[0] for pattern in GLUED_IN_SCRIPTS for found in pattern.finditer(text)] == []


# What may stand in a template as it is: names, signs, what is printed on keys, the shape of a code or an address.
PLAIN = re.compile(
    r"(Croft|CSV|JSONL|JSON|Ctrl K|Enter|Shift|XXXX|ABCD-EFGH-JKMN-PQRS|https://…/model\.gguf"
    r"|[\s·:,.()/–—+×%#$|0-9-]|U\+[0-9A-F]+)*\Z"
)


# What is no text: blocks with names for style sheets and scripts, comments, expressions, data, character references.
NOISE = (
    r"\{% block (class|main_class|strings) %\}.*?\{% endblock %\}",
    r"\{#.*?#\}",
    r"\{\{.*?\}\}",
    r"\{%.*?%\}",
    r"<!--.*?-->",
    r"<(script|style)\b.*?</\1>",
    r"&[a-z]+;",
)


@pytest.mark.parametrize("path", [p for p in TEMPLATES if p.name != "mail.html"], ids=lambda path: path.name)
def test_no_template_holds_words_of_its_own(path: Path) -> None:
    """Every word people read is in the catalogue, attributes people hear included."""
    text = path.read_text("utf-8")
    for noise in NOISE:
        text = re.sub(noise, "", text, flags=re.DOTALL)
    spoken = re.findall(r'\b(?:aria-label|title|placeholder|alt)="([^"]*)"', text)
    bare = re.sub(r"<[^>]*>", "\n", text, flags=re.DOTALL)
    words = re.sub(r'\b(data|aria)-[a-z-]+="[a-z]*"', "", bare).splitlines()
    assert [word.strip() for word in (*words, *spoken) if not PLAIN.match(word.strip())] == []


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("xn--mgbh0fb.example", "مثال.example"),
        ("ide.xn--mgbh0fb.example", "ide.مثال.example"),
        ("203-0-113-7.sslip.io", "203-0-113-7.sslip.io"),
        ("xn--zzzzzz", "xn--zzzzzz"),
        ("xn--a", "xn--a"),
    ],
)
def test_international_domains_show_in_their_own_letters(host: str, said: str) -> None:
    assert filters.unicode_name(host) == said


def test_arabic_names_keep_their_place_in_a_sentence() -> None:
    """A person's or file's name of the other direction is isolated, whole, and cannot leave its place."""
    en, ar = Translator(CATALOGUE, "en"), Translator(CATALOGUE, "ar")
    assert en("audit.said.user.remove", user="نورة العلي") == "Removed \u2068نورة العلي\u2069."
    assert ar("audit.said.export", what="notes-2026.md") == "تصدير: \u2068notes-2026.md\u2069."
