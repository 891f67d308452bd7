"""What a person does in the editor, step by step, for every runtime and machine the tests have."""

from __future__ import annotations

import itertools
from pathlib import Path

from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import Frame, Page

from support.waiting import poll


def run_command(page: Page, frame: Frame, command: str) -> None:
    """Run a command of the editor's palette."""
    page.keyboard.press("F1")
    box = frame.locator(".quick-input-widget input").first
    box.wait_for(state="visible")
    box.fill(f">{command}")
    frame.locator(".quick-input-list .monaco-list-row").first.wait_for()
    page.keyboard.press("Enter")


def edit_and_save(page: Page, frame: Frame, workspace: Path) -> None:
    """Open a file from the tree, type into it, save; it is on disk afterwards."""
    file = workspace / "hello.txt"
    file.write_text("before\n")
    file.chmod(0o666)
    show_explorer(page, frame, "hello.txt")
    frame.get_by_role("treeitem", name="hello.txt").dblclick()
    frame.locator(".monaco-editor .view-lines").first.click()
    page.keyboard.press("Control+Home")
    page.keyboard.type("written in the browser ")
    page.keyboard.press("Control+s")
    poll(lambda: "written in the browser before" in file.read_text(), "the file is saved on disk", 30)


def show_explorer(page: Page, frame: Frame, name: str) -> None:
    """Until ``name`` is seen there: a command typed while the editor still starts can get lost, and so can the news of a file."""
    tries = itertools.count()

    def shown() -> bool:
        run_command(page, frame, "View: Show Explorer")
        if next(tries):
            run_command(page, frame, "File: Refresh Explorer")
        try:
            frame.get_by_role("treeitem", name=name).wait_for(timeout=8000)
        except PlaywrightError:
            return False
        return True

    poll(shown, f"{name} is in the editor's list of files", 60)


def trust_the_folder(page: Page, frame: Frame) -> None:
    """Workspace trust is on (DECIDED 28): say yes once, as a person does; a command typed too early is typed again."""
    button = frame.get_by_role("button", name="Trust", exact=True).first

    def asked() -> bool:
        run_command(page, frame, "Workspaces: Manage Workspace Trust")
        try:
            button.wait_for(timeout=8000)
        except PlaywrightError:
            page.keyboard.press("Escape")
            return False
        return True

    poll(asked, "the editor asks whether to trust the folder", 60)
    button.click()
    page.keyboard.press("Control+w")


def use_the_terminal(page: Page, frame: Frame, workspace: Path) -> tuple[str, str]:
    """Open a terminal and ask it who and where it is. Returns (account, folder)."""
    run_command(page, frame, "Terminal: Create New Terminal")
    frame.locator(".terminal-wrapper .xterm").first.wait_for()

    def typed() -> bool:
        # A fresh terminal can swallow the first keys; asking again does no harm.
        page.keyboard.type("id -un > who.txt; pwd > where.txt\n", delay=10)
        page.wait_for_timeout(1000)
        return (workspace / "where.txt").exists() and bool((workspace / "where.txt").read_text())

    poll(typed, "the terminal runs a command", 45)
    return (workspace / "who.txt").read_text().strip(), (workspace / "where.txt").read_text().strip()
