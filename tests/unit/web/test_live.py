"""One sampler for all visitors, and the event stream."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncGenerator
from typing import Any, cast

import pytest
from starlette.testclient import TestClient

from flux.web import live
from flux.web.app import WebServer, listening
from flux.web.page_context import PageContext
from unit.support.web_support import ORIGIN, Web


def stream(context: PageContext) -> AsyncGenerator[str, None]:
    return cast("AsyncGenerator[str, None]", live.events(context.broadcast))


async def next_of(events: AsyncGenerator[str, None]) -> str:
    return await asyncio.wait_for(anext(events), 10)


def test_streams_get_news_and_the_end() -> None:
    web = Web()

    async def watch() -> list[str]:
        web.context.broadcast.attach()
        events = stream(web.context)
        received = [await next_of(events)]
        listening = asyncio.ensure_future(next_of(events))
        await asyncio.sleep(0)
        assert web.context.broadcast.streams == 1
        await asyncio.to_thread(web.context.broadcast.notify)
        received.append(await listening)
        web.context.broadcast.close()
        received += [text async for text in events]
        return received

    received = asyncio.run(watch())
    assert received == ["retry: 2000\n\n", "event: news\ndata: 1\n\n"]
    assert web.context.broadcast.streams == 0


def test_news_that_came_while_nobody_listened_is_not_missed() -> None:
    web = Web()

    async def watch() -> str:
        web.context.broadcast.attach()
        events = stream(web.context)
        await next_of(events)
        web.context.broadcast.notify()
        web.context.broadcast.notify()
        return await next_of(events)

    assert asyncio.run(watch()) == "event: news\ndata: 2\n\n"


def test_a_stream_without_news_stays_open_by_a_comment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_HEARTBEAT", 0.01)
    web = Web()

    async def watch() -> str:
        web.context.broadcast.attach()
        events = stream(web.context)
        await next_of(events)
        return await next_of(events)

    assert asyncio.run(watch()) == ": nothing new\n\n"


def test_streams_are_bounded() -> None:
    web = Web()
    web.context.broadcast.streams = live.MAX_STREAMS
    web.get("/events", 503)


def test_a_browser_that_goes_away_takes_its_stream_along() -> None:
    web = Web()
    listener = listening("127.0.0.1", 0)
    server = WebServer(web.context)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        with socket.create_connection(listener.getsockname(), timeout=60) as browser:
            browser.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            while b"retry:" not in browser.recv(4096):
                pass
            assert web.context.broadcast.streams == 1
        until = time.monotonic() + 60
        while web.context.broadcast.streams:
            assert time.monotonic() < until
            time.sleep(0.01)
    finally:
        server.stop()
        thread.join(60)
    assert not thread.is_alive()


def test_ten_browsers_cost_the_cluster_as_much_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    web = Web()
    web.take_sample()
    [admin] = {task.admin for task in web.context.tasks}
    asked: list[str] = []
    for name in ("topic_names", "watermarks", "committed_offsets", "members", "topics"):
        real = getattr(admin, name)

        def ask(*args: object, _ask: Any = real, _name: str = name) -> Any:
            asked.append(_name)
            return _ask(*args)

        monkeypatch.setattr(admin, name, ask)
    for _ in range(10):
        for path in ("/", "/workers", "/tasks/Billing"):
            web.browser().get(path)
    assert asked == []
    web.take_sample()
    assert asked != [], "the sampler itself is seen to ask"


def test_the_pages_take_samples_once_they_are_served() -> None:
    web = Web(every=3600.0)
    with TestClient(web.app, base_url=ORIGIN) as client:
        for _ in range(1000):
            if web.context.broadcast.number:
                break
            client.get("/static/flux.css")
        assert "loading" not in client.get("/tasks/Billing").text
    assert web.context.broadcast.closed


def test_an_error_in_a_sample_is_shown_and_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    web = Web()

    def fail(*args: object) -> object:
        raise ZeroDivisionError

    monkeypatch.setattr("flux.web.sampler.sample", fail)
    web.take_sample()
    assert "ZeroDivisionError: see the log" in web.get("/")
