"""Golden pairs: what is asked for, and how it is written where it must be found; and what must not be found."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.assistant.folding import folded, words
from appliance.assistant.search import columns, merged, parse, snippet

# Asked for, and written.
FOUND = (
    # Marks and tatweel
    ("مستخدم", "المُسْتَخْدِمُ"), ("كتاب", "كتـــاب"), ("مُدَرِّس", "مدرس"), ("هذا", "هٰذا"), ("رحمن", "الرَّحْمَٰن"), ("قرآن", "القُرْءان"),
    # Alef in all its forms
    ("احمد", "أحمد"), ("إدارة", "ادارة"), ("آخر", "اخر"), ("ٱسم", "اسم"), ("اداة", "أداة"), ("أعداد", "إعداد"),
    # Hamza on a seat, alone, or left out
    ("مسؤول", "مسئول"), ("مسئول", "مسؤول"), ("مسوول", "مسؤول"), ("مسؤول", "مسوول"), ("قاري", "قارئ"), ("قارئ", "قاري"),
    ("شيء", "شئ"), ("شي", "شيء"), ("مؤشر", "موشر"), ("بيئة", "بيئه"), ("قراءة", "قراة"), ("خطا", "خطأ"), ("شؤون", "الشئون"),
    # Ya and alef maqsura, ta marbuta and ha
    ("على", "علي"), ("مستوي", "مستوى"), ("مدينة", "مدينه"), ("مكتبه", "المكتبة"), ("إلى", "الي"),
    # The article, and what is written before it
    ("مكتبة", "المكتبة"), ("مكتبة", "والمكتبة"), ("مكتبة", "بالمكتبة"), ("مكتبة", "كالمكتبة"), ("مكتبة", "فالمكتبة"), ("مكتبة", "للمكتبة"),
    ("مكتبة", "وبالمكتبة"), ("مكتبة", "وللمكتبة"), ("مكتبة", "فبالمكتبة"), ("المكتبة", "مكتبة"), ("المكتبة", "والمكتبة"),
    ("المسؤول", "للمسئول"), ("لبن", "اللبن"), ("لبن", "للبن"), ("ليل", "بالليل"),
    # One-letter particles
    ("ملف", "وملف"), ("ملف", "فملف"), ("ملف", "بملف"), ("ملف", "كملف"), ("ملف", "لملف"), ("سرعة", "بسرعة"), ("خادم", "ولخادم"),
    ("يكتب", "سيكتب"), ("نبدأ", "سنبدأ"), ("تجد", "وستجد"), ("أكتب", "سأكتب"), ("قال", "وقال"),
    # Beginnings of words
    ("مكت", "المكتبة"), ("برم", "البرمجة"), ("ملف", "ملفات"), ("conv", "Conversation"), ("err", "errors"),
    # Digits, Persian keyboards, presentation forms
    ("2026", "عام ٢٠٢٦"), ("٨٠٨٠", "port 8080"), ("کتاب", "كتاب"), ("علی", "علي"), ("لا", "\ufefb"), ("سلام", "\ufeb3\ufefc\ufee1"),
    # Latin letters
    ("resume", "Résumé"), ("the", "𝑻𝒉𝒆"), ("NAIVE", "naïve"), ("strasse", "Straße"), ("istanbul", "İstanbul"), ("file", "ﬁle"),
    ("read_file", "read_file(x)"),
    ("systemctl", "`systemctl restart`"), ("c", "in C and"), ("don't", "don’t"),
    # Both in one text
    ("docker حاوية", "شغّل الحاوية بأمر docker run"), ("خطأ import", "ImportError: الخطا في import"), ("git المستودع", "git clone للمستودع"),
    # In quotes: these words, one after the other
    ('"disk full"', "the disk full error"), ("«القرص ممتلئ»", "إن القرص ممتلئ الآن"),
)  # fmt: skip
NOT_FOUND = (
    ("مكتبة", "مكتب"), ("كرة", "ذاكرة"), ("علم", "معلم"), ("ولد", "بلد"), ("خادم", "خدمة"), ("ماء", "ماذا"),
    ("ماء", "ما"), ("the cat", "the dog"),
    ("port", "export"), ("c", "cat"), ('"full disk"', "the disk full"), ("«ممتلئ القرص»", "القرص ممتلئ"), ("سمع", "يسمع"), ("error", "err"),
)  # fmt: skip


def found(asked: str, text: str) -> bool:
    """As the index decides: every part is met, phrases word by word."""
    query = parse(asked)
    every = [word for _, _, word in words(text)]
    bases = " ".join(word.base for word in every)
    for part in query.parts:
        phrase = getattr(part, "bases", None)
        if not (f" {' '.join(phrase)} " in f" {bases} " if phrase else any(part.meets(word) for word in every)):
            return False
    return bool(query)


@pytest.mark.parametrize(("asked", "text"), FOUND)
def test_found(asked: str, text: str) -> None:
    assert found(asked, text)


@pytest.mark.parametrize(("asked", "text"), NOT_FOUND)
def test_not_found(asked: str, text: str) -> None:
    assert not found(asked, text)


@pytest.mark.parametrize(("asked", "text"), FOUND)
def test_a_hit_is_marked_in_its_own_spelling(asked: str, text: str) -> None:
    pieces = snippet(text, parse(asked))
    assert merged(pieces) == text
    assert any(piece.hit for piece in pieces)
    assert all(piece.text in text for piece in pieces)


def test_only_what_is_found_is_marked() -> None:
    pieces = snippet("شغّل الحاوية بأمر docker run", parse("حاويه dock"))
    assert [piece.text for piece in pieces if piece.hit] == ["الحاوية", "docker"]


def test_a_snippet_is_short_and_says_where_it_was_cut() -> None:
    text = "first words " * 50 + "the needle\n\nis here " + "last words " * 50
    pieces = snippet(text, parse("needle"))
    assert pieces[0].text == pieces[-1].text == "…"
    assert len(merged(pieces)) < 220
    assert "needle is here" in merged(pieces)


@settings(deadline=None)
@given(st.text(max_size=80))
def test_folding_twice_changes_nothing(text: str) -> None:
    """And what is indexed is letters and digits alone, so nothing in it can be read as a question's syntax."""
    bases, forms = columns(text)
    for word in (bases + " " + forms).split():
        assert folded(word).base == word or not word.isascii()
        assert word.isalnum()
    for begin, end, word in words(text):
        assert folded(text[begin:end]) == word
        assert found(text[begin:end], text), "every word of a text finds it"


def test_a_word_is_the_same_composed_or_not() -> None:
    for word in ("Résumé", "أحمد", "مسؤول", "قارئ", "آخر"):
        assert folded(unicodedata.normalize("NFD", word)) == folded(unicodedata.normalize("NFC", word))
