"""The string catalogue: every word people read, in English and Arabic, and how numbers and times are written.

Rule: no page, script or handler builds a sentence by joining pieces; it asks for a key and fills in values.

``webui/locale`` holds any number of ``NAME.LANG.toml`` or ``LANG.toml`` files. Nested tables are dotted keys. A table
whose keys are plural categories (CLDR: zero one two few many other) is one text with forms, chosen by ``n``.

What the handlers do with it::

    catalogue = Catalogue.load(folder)            # once, at start; a language is read when somebody first wants it
    t = Translator(catalogue, "ar")               # once per request: cheap
    t("summary.ide_sleeps")                       # plain text; values of the other direction are isolated
    t.message(view.reason)                        # anything with .key and .params
    t.lang, t.dir                                 # "ar", "rtl"
    t.ago(ts, now), t.datetime(ts), t.duration(s), t.bytes(n), t.percent(x)
    t.strings("js", "state")                      # what a page's scripts need, for a JSON data block

Digits are Latin in both languages (they are what people copy into terminals). A strict catalogue raises
UnknownText; the other shows the key.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct

LANGUAGES: dict[str, str] = {"en": "ltr", "ar": "rtl"}
CATEGORIES = frozenset({"zero", "one", "two", "few", "many", "other"})
PLURALS: dict[str, frozenset[str]] = {"en": frozenset({"one", "other"}), "ar": CATEGORIES}

Text = str | dict[str, str]
Value = str | int | float

_PARAM = re.compile(r"\{([a-z_]+)\}")
_RTL_LETTER = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff]")
_LTR_LETTER = re.compile("[0-9A-Za-z\u00c0-\u058f\u0900-\u1fff]")
_BIDI_CONTROL = re.compile("[\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069]")
FSI, LRI, PDI = "\u2068", "\u2066", "\u2069"


def preferred(accepted: str, default: str) -> str:
    """The first of our languages that ``Accept-Language`` names with the highest weight (RFC 9110 12.5.4)."""
    best, weight = default, 0.0
    for part in accepted[:500].split(","):
        tag, _, rest = part.strip().partition(";")
        language = tag.split("-")[0].strip().lower()
        match = re.fullmatch(r"\s*q=([01](?:\.\d{0,3})?)\s*", rest)
        quality = float(match[1]) if match else 1.0 if not rest else 0.0
        if language in LANGUAGES and quality > weight:
            best, weight = language, quality
    return best


class UnknownText(KeyError):
    """A key that the catalogue does not hold, or a value that its text needs and was not given."""


class HasKey(Protocol):
    """A text for people that other rooms hand over: a key and what to fill in."""

    @property
    def key(self) -> str: ...

    @property
    def params(self) -> Mapping[str, str | int | float]: ...


class Catalogue(Struct, frozen=True):
    """All texts by language and dotted key."""

    texts: Mapping[str, Mapping[str, Text]]
    strict: bool = False

    @classmethod
    def load(cls, folder: Path, *, strict: bool = False, names: str = "*.toml") -> Catalogue:
        """The catalogue files in ``folder``, or those whose names match.

        Raises ValueError for a file of no known language; when strict, also for one that is not TOML, a value that is
        not text, or a key given twice. Without it these are raised when the language is first asked for.
        """
        files: dict[str, list[Path]] = {lang: [] for lang in LANGUAGES}
        for path in sorted(folder.glob(names)):
            lang = path.stem.rsplit(".", 1)[-1]
            if lang not in files:
                raise ValueError(f"cannot load {path.name}: the name must end in .en.toml or .ar.toml")
            files[lang].append(path)
        texts = _ByLanguage(files)
        return cls({lang: texts[lang] for lang in LANGUAGES} if strict else texts, strict)

    def has(self, key: str) -> bool:
        return key in self.texts["en"]

    def values_of(self, key: str) -> frozenset[str]:
        """The names of what the text for ``key`` wants filled in."""
        return _params(self.texts["en"].get(key, ""))

    def find(self, lang: str, key: str) -> Text:
        """The text as written, from English where ``lang`` lacks it. Raises UnknownText when strict."""
        found = self.texts[lang].get(key, self.texts["en"].get(key))
        if found is None:
            if self.strict:
                raise UnknownText(key)
            return key
        return found

    def text(self, lang: str, key: str, **params: Value) -> str:
        """The text for ``key`` with ``params`` filled in, as plain text."""
        template = _pick(lang, self.find(lang, key), params)

        def value(match: re.Match[str]) -> str:
            if match[1] not in params:
                if self.strict:
                    raise UnknownText(f"{template!r} needs {match[1]}")
                return match[0]
            return _isolate(lang, params[match[1]])

        return _PARAM.sub(value, template)


class _ByLanguage(dict[str, dict[str, Text]]):
    """Texts by language, read on first use: a start pays for none (measured: 90 ms and 1 MB for both)."""

    def __init__(self, files: Mapping[str, Sequence[Path]]) -> None:
        super().__init__()
        self._files = files

    def __missing__(self, lang: str) -> dict[str, Text]:
        texts: dict[str, Text] = {}
        for path in self._files[lang]:
            for key, text in _flatten(_read(path)):
                if key in texts:
                    raise ValueError(f"cannot load {path.name}: {key} is given twice")
                texts[key] = text
        self[lang] = texts
        return texts


class Translator:
    """The catalogue in one language, as templates use it."""

    def __init__(self, catalogue: Catalogue, lang: str) -> None:
        if lang not in LANGUAGES:
            raise ValueError(f"there is no catalogue for {lang!r}")
        self.catalogue, self.lang, self.dir = catalogue, lang, LANGUAGES[lang]

    def __call__(self, key: str, **params: Value) -> str:
        return self.catalogue.text(self.lang, key, **params)

    def message(self, message: HasKey) -> str:
        return self(message.key, **message.params)

    def has(self, key: str) -> bool:
        return self.catalogue.has(key)

    def strings(self, *prefixes: str) -> dict[str, Text]:
        """Every text under ``prefixes``, as written, for the page's scripts."""
        dotted = tuple(f"{prefix}." for prefix in prefixes)
        return {
            key: self.catalogue.find(self.lang, key)
            for key in self.catalogue.texts["en"]
            if key in prefixes or key.startswith(dotted)
        }

    def ago(self, ts: float, now: float) -> str:
        """``3 min ago``. A time in the future (a clock was set back) reads as just now."""
        seconds = max(0, int(now - ts))
        for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
            if seconds >= size:
                return self(f"time.ago.{unit}", n=seconds // size)
        return self("time.ago.now")

    def until(self, ts: float, now: float) -> str:
        """``in 3 hours``. A time in the past reads as now."""
        seconds = max(0, int(ts - now))
        for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
            if seconds >= size:
                return self(f"time.until.{unit}", n=seconds // size)
        return self("time.until.now")

    def duration(self, seconds: float) -> str:
        """``3 days, 4 hours``: the two largest units that matter."""
        rest = max(0, int(seconds))
        parts: list[str] = []
        for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60), ("seconds", 1)):
            count, rest = divmod(rest, size)
            if count or (unit == "seconds" and not parts):
                parts.append(self(f"time.duration.{unit}", n=count))
            elif parts:
                break
        return parts[0] if len(parts) == 1 else self("time.duration.both", a=parts[0], b=parts[1])

    def datetime(self, ts: float) -> str:
        """The exact moment in UTC, for titles and tables; scripts show it in the reader's own zone."""
        at = datetime.fromtimestamp(ts, UTC)
        month = self(f"time.month.{at.month}")
        return self("time.exact", day=at.day, month=month, year=at.year, clock=at.strftime("%H:%M"))

    def bytes(self, count: float) -> str:
        """``312 MB``: powers of 1024, as memory is sold; always read left to right."""
        size, unit = float(count), "B"
        for larger in ("KB", "MB", "GB", "TB"):
            if size < 1000:
                break
            size, unit = size / 1024, larger
        digits = f"{size:.1f}" if size < 10 and unit not in ("B", "KB", "MB") else f"{size:.0f}"
        return self._left_to_right(f"{digits} {unit}")

    def percent(self, value: float) -> str:
        return self._left_to_right(f"{value:.0f}%")

    def _left_to_right(self, text: str) -> str:
        return f"{LRI}{text}{PDI}" if self.dir == "rtl" else text


