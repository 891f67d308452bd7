"""Draw the PNG icons from webui/static/favicon.svg: tools/icons.py (needs Chromium and playwright; run it when the drawing changes).

The results are committed, so neither a build nor an installation needs a browser.
"""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

STATIC = Path(__file__).resolve().parents[1] / "webui/static"
# Name, size in pixels, and whether the platform cuts its own shape out of it (then the ground fills the square).
ICONS = (("180", 180, True), ("192", 192, False), ("512", 512, False), ("maskable-512", 512, True))
# Platforms may cut away all but a circle of 80 % (W3C App Manifest, "safe zone"); the drawing keeps within it.
SHRINK = 0.8


def main() -> None:
    drawing = (STATIC / "favicon.svg").read_text("utf-8")
    (STATIC / "icons").mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page()
        for name, size, cut in ICONS:
            draw(page, full(drawing) if cut else drawing, size, STATIC / "icons" / f"{name}.png")
        browser.close()


def full(drawing: str) -> str:
    """The drawing on a square ground, small enough for any mask."""
    [ground] = re.findall(r"<rect[^>]*/>", drawing)
    rest = drawing.replace(ground, "").replace("</svg>", "")
    head, body = rest.split("\n", 1)
    square = re.sub(r' rx="[^"]*"', "", ground)
    middle = 12 * (1 - SHRINK)
    return f'{head}\n{square}<g transform="translate({middle} {middle}) scale({SHRINK})">{body}</g></svg>'


def draw(page: Page, svg: str, size: int, target: Path) -> None:
    page.set_viewport_size({"width": size, "height": size})
    page.set_content(f"<style>body{{margin:0}}svg{{display:block;inline-size:{size}px}}</style>{svg}")
    target.write_bytes(page.screenshot(omit_background=True))


if __name__ == "__main__":
    main()
