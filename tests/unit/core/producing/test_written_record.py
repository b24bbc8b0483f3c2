"""What an acknowledgement says of a record."""

from __future__ import annotations

from flux.core.ports import ProducerRecord
from flux.core.producing.written_record import WrittenRecord


def test_it_returns_what_was_written_and_where() -> None:
    written = WrittenRecord("orders", 3, 42, ProducerRecord(b"v", b"k", [("a", b"1"), ("a", None)]), (1, 1_000))
    assert (written.topic(), written.partition(), written.offset(), written.at) == ("orders", 3, 42, 42)
    assert (written.key(), written.value(), written.timestamp()) == (b"k", b"v", (1, 1_000))
    assert written.headers() == [("a", b"1"), ("a", None)]
    assert WrittenRecord("orders", 3, 42, ProducerRecord(None), (0, 0)).headers() is None


def test_later_changes_of_the_headers_change_nothing_in_it() -> None:
    given = [("a", b"1")]
    written = WrittenRecord("orders", 0, 0, ProducerRecord(b"v", None, given), (1, 0))
    given.append(("b", b"2"))
    returned = written.headers()
    assert isinstance(returned, list)
    returned.clear()
    assert written.headers() == [("a", b"1")]
