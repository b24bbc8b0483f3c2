"""Takes the pictures of the documentation, of what `flux demo --web` shows: make screenshots, two minutes long."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

from playwright.sync_api import Locator, Page

from flux.cli.demo_app import endless
from flux.web.app import WebServer, address_of, listening
from flux.web.options import WebOptions
from flux.web.page_context import PageContext
from integration.browser import PHONE, chromium, window

WARM = 15.0
"""Seconds before anybody looks: the start of a worker is no picture of its work."""
RUN = 110.0
"""Until all that fails has become dead letters."""
MOST_BYTES = 150_000


def main(directory: Path) -> None:
    demonstration = endless()
    demonstration.start()
    time.sleep(WARM)
    site = PageContext(demonstration.tasks, WebOptions(every=1.0))
    listener = listening("127.0.0.1", 0)
    server = WebServer(site)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        time.sleep(RUN)
        take(address_of(listener, "127.0.0.1").rstrip("/"), directory)
    finally:
        server.stop()
        thread.join(60)
        demonstration.stop()
        site.close()


def take(url: str, directory: Path) -> None:
    troubles: list[str] = []
    with chromium() as browser:
        for scheme in ("light", "dark"):
            with window(browser, url, troubles, color_scheme=scheme) as page:
                page.goto("/")
                page.locator("#blockers li").first.wait_for(timeout=60_000)
                picture(page, directory / f"web-overview-{scheme}.png")
        with window(browser, url, troubles, color_scheme="light") as page:
            page.goto("/tasks/Billing")
            picture(page, directory / "web-task.png")
            commands = page.locator("#commands")
            commands.locator("summary").click()
            picture(commands, directory / "web-commands.png")
            page.set_viewport_size({"width": 1280, "height": 620})
            page.goto("/tasks/Billing/dead-letters")
            picture(page, directory / "web-dead-letters.png")
            page.goto("/workers")
            picture(page, directory / "web-workers.png")
        with window(browser, url, troubles, color_scheme="dark", viewport=PHONE) as page:
            page.goto("/tasks/Shipping")
            picture(page, directory / "web-phone.png")
    assert troubles == [], troubles


def picture(of: Page | Locator, path: Path) -> None:
    of.screenshot(path=path)
    assert path.stat().st_size <= MOST_BYTES, path


if __name__ == "__main__":
    main(Path(sys.argv[1]))
