"""What a phone or a desktop needs to keep Croft beside its other programs (W3C Web Application Manifest).

Rule: no service worker goes with it (WEB-18): without the appliance there is nothing to show.
"""

from __future__ import annotations

from typing import Any

from webui.assets import Assets
from webui.i18n import Translator

# --ground and --accent of tokens.css, which a manifest cannot read; a test compares them.
GROUND = {"light": "#f6f5f2", "dark": "#131211"}
ACCENT = "#1c5a41"
# Made by tools/icons.py from static/favicon.svg.
ICONS = (
    ("icons/192.png", "192x192", "any"),
    ("icons/512.png", "512x512", "any"),
    ("icons/maskable-512.png", "512x512", "maskable"),
)


def manifest(t: Translator, assets: Assets, host: str) -> dict[str, Any]:
    """The manifest in the reader's language."""
    return {
        "id": "/",
        "name": t("manifest.name", host=host),
        "short_name": "Croft",
        "description": t("manifest.about"),
        "lang": t.lang,
        "dir": t.dir,
        "start_url": "/",
        "scope": "/",
        "display": "standalone",
        "theme_color": GROUND["light"],
        "background_color": GROUND["light"],
        "icons": [
            {"src": assets(name), "sizes": sizes, "type": "image/png", "purpose": purpose}
            for name, sizes, purpose in ICONS
        ],
    }
