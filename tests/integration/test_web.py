"""The pages in a real browser, on a real Kafka: what somebody does who would rather look."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest
from confluent_kafka import Producer
from playwright.sync_api import Browser, Page, expect

from integration import browser as browsers
from integration import shop as shops
from integration.browser import NARROW, PHONE, NoBrowser, chromium, too_wide, violations
from integration.shop import SCHEMES, SECONDS

TASK = """
import os, time
import flux

class Billing(flux.Task):
    topic, group_id = "{topic}", "{group}"
    retries, wait, offset_commit_interval, shutdown_timeout = 2, [0.1, 300], 0.2, 0.5

    def call(self, message):
        value = message.value.decode()
        if value == "bad" and not os.path.exists("{mended}"):
            raise LookupError(f"no customer {{message.key.decode()}}")
        if value == "broken" and not os.path.exists("{mended}"):
            raise flux.Reject(f"order {{message.offset}} has no price")
        with open("{calls}", "a") as calls:
            calls.write(value + "\\n")
"""
TOKEN = "a-token-of-enough-letters"
WAIT = 30_000


@attrs.define
class Shop(shops.Shop):
    reports: str
    processes: list[subprocess.Popen[str]] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.open(TASK)

    def start(self, *args: str) -> subprocess.Popen[str]:
        process = shops.Shop.start(self, *args, "--report-topic", self.reports)
        self.processes.append(process)
        return process

    def work(self) -> None:
        self.start("process", *self.options, "--create-topics", "--report", "Billing")

    def serve(self, *args: str) -> str:
        """The address of its pages."""
        process = self.start("web", *self.options, "--port", "0", "--every", "1", *args)
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.match(r"(http://127\.0\.0\.1:\d+)/", line)
        assert found, line + process.stderr.read()
        return found[1]

    def produce(self, *values: str) -> None:
        producer = Producer({"bootstrap.servers": self.bootstrap})
        for number, value in enumerate(values):
            producer.produce(self.topic, value.encode(), f"customer-{number}".encode(), headers=[("source", b"shop")])
        assert producer.flush(SECONDS) == 0

    def done(self, value: str) -> int:
        return self.calls.read_text().split().count(value)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    try:
        with chromium() as found:
            yield found
    except NoBrowser as reason:
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(str(reason), pytrace=False)
        pytest.skip(str(reason))


@pytest.fixture
def shop(
    request: pytest.FixtureRequest,
    bootstrap: str,
    make_topic: Callable[..., str],
    unique: Callable[[], str],
    tmp_path: Path,
) -> Iterator[Shop]:
    names = unique()[:9]
    scheme = getattr(request, "param", "confluent")
    shop = Shop(bootstrap, scheme, make_topic(2, f"{names}-orders"), names, tmp_path, f"{names}-reports")
    yield shop
    for process in shop.processes:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
    for process in shop.processes:
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture
def troubles() -> Iterator[list[str]]:
    """What no page may bring about: complaints of the browser, requests to other servers, failures."""
    found: list[str] = []
    yield found
    assert found == []


def reload_until(page: Page, text: str) -> None:
    until = time.monotonic() + SECONDS
    while text not in page.inner_text("main"):
        assert time.monotonic() < until, page.inner_text("main")
        page.wait_for_timeout(300)
        page.reload()


@pytest.mark.parametrize("shop", SCHEMES, indirect=True)
def test_a_dead_letter_is_seen_understood_replayed_and_seen_done(
    shop: Shop, browser: Browser, troubles: list[str]
) -> None:
    shop.work()
    url = shop.serve()
    with browsers.window(browser, url, troubles) as page:
        page.goto("/")
        shop.produce("fine", "broken", "fine", "broken")
        # nobody reloads: the page is told
        expect(page.locator(".tile", has_text="Dead letters").locator(".value")).to_have_text("2", timeout=WAIT)
        page.locator("#tasks a.dead").click()

        cause = page.locator("#causes tbody tr")
        expect(cause).to_have_count(1)
        expect(cause).to_contain_text("order # has no price")
        expect(cause.locator(".num")).to_have_text("2")
        page.get_by_role("link", name="Example").click()
        expect(page.get_by_role("region", name="Traceback")).to_contain_text("billing.py")
        expect(page.get_by_role("region", name="Value", exact=True)).to_have_text("broken")
        expect(page.get_by_role("main")).to_contain_text("rejected")

        shop.mended.touch()
        page.get_by_role("link", name="Replay all with this error (2)").click()
        expect(page.get_by_role("main")).to_contain_text("2 dead letters of")
        page.get_by_role("button", name="Replay them").click()
        expect(page.get_by_role("status")).to_contain_text("done replayed 2 dead letters", timeout=WAIT)

        page.get_by_role("main").get_by_role("link", name="Dead letters of Billing").click()
        expect(page.get_by_role("main")).to_contain_text("No dead letters left to replay.")
        page.get_by_label("also replayed and rejected ones").check()
        page.get_by_role("button", name="Filter").click()
        expect(page.locator("tbody .state", has_text="replayed")).to_have_count(2)
        page.locator("tbody th a").first.click()
        page.get_by_role("link", name="Trace this record").click()
        reload_until(page, "Now: done in retry 1")
        assert shop.done("broken") == 2


def test_everybody_can_use_every_page(shop: Shop, browser: Browser, troubles: list[str]) -> None:
    shop.work()
    url = shop.serve()
    shop.produce(*["fine"] * 5, "bad", "bad", "broken", "broken")
    with browsers.window(browser, url, troubles) as page:
        page.goto("/tasks/Billing/dead-letters")
        reload_until(page, "2 open")
        page.goto("/tasks/Billing/waiting")
        reload_until(page, "LookupError")
        page.goto("/workers")
        reload_until(page, "Processes")
        page.goto("/tasks/Billing/dead-letters/export")
        page.get_by_role("button", name="Export them").click()
        expect(page.get_by_role("link", name="Download the file")).to_be_visible(timeout=WAIT)
        job = page.url.removeprefix(url)
        page.goto("/tasks/Billing/dead-letters")
        letter = page.locator("tbody th a").last.get_attribute("href")
        assert letter is not None
    pages = ["/", "/workers", "/jobs", job, letter, f"{letter}/edit", "/nothing", "/login"]
    kinds = (
        "",
        "/waiting",
        "/dead-letters",
        "/dead-letters?error=nothing",
        "/dead-letters/replay",
        "/dead-letters/reject",
        "/dead-letters/history",
        "/dead-letters/purge?what=all",
    )
    more = (
        "/dead-letters/export",
        "/records/0/0/0",
        "/records/1/0/0",
        "/trace",
        "/trace?key=customer-5",
        "/trace?origin=x",
        "/doctor",
    )
    pages += [f"/tasks/Billing{kind}" for kind in (*kinds, *more)]
    found: list[str] = []
    for scheme, size in (("light", browsers.DESK), ("dark", PHONE)):
        with browsers.window(browser, url, [], color_scheme=scheme, viewport=size) as page:
            for path in pages:
                page.goto(path)
                found += [f"{scheme}: {each}" for each in violations(page)]
                if size is PHONE:
                    page.set_viewport_size(NARROW)
                    found += too_wide(page)
                    page.set_viewport_size(PHONE)
    assert not found, "\n".join(found)
    with browsers.window(browser, url, []) as page:
        page.goto("/tasks/Billing/dead-letters")
        page.evaluate("document.documentElement.style.setProperty('--faint', '#ccc')")
        assert "color-contrast" in str(violations(page)), "what is wrong would be found"


def test_the_keyboard_is_enough_and_keeps_its_place_while_the_page_lives(
    shop: Shop, browser: Browser, troubles: list[str]
) -> None:
    shop.work()
    url = shop.serve()
    with browsers.window(browser, url, troubles) as page:
        page.goto("/")
        page.keyboard.press("Tab")
        expect(page.locator(":focus")).to_have_text("Skip to the content")
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        page.locator("#tasks tbody th a").focus()
        seen = page.evaluate("Number(document.body.dataset.seen || 0)")
        shop.produce("fine")
        until = time.monotonic() + SECONDS
        while page.evaluate("Number(document.body.dataset.seen || 0)") < seen + 3:
            assert time.monotonic() < until
            page.wait_for_timeout(200)
        expect(page.locator(":focus")).to_have_text("Billing")
        page.keyboard.press("Enter")
        expect(page).to_have_url(f"{url}/tasks/Billing")
        page.get_by_role("button", name="Live").press("Space")
        expect(page.get_by_role("button", name="Paused")).to_have_attribute("aria-pressed", "false")
        seen = page.evaluate("Number(document.body.dataset.seen || 0)")
        page.wait_for_timeout(2500)
        assert page.evaluate("Number(document.body.dataset.seen || 0)") == seen


def test_a_phone_keeps_the_way_to_every_page(shop: Shop, browser: Browser, troubles: list[str]) -> None:
    url = shop.serve()
    with browsers.window(browser, url, troubles, viewport=PHONE) as page:
        page.goto("/tasks/Billing")
        page.mouse.wheel(0, 2000)
        page.get_by_role("button", name="Menu").click()
        menu = page.get_by_role("navigation", name="Pages")
        expect(menu.get_by_role("link")).to_have_text(["Overview", "Workers", "Jobs", re.compile("Billing")])
        menu.get_by_role("link", name="Workers").click()
        expect(page.get_by_role("heading", name="Workers")).to_be_visible()
        expect(menu).to_be_hidden()


def test_keys_lead_to_pages_and_can_be_turned_off(shop: Shop, browser: Browser, troubles: list[str]) -> None:
    url = shop.serve()
    with browsers.window(browser, url, troubles) as page:
        page.goto("/")
        page.keyboard.press("g")
        page.keyboard.press("w")
        expect(page).to_have_url(f"{url}/workers")
        page.goto("/tasks/Billing")
        page.keyboard.press("4")
        expect(page).to_have_url(f"{url}/tasks/Billing/trace")
        page.keyboard.press("/")
        page.keyboard.type("g1?")
        expect(page.get_by_role("textbox", name="Key")).to_have_value("g1?")
        page.get_by_role("heading", name="Billing").click()
        page.keyboard.press("?")
        expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()
        assert violations(page) == []
        page.get_by_label("These keys are on").uncheck()
        page.get_by_role("button", name="Close").click()
        page.keyboard.press("1")
        page.reload()
        page.keyboard.press("1")
        page.wait_for_timeout(300)
        expect(page).to_have_url(f"{url}/tasks/Billing/trace")


def test_light_or_dark_is_chosen_once(shop: Shop, browser: Browser, troubles: list[str]) -> None:
    url = shop.serve()
    ground = "getComputedStyle(document.body).backgroundColor"
    with browsers.window(browser, url, troubles, color_scheme="light") as page:
        page.goto("/")
        light = page.evaluate(ground)
        theme = page.get_by_role("button", name="Theme")
        theme.click()
        assert page.evaluate(ground) == light
        theme.click()
        expect(theme).to_have_text("Theme: dark")
        dark = page.evaluate(ground)
        assert dark != light
        page.goto("/workers")
        assert page.evaluate(ground) == dark
        theme.click()
        page.reload()
        assert page.evaluate(ground) == light


def test_a_chart_tells_what_it_shows_where_the_pointer_is(shop: Shop, browser: Browser, troubles: list[str]) -> None:
    url = shop.serve()
    shop.produce(*["fine"] * 7)
    with browsers.window(browser, url, troubles) as page:
        page.goto("/tasks/Billing")
        expect(page.locator(".plot", has_text="Lag").locator(".key b")).to_have_text("7", timeout=WAIT)
        expect(page.locator(".axis").first).to_contain_text(re.compile("[2-9] seconds ago"), timeout=WAIT)
        page.get_by_role("button", name="Live").click()
        page.wait_for_timeout(500)  # what is under way is taken over still
        box = page.locator(".plot", has_text="Lag").locator("svg").bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + box["width"] - 1, box["y"] + 40)
        expect(page.locator(".tip").first).to_contain_text("7 records, 0 s ago")
        page.mouse.move(5, 5)
        expect(page.locator(".tip")).to_have_count(0)


def test_a_page_says_that_it_is_old_when_the_server_is_away_and_goes_on_when_it_is_back(
    shop: Shop, browser: Browser
) -> None:
    url = shop.serve()
    port = url.rpartition(":")[2]
    with browsers.window(browser, url, []) as page:
        page.goto("/")
        expect(page.get_by_role("button", name="Live", exact=True)).to_be_visible()
        served = shop.processes.pop()
        served.send_signal(signal.SIGINT)
        assert served.wait(60) == 0, "a browser that listens does not hold it up"
        expect(page.get_by_role("button", name="Not live")).to_be_visible(timeout=WAIT)
        shop.serve("--port", port)
        expect(page.get_by_role("button", name="Live", exact=True)).to_be_visible(timeout=WAIT)
        for stream in (served.stdout, served.stderr):
            assert stream is not None
            stream.close()


def test_every_page_works_without_a_script(shop: Shop, browser: Browser, troubles: list[str]) -> None:
    shop.work()
    url = shop.serve()
    shop.produce("broken")
    with browsers.window(browser, url, troubles, java_script_enabled=False) as page:
        page.goto("/tasks/Billing/dead-letters")
        reload_until(page, "1 open")
        shop.mended.touch()
        page.get_by_role("link", name="Replay all").click()
        page.get_by_role("button", name="Replay them").click()
        reload_until(page, "replayed 1 dead letter")
    until = time.monotonic() + SECONDS
    while not shop.done("broken"):
        assert time.monotonic() < until
        time.sleep(0.2)


def test_an_export_is_fetched_and_a_purge_is_confirmed_by_its_count(
    shop: Shop, browser: Browser, troubles: list[str]
) -> None:
    shop.work()
    url = shop.serve()
    shop.produce("broken", "broken")
    with browsers.window(browser, url, troubles) as page:
        page.goto("/tasks/Billing/dead-letters")
        reload_until(page, "2 open")
        page.get_by_role("link", name="Export").click()
        page.get_by_role("button", name="Export them").click()
        with page.expect_download() as fetched:
            page.get_by_role("link", name="Download the file").click()
        lines = [json.loads(line) for line in fetched.value.path().read_text().splitlines()]
        assert [line["value"] for line in lines] == ["broken", "broken"]

        page.goto("/tasks/Billing/dead-letters/purge")
        page.get_by_label("all", exact=True).check()
        page.get_by_role("button", name="Count them").click()
        expect(page.get_by_role("main")).to_contain_text("2 of them are open")
        page.get_by_label("To confirm").fill("3")
        page.get_by_role("button", name="Delete them").click()
        expect(page.get_by_role("alert")).to_contain_text("nothing was deleted")
        page.go_back()
        page.get_by_label("To confirm").fill("2")
        page.get_by_role("button", name="Delete them").click()
        expect(page.get_by_role("status")).to_contain_text("deleted 2 dead letters", timeout=WAIT)
        page.goto("/tasks/Billing/dead-letters")
        expect(page.get_by_role("main")).to_contain_text("No dead letters left to replay.")


def test_chosen_dead_letters_are_rejected(shop: Shop, browser: Browser, troubles: list[str]) -> None:
    shop.work()
    url = shop.serve()
    shop.produce("broken", "broken")
    with browsers.window(browser, url, troubles) as page:
        page.goto("/tasks/Billing/dead-letters")
        reload_until(page, "2 open")
        page.get_by_role("checkbox", name="Choose").first.check()
        page.get_by_role("button", name="Reject chosen").click()
        expect(page.get_by_role("main")).to_contain_text("Reject: 1 chosen")
        page.get_by_label("Why").fill("closed")
        page.get_by_role("button", name="Reject them").click()
        expect(page.get_by_role("status")).to_contain_text("rejected 1 dead letter", timeout=WAIT)
        page.goto("/tasks/Billing/dead-letters")
        expect(page.get_by_role("main")).to_contain_text("1 open, 1 rejected")
        page.get_by_role("link", name="History").click()
        expect(page.get_by_role("main")).to_contain_text("why: closed")


def test_a_replay_is_followed_and_cancelled_and_goes_on_later(
    shop: Shop, browser: Browser, troubles: list[str]
) -> None:
    shop.work()
    url = shop.serve()
    shop.produce(*["broken"] * 6)
    with browsers.window(browser, url, troubles) as page:
        page.goto("/tasks/Billing/dead-letters")
        reload_until(page, "6 open")
        shop.mended.touch()
        page.goto("/tasks/Billing/dead-letters/replay")
        page.get_by_label("Records per second").fill("1")
        page.get_by_role("button", name="Replay them").click()
        expect(page.get_by_role("main")).to_contain_text(re.compile("[2-5] of 6 processed"), timeout=WAIT)
        expect(page.get_by_role("status")).to_contain_text("running")
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_role("status")).to_contain_text("cancelled", timeout=WAIT)
        page.goto("/tasks/Billing/dead-letters/replay")
        page.get_by_role("button", name="Replay them").click()
        expect(page.get_by_role("status")).to_contain_text("done", timeout=WAIT)
    until = time.monotonic() + SECONDS
    while shop.done("broken") < 6:
        assert time.monotonic() < until
        time.sleep(0.2)
    assert shop.done("broken") == 6, "each one once"


def test_the_token_is_asked_for_once_and_is_in_no_address(shop: Shop, browser: Browser) -> None:
    url = shop.serve("--token", TOKEN, "--read-only")
    with browsers.window(browser, url, []) as page:
        addresses: list[str] = []
        page.on("request", lambda asked: addresses.append(asked.url))
        page.goto("/tasks/Billing")
        expect(page.get_by_role("heading", name="flux")).to_be_visible()
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button", name="Log in").click()
        expect(page).to_have_url(f"{url}/tasks/Billing")
        expect(page.get_by_role("banner")).to_contain_text("read-only")
        [cookie] = page.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        assert page.evaluate("document.cookie") == ""
        page.goto(f"data:text/html,<a href='{url}/workers?x=1'>a link in a chat</a>")
        page.get_by_role("link").click()
        expect(page.get_by_role("heading", name="Workers")).to_be_visible()
        expect(page).to_have_url(f"{url}/workers?x=1")
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_label("Token")).to_be_visible()
        page.goto("/workers")
        expect(page.get_by_label("Token")).to_be_visible()
        page.goto(f"data:text/html,<a href='{url}/jobs'>a link in a chat</a>")
        page.get_by_role("link").click()
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("heading", name="Jobs")).to_be_visible()
        assert not any(TOKEN in address for address in addresses)
