"""Arbitrary input to whatever reads headers, positions' metadata, stages and what a user produces."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import flux
from flux.adapters.memory import MemoryAdapter, forget
from flux.adapters.memory.log import MemoryRecord
from flux.core import flux_headers
from flux.core.engine.forwards import ForwardedCopy
from flux.core.engine.offset_tracker import OffsetTracker, read_metadata
from flux.core.message import Message
from flux.core.ports import ProducerRecord
from flux.core.stage import Stages, parse_stages
from flux.producing.encoding import encode_headers

NOW = 1_700_000_000_000
DELAY = 30 * 86_400_000
NAMES = [value for name, value in vars(flux_headers).items() if name.isupper() and isinstance(value, str)]

numbers = st.one_of(
    st.integers(-(10**25), 10**25).map(lambda n: str(n).encode()),
    st.sampled_from(
        [b"", b"-", b"1 ", b" 1", b"+1", b"1_0", "٣".encode(), b"9" * 5000, b"1\n", b"\xff", b"0x1", b"1e5"]
    ),
)
names = st.one_of(st.sampled_from(NAMES), st.text(max_size=8), st.text(max_size=8).map(lambda t: f"flux-{t}"))
headers = st.lists(st.tuples(names, st.none() | numbers | st.binary(max_size=20)), max_size=12)


@given(headers, st.integers(1, 100))
def test_any_headers_give_values_within_its_bounds(pairs: list[tuple[str, bytes | None]], stage: int) -> None:
    read = flux_headers.read(pairs, stage, NOW, DELAY)
    assert read.stage == stage
    replayed = any(name == flux_headers.ATTEMPTS and value and not value.strip(b"0") for name, value in pairs)
    assert (0 if replayed else 1) <= read.attempts <= 1_000_000
    assert read.due is None or 0 <= read.due <= NOW + DELAY + 3_600_000
    assert 0 <= read.replays <= 1_000_000
    assert read.first_failed_at is None or read.first_failed_at >= 0
    if read.origin is not None:
        topic, partition, offset = read.origin
        assert 0 < len(topic) < 250
        assert partition >= 0
        assert 0 <= offset < 2**63
    assert set(read.ignored) <= {name for name, _ in pairs}


@given(headers, st.integers(1, 100), st.integers(0, 2**31 - 1), st.integers(0, 2**63 - 1))
def test_a_record_of_any_headers_can_be_looked_at_and_moved(
    pairs: list[tuple[str, bytes | None]], number: int, partition: int, offset: int
) -> None:
    record = MemoryRecord("t", partition, offset, ProducerRecord(b"v", b"k", pairs), (1, NOW))
    message = Message.of(record, b"v", flux_headers.read(pairs, number, NOW, DELAY))
    assert list(message.headers) == pairs
    assert repr(message)
    stages = Stages("t", "g", 101)
    moved = ForwardedCopy(message, stages[number + 1], "error", 1.0, "g", NOW, "E", "text", "trace")
    after = moved.producer_record(NOW, None).headers
    assert [pair for pair in after if not pair[0].startswith("flux-")] == [
        pair for pair in pairs if not pair[0].startswith("flux-")
    ]
    again = flux_headers.read(after, number + 1, NOW, DELAY)
    assert again.ignored == ()
    assert again.origin == message.origin


@given(st.integers(0, 2**62), st.text())
def test_any_metadata_is_ranges_above_the_position_or_ignored(position: int, text: str) -> None:
    assert read_metadata(position, text) is None


@st.composite
def offset_trackers(draw: st.DrawFn) -> OffsetTracker:
    offset_tracker = OffsetTracker(draw(st.integers(0, 2**40)), max_metadata=draw(st.sampled_from([20, 40, 200, 4095])))
    for start, length in draw(st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 200)), max_size=30)):
        offset_tracker.done(offset_tracker.committable + start, offset_tracker.committable + start + length)
    return offset_tracker


@given(offset_trackers(), st.integers(0, 4094), st.sampled_from("Aa0-_.fr\0é="))
def test_damaged_metadata_is_ignored(offset_tracker: OffsetTracker, at: int, character: str) -> None:
    offset_tracker.done(offset_tracker.committable + 7, offset_tracker.committable + 8)
    text = offset_tracker.metadata()
    at %= len(text)
    assume(text[at] != character)
    read = read_metadata(offset_tracker.committable, text[:at] + character + text[at + 1 :])
    # The last character of a base 64 text holds bits that mean nothing.
    assert read is None or (at == len(text) - 1 and read == read_metadata(offset_tracker.committable, text))


@given(offset_trackers())
def test_metadata_says_nothing_that_is_not_done_and_fits(offset_tracker: OffsetTracker) -> None:
    text = offset_tracker.metadata()
    read = read_metadata(offset_tracker.committable, text) if text else []
    assert read is not None
    done = list(offset_tracker.ranges())
    assert all(any(low <= start < end <= high for low, high in done) for start, end in read)
    assert read_metadata(offset_tracker.committable + 1, text) is None


@given(st.one_of(st.text(), st.text("0123456789,- \n²٣", max_size=12)), st.integers(0, 100))
def test_any_stages_are_numbers_of_stages_or_a_configuration_error(text: str, retries: int) -> None:
    try:
        stages = parse_stages(text, retries)
    except flux.ConfigurationError as error:
        said = str(error)
        assert "\n" not in said
        return
    assert stages == sorted(set(stages))
    assert stages
    assert set(stages) <= set(range(retries + 2))


# -- what a user produces

things: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.binary(), st.text(), st.just("\ud800"), st.just(object()),
    st.lists(st.integers(), max_size=2), st.binary().map(bytearray), st.binary().map(lambda data: memoryview(data)),
    st.sampled_from([bytes, len, Ellipsis, 1j, range(3)]),
)  # fmt: skip
header_things: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    things,
    st.lists(
        st.one_of(things, st.tuples(things), st.tuples(things, things), st.tuples(st.text(), st.binary())), max_size=3
    ),
    st.dictionaries(st.one_of(st.text(), st.integers(), st.binary()), things, max_size=3),
    st.just(iter([("a", b"b")])),
)


@settings(max_examples=300)
@given(header_things)
def test_any_headers_are_pairs_or_a_configuration_error(given_headers: Iterable[Any]) -> None:
    try:
        pairs = encode_headers(given_headers)
    except flux.ConfigurationError:
        return
    for name, value in pairs:
        assert isinstance(name, str)
        assert "\0" not in name
        assert name.encode() is not None
        assert value is None or isinstance(value, bytes)


@pytest.fixture(scope="module")
def cluster() -> Any:
    name = f"fuzz-{secrets.token_hex(4)}"
    yield MemoryAdapter(name, default_partitions=3)
    forget(name)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(st.binary(), st.text(), things),
    st.one_of(st.none(), st.binary(), things),
    st.one_of(st.none(), st.dictionaries(st.text(), st.text()), header_things),
    st.one_of(st.none(), st.none(), st.binary(), things),
    st.one_of(st.none(), st.none(), st.integers(-2, 4), things),
    st.one_of(st.none(), st.none(), st.integers(-2, 2**70), things),
)
def test_whatever_is_produced_is_a_record_or_a_configuration_error_before_anything_is_buffered(
    cluster: MemoryAdapter, value: Any, key: Any, pairs: Any, partition_key: Any, partition: Any, timestamp: Any
) -> None:
    class P(flux.Producer):
        topic = "t"
        adapter = cluster

    before = len(cluster.broker.records("t"))
    failed = 0
    given_fields: dict[str, Any] = {"partition_key": partition_key, "partition": partition, "timestamp": timestamp}
    try:
        P.produce(value, key=key, headers=pairs, **given_fields)
    except flux.ConfigurationError:
        failed = 1
    try:
        P.flush(5)
    except flux.DeliveryError as error:
        failed += len(error.failed)
    records = cluster.broker.records("t")[before:]
    assert len(cluster.broker.records("t")) - before + failed == 1
    for record in records:
        assert all(each is None or isinstance(each, bytes) for each in (record.key(), record.value()))
