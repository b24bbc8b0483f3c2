"""A real browser without a window: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, ViewportSize, sync_playwright

OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DESK: ViewportSize = {"width": 1280, "height": 800}
PHONE: ViewportSize = {"width": 390, "height": 844}
NARROW: ViewportSize = {"width": 320, "height": 640}


class NoBrowser(Exception):
    """With what to do about it."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Raises NoBrowser."""
    path = os.environ.get("FLUX_TEST_CHROMIUM") or shutil.which("chromium")
    if path is None:
        raise NoBrowser("there is no Chromium: install Debian's package chromium, or name one in FLUX_TEST_CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(OPTIONS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def window(browser: Browser, url: str, troubles: list[str], **options: Any) -> Iterator[Page]:
    """A page of a new visitor. `troubles` is told of what the browser complains about, of what is asked of any other
    server, and of answers that failed."""
    context: BrowserContext = browser.new_context(**{"viewport": DESK, "base_url": url, **options})
    context.set_default_timeout(20_000)
    page = context.new_page()
    page.on("console", lambda message: troubles.append(message.text) if _matters(message) else None)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda asked: troubles.append(asked.url) if not asked.url.startswith(url) else None)
    page.on("response", lambda answer: troubles.append(answer.url) if answer.status >= 500 else None)
    try:
        yield page
    finally:
        context.close()


def _matters(message: ConsoleMessage) -> bool:
    """An answer that refuses something is no trouble in itself: see `response`."""
    return message.type in ("error", "warning") and not message.text.startswith("Failed to load resource")


def violations(page: Page) -> list[str]:
    """What axe-core has against a page, by every rule that it has on."""
    page.evaluate((files("axe_playwright_python") / "axe.min.js").read_text())
    found = page.evaluate("async () => (await axe.run(document, {resultTypes: ['violations']})).violations")
    return [
        f"{page.url}: {each['id']}: {each['help']}: {node['html'][:200]}" for each in found for node in each["nodes"]
    ]


def too_wide(page: Page) -> list[str]:
    """A page that has to be moved sideways to be read."""
    over = page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return [f"{page.url}: {over} px wider than the window"] if over > 0 else []
