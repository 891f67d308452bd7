"""The templates of all pages and mails, and what they know.

Rule: Jinja is imported when the first of them is asked for: a start has no use for it, nor has a daemon that nobody visits (F1, F2).
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from webui.assets import Assets

if TYPE_CHECKING:
    from jinja2 import Environment, Template

FOLDER = Path(__file__).parent / "templates"


class Templates:
    """What is in FOLDER. Goes where aiohttp_jinja2 wants an environment."""

    def __init__(self, assets: Assets) -> None:
        self._assets = assets

    def get_template(self, name: str) -> Template:
        """One of them, compiled when it is first asked for."""
        return self.environment.get_template(name)

    @cached_property
    def environment(self) -> Environment:
        import jinja2

        from webui import filters

        made = jinja2.Environment(
            loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, undefined=jinja2.StrictUndefined
        )
        filters.register(made, self._assets)
        return made
