"""Markdown of a model to HTML that may stand in our pages: whole (:func:`render`) and while it is being written (:class:`Streaming`).

Rule (WEB-13): nothing that the text says becomes a script, a style, a request or a form; what comes out has passed the gate
(:mod:`webui.markup.gate`). Nothing outside this package imports markdown-it, pygments or nh3.
"""

from __future__ import annotations

from webui.markup.blocks import Add, Block, Code, Patch, render
from webui.markup.streaming import Streaming

__all__ = ["Add", "Block", "Code", "Patch", "Streaming", "render"]