def plural(lang: str, n: float) -> str:
    """The CLDR plural category of ``n`` (unicode.org/cldr/charts, Language Plural Rules)."""
    if lang == "en":
        return "one" if n == 1 else "other"
    if n in (0, 1, 2):
        return ("zero", "one", "two")[int(n)]
    if n != int(n):
        return "other"
    last = int(n) % 100
    return "few" if 3 <= last <= 10 else "many" if last >= 11 else "other"


def missing(catalogue: Catalogue) -> list[str]:
    """What is wrong: keys without a translation, plural forms or values that do not match. Empty is good."""
    found: list[str] = []
    every = sorted({key for lang in LANGUAGES for key in catalogue.texts[lang]})
    for key in every:
        absent = [lang for lang in LANGUAGES if key not in catalogue.texts[lang]]
        if absent:
            found.extend(f"{key}: not in {lang}" for lang in absent)
            continue
        found.extend(_faults(key, {lang: catalogue.texts[lang][key] for lang in LANGUAGES}))
    return found


def _faults(key: str, by_lang: Mapping[str, Text]) -> Iterator[str]:
    if len({isinstance(text, dict) for text in by_lang.values()}) > 1:
        yield f"{key}: plural in one language only"
    for lang, text in by_lang.items():
        forms = text if isinstance(text, dict) else {}
        if forms and set(forms) != PLURALS[lang]:
            yield f"{key}: {lang} has the forms {sorted(forms)}, not {sorted(PLURALS[lang])}"
        if not all(part.strip() for part in (forms.values() if forms else [str(text)])):
            yield f"{key}: empty in {lang}"
    names = {lang: _params(text) for lang, text in by_lang.items()}
    if len(set(names.values())) > 1:
        yield f"{key}: the values differ: " + ", ".join(f"{lang} {sorted(names[lang])}" for lang in names)


def _params(text: Text) -> frozenset[str]:
    forms = text.values() if isinstance(text, dict) else [text]
    return frozenset(name for form in forms for name in _PARAM.findall(form))


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot load {path.name}: {error}") from error


def _flatten(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Text]]:
    for name, value in table.items():
        key = prefix + name
        if isinstance(value, str):
            yield key, value
        elif not isinstance(value, dict):
            raise ValueError(f"{key} is not text")
        elif "other" in value and set(value) <= CATEGORIES:
            yield key, {str(form): str(text) for form, text in value.items()}
        else:
            yield from _flatten(value, f"{key}.")


def _pick(lang: str, text: Text, params: Mapping[str, Value]) -> str:
    if isinstance(text, str):
        return text
    n = params.get("n", 0)
    return text.get(plural(lang, n if isinstance(n, int | float) else 0), text["other"])


def _isolate(lang: str, value: Value) -> str:
    """Keep a value of the other direction from reordering the sentence around it (Unicode UAX 9)."""
    if not isinstance(value, str):
        return str(value)
    other = _RTL_LETTER if LANGUAGES[lang] == "ltr" else _LTR_LETTER
    clean = _BIDI_CONTROL.sub("", value)
    return f"{FSI}{clean}{PDI}" if other.search(clean) else clean
