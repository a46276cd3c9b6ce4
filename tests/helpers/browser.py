"""Pages in a real browser, for their tests: Debian's Chromium, driven by Playwright."""

import contextlib
import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium")
NEEDS = "needs a browser: apt-get install chromium, and pip install -e '.[parity]'"
_EVENTS = {
    "console": lambda message: f"message: {message.text}",
    "pageerror": lambda error: f"error: {error}",
    "dialog": lambda dialog: f"dialog: {dialog.message}",
    "popup": lambda other: f"window: {other.url}",
    "request": lambda asked: f"request: {asked.url}",
}
IS_HERE = CHROMIUM is not None and importlib.util.find_spec("playwright") is not None


@contextlib.contextmanager
def opened(path: Path, width: int = 1200, **options: Any) -> Iterator[tuple[Any, list[str]]]:
    """The page, and all that it does and should not: messages, dialogs, requests for others.

    Args:
        path: of the page.
        width: of the window, in pixels.
        options: of Playwright's `new_page`.
    """
    from playwright.sync_api import sync_playwright

    address, did = path.resolve().as_uri(), []
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page(viewport={"width": width, "height": 900}, **options)
        for event, told in _EVENTS.items():
            page.on(event, lambda it, told=told: did.append(told(it)))
        page.on("dialog", lambda dialog: dialog.dismiss())
        page.goto(address)
        did[:] = [deed for deed in did if not _is_its_own(deed, address)]
        yield page, did
        did[:] = [deed for deed in did if not _is_its_own(deed, address)]
        browser.close()


def _is_its_own(deed: str, address: str) -> bool:
    return deed == f"request: {address}" or deed.startswith(("request: data:", "request: blob:"))
