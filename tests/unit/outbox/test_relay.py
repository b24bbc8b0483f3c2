"""From a transaction to Kafka: on a database and the in-memory broker, in one thread."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import attrs
import pytest

import flux
from flux.adapters.memory import Broker, MemoryAdapter, forget
from flux.core.errors import BrokerError, Fault
from flux.core.ports import ProducerRecord
from flux.outbox import Outbox, Relay
from flux.outbox.relay import MOST_ROWS
from unit.support.memory_support import ScriptedSystem
from unit.support.outbox_support import Database, Invoices

LARGE = BrokerError("too large", Fault.TOO_LARGE)


@attrs.frozen
class Bench:
    database: Database
    system: ScriptedSystem
    adapter: MemoryAdapter

    @property
    def broker(self) -> Broker:
        return self.adapter.broker

    def relay(self) -> Relay:
        return Relay(self.database.store(), adapter=self.adapter, system=self.system)

    def values(self, topic: str = "invoices") -> list[bytes | None]:
        return [record.value() for record in self.broker.records(topic)]


@pytest.fixture
def bench(database: Database) -> Iterator[Bench]:
    name = f"outbox-{secrets.token_hex(4)}"
    system = ScriptedSystem()
    yield Bench(database, system, MemoryAdapter(name, system=system))
    forget(name)


def test_a_row_becomes_the_record_that_its_producer_would_have_written(bench: Bench) -> None:
    class Orders(flux.Producer):
        topic = "orders"
        serializer = staticmethod(flux.serde.json_serializer)
        adapter = bench.adapter

    class Orderbox(Outbox):
        adapter = bench.adapter

    bench.broker.create_topic("orders", 7)
    given: list[dict[str, Any]] = [
        {
            "value": {"id": 1},
            "key": "ada",
            "headers": [("trace", "1"), ("trace", b"\xff")],
            "timestamp": 1_700_000_000_000,
        },
        {"value": {"id": 2}, "partition_key": "ada", "timestamp": 1},
        {"value": None, "key": b"\xff", "partition": 6, "timestamp": 2},
    ]
    with bench.database.transaction() as db:
        ids = [Orderbox.produce(db, Orders, **each) for each in given]
    assert bench.relay().run_once() == 3
    relayed = bench.broker.records("orders")
    found = {dict(record.headers() or ())["outbox-id"] for record in relayed}
    assert found == {id.encode() for id in ids}
    for each in given:
        Orders.produce(**each)
    Orders.flush()
    everything = [plain(record) for record in bench.broker.records("orders")]
    assert len(everything) == 6
    assert all(everything.count(record) == 2 for record in everything)


def plain(record: Any) -> tuple[object, ...]:
    headers = [pair for pair in record.headers() or () if pair[0] != "outbox-id"]
    return record.partition(), record.key(), record.value(), headers, record.timestamp()


def test_only_what_is_committed_is_moved_and_once(bench: Bench) -> None:
    relay = bench.relay()
    with bench.database.transaction() as db:
        Outbox.produce(db, Invoices, "1")
        assert relay.run_once() == 0
    assert relay.run_once() == 1
    assert relay.run_once() == 0
    assert bench.values() == [b"1"]
    assert bench.database.ids() == []
    assert relay.relayed == {"invoices": 1}


def test_rows_of_a_key_keep_their_order_over_many_turns(bench: Bench) -> None:
    numbers = range(MOST_ROWS * 2 + 10)
    bench.database.produce(*numbers, key="ada")
    assert bench.relay().run_once() == len(numbers)
    assert bench.values() == [str(number).encode() for number in numbers]


def test_a_refused_row_holds_back_its_key_alone_and_is_tried_again(bench: Bench) -> None:
    def refuse(topic: str, partition: int, record: ProducerRecord) -> BrokerError | None:
        return LARGE if record.value == b"bad" else None

    bench.database.produce("bad", "behind", key="ada")
    bench.database.produce("fine", key="bob")
    bench.broker.fail_writes(refuse)
    relay = bench.relay()
    assert relay.run_once() == 1
    assert bench.values() == [b"fine"]
    assert bench.database.execute("SELECT error FROM flux_outbox ORDER BY id") == [("too large",), (None,)]
    assert relay.refused == {"invoices": 1}
    bench.broker.fail_writes(None)
    assert relay.run_once() == 0  # it is not due yet
    bench.system.time += 1
    assert relay.run_once() == 2
    assert bench.values() == [b"fine", b"bad", b"behind"]


def test_a_topic_that_does_not_exist_holds_back_its_own_rows(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    class Nowhere(flux.Producer):
        topic = "nowhere"

    forget(bench.adapter.cluster.removeprefix("memory://"))
    adapter = MemoryAdapter(bench.adapter.cluster.removeprefix("memory://"), system=bench.system, auto_create=False)
    adapter.broker.create_topic("invoices")
    bench.database.produce(1, 2, 3, producer=Nowhere)
    bench.database.produce(4)
    relay = Relay(bench.database.store(), adapter=adapter, system=bench.system)
    assert relay.run_once() == 1
    assert len(bench.database.ids()) == 3
    assert "it stays in the table, and so do later rows of its key" in caplog.text
    adapter.broker.create_topic("nowhere")
    bench.system.time += 1
    assert relay.run_once() == 3


def test_rows_that_are_refused_keep_it_from_no_other_lane(bench: Bench) -> None:
    def refuse(topic: str, partition: int, record: ProducerRecord) -> BrokerError | None:
        return LARGE if record.value == b"bad" else None

    for number in range(40):
        bench.database.produce("bad", key=f"bad-{number}")
        bench.database.produce("fine", key=f"fine-{number}")
    bench.broker.fail_writes(refuse)
    assert bench.relay().run_once() == 40


def test_in_an_outage_rows_stay_and_are_moved_afterwards(bench: Bench) -> None:
    bench.database.produce(1, 2, key="ada")
    bench.broker.available = False
    relay = bench.relay()
    bench.system.after(1, lambda: bench.system.run_spawned())
    with pytest.raises(BrokerError, match=r"acknowledged in time|not delivered in time"):
        relay.run_once()
    assert len(bench.database.ids()) == 2
    assert bench.database.execute("SELECT error FROM flux_outbox") == [(None,), (None,)]
    bench.broker.available = True
    assert relay.run_once() == 2
    assert [value for value in bench.values() if value is not None][-2:] == [b"1", b"2"]


def test_a_lost_acknowledgement_is_a_repetition_with_the_same_id_and_in_order(bench: Bench) -> None:
    lost: list[object] = []

    def lose(topic: str, partition: int, record: ProducerRecord) -> BrokerError | None:
        if record.value == b"1" and not lost:
            lost.append(record)
            return BrokerError("not delivered in time", Fault.UNAVAILABLE)
        return None

    bench.database.produce(1, 2, key="ada")
    bench.database.produce(3, key="bob")
    bench.broker.fail_writes(lose, stored=True)
    relay = bench.relay()
    relay.run_once()
    bench.system.time += 1
    relay.run_once()
    ada = [record for record in bench.broker.records("invoices") if record.key() == b"ada"]
    assert [record.value() for record in ada] == [b"1", b"1", b"2"]
    ids = [dict(record.headers() or ())["outbox-id"] for record in ada]
    assert ids[0] == ids[1] != ids[2]


def test_a_relay_that_dies_before_it_deletes_leaves_its_rows_for_the_next(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.database.produce(1, 2, key="ada")
    store = bench.database.store()

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "finish", die)
    with pytest.raises(KeyboardInterrupt):
        Relay(store, adapter=bench.adapter, system=bench.system).run_once()
    assert bench.relay().run_once() == 2
    assert bench.values() == [b"1", b"2", b"1", b"2"]


def test_it_runs_until_it_is_stopped_and_is_ready_while_it_works(bench: Bench) -> None:
    relay = bench.relay()
    states: list[tuple[bool, bool]] = []

    def look() -> None:
        states.append((relay.health().live, relay.health().ready))

    look()
    bench.database.produce(1)
    sleep = bench.system.sleep

    def slept(seconds: float) -> None:
        sleep(seconds)
        look()
        if len(states) == 5:
            relay.stop()

    bench.system.sleep = slept  # type: ignore[method-assign]
    relay.run()
    look()
    assert bench.values() == [b"1"]
    assert states == [(True, False), *[(True, True)] * 4, (True, False)]
    assert relay.status is not None
    assert relay.status.rows == 0


def test_while_the_database_is_unavailable_it_waits_longer_each_time_and_says_so(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.database.execute("ALTER TABLE flux_outbox RENAME TO hidden")
    store = bench.database.store()
    if bench.database.url.startswith("sqlite"):
        store._path = store._path / "nowhere"  # type: ignore[attr-defined]
    else:
        store._url = "postgresql://postgres@127.0.0.1:1/postgres"  # type: ignore[attr-defined]
    relay = Relay(store, adapter=bench.adapter, system=bench.system)
    slept: list[float] = []
    sleep = bench.system.sleep

    def count(seconds: float) -> None:
        sleep(seconds)
        slept.append(seconds)
        if bench.system.time > 1_700_000_010:
            relay.stop()

    bench.system.sleep = count  # type: ignore[method-assign]
    relay.run()
    assert caplog.text.count("the database is unavailable: ") == 1
    assert bench.system.time - 1_700_000_000.0 >= 10


def test_a_missing_table_ends_it(bench: Bench) -> None:
    bench.database.execute("DROP TABLE flux_outbox")
    with pytest.raises(flux.ConfigurationError, match="create it with --create-table"):
        bench.relay().run()
