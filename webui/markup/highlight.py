"""Code in colours: the token types of pygments as a dozen classes whose colours are ours (static/markup.css).

Rule: only languages on the list are read by a lexer, and only so much text: what a model writes must not keep the machine busy.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name
from pygments.token import Comment, Generic, Keyword, Literal, Name, Number, Operator, String

from webui.markup.unseen import in_code

# Lexers are regular expressions: on very long lines or runs of empty ones some take time with the square of what they look at.
MOST_CODE = 30_000
LONGEST_LINE = 500
_EMPTY_LINES = re.compile(r"(?:[ \t]*\n){20}")

# Name in a fence -> name in pygments, where they differ. Java, C# and Groovy are read as TypeScript, Perl and makefiles as shell, for
# their own lexers take seconds over a page of plain words.
_ALIASES = {
    "c++": "cpp", "cs": "typescript", "csharp": "typescript", "dockerfile": "docker", "env": "bash", "golang": "go",
    "groovy": "typescript", "htm": "html", "java": "typescript", "js": "javascript", "json5": "json", "jsonc": "json",
    "jsx": "javascript", "kt": "kotlin", "make": "bash", "makefile": "bash", "md": "markdown", "objc": "objective-c",
    "patch": "diff", "perl": "bash", "ps1": "powershell", "py": "python", "python3": "python", "rb": "ruby", "rs": "rust", "service": "ini",
    "sh": "bash", "shell": "bash", "shell-session": "console", "svelte": "html", "systemd": "ini", "terminal": "console",
    "ts": "typescript", "tsx": "typescript", "vue": "html", "yml": "yaml", "zsh": "bash",
}  # fmt: skip
LANGUAGES = frozenset(
    (
        "awk", "bash", "c", "clojure", "cmake", "console", "cpp", "css", "dart", "diff", "docker", "elixir", "erlang", "go",
        "graphql", "haskell", "html", "http", "ini", "javascript", "json", "julia", "kotlin", "lua", "markdown", "nginx", "nix",
        "objective-c", "ocaml", "php", "postgresql", "powershell", "protobuf", "python", "r", "ruby", "rust", "scala",
        "scss", "sql", "swift", "toml", "typescript", "vim", "xml", "yaml", "zig",
    )
)  # fmt: skip

# The first that holds the token's type wins; the rest has the colour of text.
_CLASSES: tuple[tuple[Any, str], ...] = (
    (Comment.Preproc, "t-keyword"),
    (Comment, "t-comment"),
    (Keyword.Constant, "t-number"),
    (Keyword.Type, "t-type"),
    (Keyword, "t-keyword"),
    (Operator.Word, "t-keyword"),
    (String.Escape, "t-escape"),
    (String.Interpol, "t-escape"),
    (String, "t-string"),
    (Number, "t-number"),
    (Literal, "t-number"),
    (Name.Tag, "t-keyword"),
    (Name.Attribute, "t-name"),
    (Name.Function, "t-name"),
    (Name.Decorator, "t-name"),
    (Name.Class, "t-type"),
    (Name.Exception, "t-type"),
    (Name.Builtin, "t-type"),
    (Generic.Inserted, "t-added"),
    (Generic.Deleted, "t-removed"),
    (Generic.Heading, "t-keyword"),
    (Generic.Subheading, "t-type"),
    (Generic.Prompt, "t-comment"),
    (Generic.Output, "t-comment"),
)
CLASSES = frozenset(name for _, name in _CLASSES)


def coloured(code: str, lang: str) -> str:
    """``code`` as HTML; plain when the language is not known or the code too long."""
    lexer = _lexer(_ALIASES.get(lang, lang))
    if lexer is None or not _quick(code):
        return in_code(code)
    runs = [["", ""]]
    # Some lexers know a line by its end, so the last one gets one too.
    for token, value in lexer.get_tokens(code + "\n"):
        kind = _class(token)
        if kind != runs[-1][0]:
            runs.append([kind, ""])
        runs[-1][1] += value
    runs[-1][1] = runs[-1][1].removesuffix("\n")
    return "".join(_span(kind, text) for kind, text in runs)


def _quick(code: str) -> bool:
    longest = max(map(len, code.split("\n")))
    return len(code) <= MOST_CODE and longest <= LONGEST_LINE and not _EMPTY_LINES.search(code)


def _span(kind: str, text: str) -> str:
    return f'<span class="{kind}">{in_code(text)}</span>' if kind and text else in_code(text)


@lru_cache(maxsize=256)
def _class(token: Any) -> str:
    return next((name for kind, name in _CLASSES if token in kind), "")


@lru_cache(maxsize=32)
def _lexer(name: str) -> Lexer | None:
    return get_lexer_by_name(name, stripnl=False, ensurenl=False) if name in LANGUAGES else None
