"""The page of an outbox."""

from __future__ import annotations

from pathlib import Path

import pytest

from flux.core.ports.outbox import COUNTED, OutboxStatus, OutboxStore, RefusedRow, StoreUnavailable
from flux.outbox import open_store
from flux.web import outbox
from flux.web.redaction import hide
from flux.web.shared_reading import FRESH
from unit.support.web_support import EVIL, Web, text_of


class FakeStore:
    """`found`: a status, or what is raised. `opened`, `closed`: how often."""

    def __init__(self, found: OutboxStatus | Exception) -> None:
        self.found = found
        self.opened = self.closed = 0

    def open(self) -> OutboxStore:
        self.opened += 1
        return self  # type: ignore[return-value]

    def status(self) -> OutboxStatus:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found

    def close(self) -> None:
        self.closed += 1


def test_rows_their_age_and_what_was_refused_are_shown_once_for_all_visitors() -> None:
    refused = RefusedRow(17, "invoices", b"ada", "the record is too large", 75.0)
    store = FakeStore(OutboxStatus(12, 90.0, 3, [refused]))
    web = Web(outbox=store.open)
    page = text_of(web.get("/outbox"))
    assert "Rows not in Kafka yet 12 Age of the oldest row 1.5 minutes Rows that Kafka refused 3" in page
    assert "17 invoices ada 1.2 minutes the record is too large" in page
    assert "the first 1 of 3" in page
    assert 'href="/outbox" aria-current="page"' in web.get("/outbox").replace(' data-key="gb"', "")
    assert (store.opened, store.closed) == (1, 1)
    web.yard.system.time += FRESH + 1
    web.get("/outbox")
    assert (store.opened, store.closed) == (2, 2)


def test_a_table_of_sqlite_is_read_whichever_thread_serves_the_page(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    made = open_store(url)
    made.create()
    made.close()
    web = Web(outbox=lambda: open_store(url))
    assert "The outbox is empty" in text_of(web.get("/outbox"))


def test_a_count_that_is_bounded_says_so() -> None:
    web = Web(outbox=FakeStore(OutboxStatus(COUNTED, 1.0, 0)).open)
    assert "Rows not in Kafka yet 100,000+" in text_of(web.get("/outbox"))


def test_a_database_that_is_unavailable_is_one_line_and_the_page_lives_on() -> None:
    store = FakeStore(StoreUnavailable("the database\nis unavailable"))
    web = Web(outbox=store.open)
    assert "the database is unavailable" in text_of(web.get("/outbox"))
    assert store.closed == 1
    store.found = OutboxStatus(0, None, 0)
    assert "The outbox is empty" in text_of(web.get("/outbox"))


def test_one_request_at_a_time_waits_for_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "TIMEOUT", 0.01)
    web = Web(outbox=FakeStore(OutboxStatus(0, None, 0)).open)
    assert web.context.outbox is not None
    with web.context.outbox._lock:
        assert "has not answered another request yet" in text_of(web.get("/outbox"))


def test_what_rows_hold_is_text_and_can_be_redacted() -> None:
    found = OutboxStatus(1, 1.0, 1, [RefusedRow(1, "invoices", EVIL.encode(), EVIL, 1.0)])
    assert "<script>alert" not in Web(outbox=FakeStore(found).open).get("/outbox")
    hidden = Web(outbox=FakeStore(found).open, redact=hide).get("/outbox")
    assert "alert" not in hidden


def test_without_an_outbox_there_is_no_page() -> None:
    web = Web()
    assert "/outbox" not in web.get("/")
    web.get("/outbox", 404)
