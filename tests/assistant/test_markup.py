"""What a model wrote as HTML: what may stand in it, which way it reads, and what is kept beside it."""

from __future__ import annotations

import re
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.payloads import payloads

import webui
from webui.markup import Code, Streaming, render
from webui.markup.gate import ALLOWED_CLASSES, ATTRIBUTES, TAGS, passed
from webui.markup.highlight import _ALIASES, LANGUAGES, coloured

STATIC = Path(webui.__file__).parent / "static"


# What markup is made of, and what breaks out of it.
SHARDS = (
    *(
        "<",
        ">",
        '"',
        "'",
        "`",
        "&",
        ";",
        "#",
        "a",
        "(",
        ")",
        "[",
        "]",
        "!",
        "|",
        "\n",
        "- ",
        "/",
        "=",
        "\\",
        ":",
        "~~~",
    ),
    *("javascript:", " on=", "svg", "ا", "\u202e", "  "),
)


class Elements(HTMLParser):
    """Every element and attribute in a text, as a parser sees them that knows nothing of us."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data


def html_of(text: str) -> str:
    return "\n".join(block.html for block in render(text))


def elements(text: str, name: str) -> list[dict[str, str]]:
    return [attributes for tag, attributes in Elements(html_of(text)).found if tag == name]


def faults(html: str) -> list[str]:
    """What in ``html`` is not on the list."""
    found = []
    for tag, attributes in Elements(html).found:
        if tag not in TAGS:
            found.append(f"<{tag}>")
        allowed = {*ATTRIBUTES.get(tag, ()), "class", "rel"}
        found += [f"{tag} {name}" for name in attributes if name not in allowed]
        found += [
            f"{tag}.{each}" for each in attributes.get("class", "").split() if each not in ALLOWED_CLASSES.get(tag, ())
        ]
        if "href" in attributes and not re.match(r"(https?://|mailto:)", attributes["href"], re.I):
            found.append(f"href {attributes['href']}")
        if tag == "a" and attributes.get("rel") != "noopener noreferrer":
            found.append("a without rel")
    return found


def test_there_are_enough_payloads() -> None:
    assert len(payloads()) >= 300


@pytest.mark.parametrize("breaks", [False, True])
def test_no_payload_becomes_more_than_words(breaks: bool) -> None:
    """WEB-13: whole, and at every stage of being written."""
    for payload in payloads():
        for block in render(payload, breaks=breaks):
            assert faults(block.html) == [], payload
        stream = Streaming(breaks=breaks)
        for end in range(1, len(payload) + 1):
            for patch in stream.feed(payload[:end]):
                assert faults(getattr(patch, "html", "")) == [], payload[:end]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(SHARDS)).map("".join))
def test_nothing_unlisted_comes_out(text: str) -> None:
    assert faults(html_of(text)) == []


def test_the_gate_alone_holds() -> None:
    """AI-9: whatever made the HTML, what is not on the list does not leave."""
    for payload in payloads():
        assert faults(passed(payload)) == [], payload
    assert passed('<a href="/sign-out">x</a><p style="x" onclick="y" id="z">t</p><img src="https://a.b/c">') == (
        '<a rel="noopener noreferrer">x</a><p>t</p>'
    )


def test_links_lead_outside_and_say_so() -> None:
    """WEB-13"""
    for address in ("https://a.example/x?y=1&z=2", "http://a.example", "mailto:a@b.example"):
        assert elements(f"[x]({address})", "a") == [{"target": "_blank", "href": address, "rel": "noopener noreferrer"}]
    for address in (
        "javascript:alert(1)",
        "/sign-out",
        "//evil.example",
        "data:text/html,x",
        "file:///etc/passwd",
        "?x",
    ):
        assert elements(f"[x]({address})", "a") == [], address


def test_images_are_links_with_their_address() -> None:
    """AI-9: nothing is fetched by looking."""
    html = html_of("![a cat](https://a.example/cat.png)")
    assert "<img" not in html
    assert Elements(html).text == "a cat (https://a.example/cat.png)"
    assert elements("![a cat](https://a.example/cat.png)", "a")[0]["href"] == "https://a.example/cat.png"


def test_bare_addresses_are_words() -> None:
    assert elements("see https://a.example now", "a") == []


def test_headings_are_below_those_of_the_page() -> None:
    assert re.findall(r"<(h\d)", html_of("# a\n\n## b\n\n### c\n\n#### d\n\n###### e\n\nf\n===\n")) == [
        "h3",
        "h3",
        "h4",
        "h5",
        "h6",
        "h3",
    ]


def test_each_paragraph_reads_its_own_way() -> None:
    """In a list the signs stand where its first words begin; code does not decide it."""
    assert [each["dir"] for each in elements("Hello\n\nمرحبا", "p")] == ["auto", "auto"]
    assert elements("- `git status` يعرض الحالة\n- ثم", "ul") == [{"dir": "rtl"}]
    assert elements("1. first\n2. ثم", "ol") == [{"dir": "ltr"}]
    assert elements("> اقتباس", "blockquote") == [{"dir": "rtl"}]
    assert elements("| الاسم | b |\n|--|--|\n| a | b |", "table") == [{"dir": "rtl"}]
    assert [each["dir"] for each in elements("- ثم `x`", "code")] == ["ltr"]


def test_arabic_in_code_is_isolated() -> None:
    """So that a sign beside it keeps its place: what stands between the first and the last letter reads as one."""
    (block,) = render('```python\nname = "مرحبا يا foo عالم"  # احذف 3 ملفات.\n```')
    assert "<bdi>مرحبا يا foo عالم</bdi>" in block.html
    assert "<bdi>احذف 3 ملفات.</bdi>" in block.html
    assert "<bdi>المساحة (بايت) 3.</bdi>)" in html_of("```\nf(المساحة (بايت) 3.)\n```")
    assert '"<bdi>نص</bdi>": [' in html_of('```\n"نص": [\n```')
    assert block.code == 'name = "مرحبا يا foo عالم"  # احذف 3 ملفات.'
    assert '<code dir="ltr">a = "<bdi>نص</bdi>"</code>' in html_of('see `a = "نص"`')


@pytest.mark.parametrize("char", ["\u202e", "\u2066", "\u200b", "\u00a0", "\ufeff", "\x1b"])
def test_what_nobody_sees_is_named_in_code(char: str) -> None:
    """POL-8 for readers: a line is not what it looks like."""
    (block,) = render(f"```\nuser{char} // admin\n```")
    assert f"U+{ord(char):04X}" in Elements(block.html).text
    assert char not in block.html
    assert char in block.code, "what is copied is what the model wrote"


def test_what_only_joins_letters_is_not_named_in_words() -> None:
    text = "می\u200cخواهم 👩\u200d💻 a\u200fb"
    assert Elements(html_of(text)).text == text
    assert "U+202E" in html_of("a\u202eb")


def test_files_of_the_workspace_are_marked() -> None:
    """`path:line` in words and in code, and links without a scheme; never with an address."""
    for text, path, line in (
        ("see src/app.py:12 now", "src/app.py", "12"),
        ("see `src/app.py:12`", "src/app.py", "12"),
        ("`./src/app.py`", "src/app.py", None),
        ("`Makefile.am:3`", "Makefile.am", "3"),
        ("[the app](src/app.py#L4)", "src/app.py", "4"),
        ("(a/b.c:7)", "a/b.c", "7"),
        ("`مجلد/ملف.py:2`", "مجلد/ملف.py", "2"),
    ):
        (found,) = elements(text, "a")
        assert (found["data-path"], found.get("data-line"), found.get("href")) == (path, line, None), text
    for text in (
        "`os.path`",
        "at 10:30",
        "and/or",
        "`../x/y.py:3`",
        "https://a.example/b.py:3",
        "`a/../../etc/passwd.x:1`",
        "[x](../a.py)",
    ):
        assert elements(text, "a") == [], text


def test_lists_of_things_to_do() -> None:
    html = html_of("- [ ] one\n- [x] two\n- [y] three")
    assert re.findall(r'<span class="tick">(.)</span>', html) == ["☐", "☑"]
    assert "[y] three" in html
    assert "<input" not in html


def test_code_is_kept_as_it_was_written() -> None:
    """Top-level code is a block; code within a list stays in it, numbered."""
    prose, code = render("- run\n  ```sh\n  ls -l\n\n  pwd\n  ```\n- and `x`\n\n```Python title=x\n<b>\t\n```")
    assert prose.codes == (Code("sh", "ls -l\n\npwd"),)
    assert 'data-code="0"' in prose.html
    assert (code.kind, code.lang, code.code) == ("code", "python", "<b>\t")
    assert Elements(code.html).text == "<b>\t"


def test_an_unclosed_fence_is_code() -> None:
    (block,) = render("```sh\nls")
    assert (block.kind, block.code) == ("code", "ls")


def test_typed_lines_stay_lines() -> None:
    assert "<br" not in html_of("a\nb")
    assert "<br" in render("a\nb", breaks=True)[0].html


@pytest.mark.parametrize("language", sorted({*LANGUAGES, *_ALIASES}))
def test_every_language_can_be_coloured(language: str) -> None:
    """Whatever its lexer does, the text stays the text."""
    code = 'if x == "a": # c\n\treturn <b> & {y};\n\n'
    html = coloured(code, language)
    assert Elements(html).text == code
    assert faults(f"<p>{html}</p>") == []


def test_the_last_line_has_its_colour_too() -> None:
    assert coloured("- a\n+ b", "diff") == '<span class="t-removed">- a</span>\n<span class="t-added">+ b</span>'


@pytest.mark.parametrize("language", sorted(LANGUAGES))
def test_no_language_keeps_the_machine_busy(language: str) -> None:
    """Long lines, many empty ones and plain words, as a confused model writes them."""
    began = time.process_time()
    for unit in ("a\n ", "word and ", "\n" * 19 + "x ", "((((", '"\\', "<a ", "a.b ", "0x1 "):
        coloured((unit * 160)[:480] + "\n" + unit * 200, language)
    assert time.process_time() - began < 4


def test_every_class_has_its_colour() -> None:
    """And no colour is for a class that never comes."""
    named = set(re.findall(r"\.(t-[a-z]+)", (STATIC / "markup.css").read_text()))
    assert named == {name for name in ALLOWED_CLASSES["span"] if name.startswith("t-")}
