"""Connections that fall silent, as when a firewall forgets them: they stay open, and nothing comes or goes. All that
flux asks of a cluster gets through again, by either client, and without the user's doing."""

from __future__ import annotations

import gc
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import attrs
import pytest
from brokers import NoBroker
from brokers.proxy import Proxy, behind_proxy
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

import flux
from flux.adapters.aiokafka import AiokafkaAdapter
from flux.adapters.confluent import ConfluentAdapter
from flux.core.errors import BrokerError
from flux.core.ports import BEGINNING, ProducerRecord, ProducerSettings, TopicPartition

SECONDS = 30.0
SESSION = 4  # seconds
GIVE_UP = 0.5  # seconds: less than any client waits for an answer


def aiokafka(bootstrap: str) -> AiokafkaAdapter:
    member = {"session_timeout_ms": SESSION * 1000, "heartbeat_interval_ms": 500}
    return AiokafkaAdapter(bootstrap, {"request_timeout_ms": 2000}, consumer=member)


def confluent(bootstrap: str) -> ConfluentAdapter:
    member = {"session.timeout.ms": SESSION * 1000, "heartbeat.interval.ms": 500}
    return ConfluentAdapter(bootstrap, {"socket.timeout.ms": 2000}, consumer=member)


@attrs.frozen
class Network:
    proxy: Proxy

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.proxy.port}"

    def topic(self, name: str = "") -> str:
        """A new one; by a client of its own, as older ones may be silenced."""
        name = name or f"t{secrets.token_hex(6)}"
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        admin.create_topics([NewTopic(name, 1, 1)])[name].result(30)
        return name

    @contextmanager
    def nobody_there(self) -> Iterator[None]:
        """What connects is accepted, and ended at once: a load balancer without a broker behind it."""
        target, self.proxy.target = self.proxy.target, 1
        self.proxy.reset()
        try:
            yield
        finally:
            self.proxy.target = target


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    try:
        with behind_proxy({"group.min.session.timeout.ms": "1000"}) as (_, proxy):
            yield Network(proxy)
    except NoBroker as reason:
        pytest.skip(f"no broker that can be put behind a proxy: {reason}")


@pytest.fixture(params=[aiokafka, confluent], ids=lambda made: made.__name__)
def adapter(request: pytest.FixtureRequest, network: Network) -> Any:
    return request.param(network.bootstrap)


def until(works: Callable[[], bool]) -> float:
    """How long it took."""
    began = time.monotonic()
    while not works():
        assert time.monotonic() - began < SECONDS, f"does not get through again within {SECONDS:g} s"
    return time.monotonic() - began


def test_a_producer_whose_records_expire_before_the_client_gives_up(network: Network, adapter: Any) -> None:
    topic = network.topic()
    producer = adapter.producer(ProducerSettings(delivery_timeout=GIVE_UP))

    def written() -> bool:
        errors: list[BrokerError | None] = []
        producer.write(topic, [ProducerRecord(b"value")], lambda error, _: errors.append(error))
        producer.flush(SECONDS)
        return errors == [None]

    until(written)
    network.proxy.silence()
    until(written)
    producer.close(1)


def test_questions_that_are_asked_with_less_patience_than_the_client_has(network: Network, adapter: Any) -> None:
    topic = network.topic()
    admin = adapter.admin()

    def answered() -> bool:
        try:
            return topic in admin.topic_names(GIVE_UP)
        except BrokerError:
            return False

    until(answered)
    network.proxy.silence()
    until(answered)
    admin.close()


_DESCRIBES = """
import sys
from flux.adapters.confluent import ConfluentAdapter
from flux.core.errors import BrokerError
admin = ConfluentAdapter(sys.argv[1]).admin()
def described(timeout):
    try:
        return admin.members("g", timeout) == []
    except BrokerError:
        return False
while not described(1.0):
    pass
print("described", flush=True)
input()
assert not any([described(0.1) for _ in range(20)])
print("unanswered", flush=True)
input()
while not described(1.0):
    pass
assert all([described(10.0) for _ in range(20)])
print("again", flush=True)
"""


def test_groups_that_were_described_without_an_answer(network: Network) -> None:
    """In a process of its own, as librdkafka may end it."""
    command = [sys.executable, "-c", _DESCRIBES, network.bootstrap]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        watchdog = threading.Timer(2 * SECONDS, process.kill)
        watchdog.start()
        try:
            for expected, then in (("described", network.proxy.refuse), ("unanswered", network.proxy.heal)):
                assert process.stdout.readline().strip() == expected
                then()
                process.stdin.write("\n")
                process.stdin.flush()
            assert process.stdout.readline().strip() == "again"
        finally:
            network.proxy.heal()
            watchdog.cancel()
            process.kill()


def test_a_group_whose_coordinator_has_closed_the_last_connection(network: Network, adapter: Any) -> None:
    """As brokers do after ten minutes without a request."""
    admin = adapter.admin()
    assert admin.members("g", SECONDS) == []
    network.proxy.reset()
    time.sleep(1)
    assert admin.members("g", SECONDS / 2) == []
    admin.close()


def test_a_producer_that_asks_for_partitions(network: Network, adapter: Any) -> None:
    producer = adapter.producer(ProducerSettings())
    first, second = network.topic(), network.topic()  # an answer is remembered

    def answered(topic: str) -> Callable[[], bool]:
        def look() -> bool:
            try:
                return producer.partitions(topic, GIVE_UP) == 1  # type: ignore[no-any-return]
            except BrokerError:
                return False

        return look

    until(answered(first))
    network.proxy.silence()
    until(answered(second))
    producer.close(1)


def test_a_reader(network: Network, adapter: Any) -> None:
    topic = network.topic()
    producer = adapter.producer(ProducerSettings())
    reader = adapter.reader({TopicPartition(topic, 0): BEGINNING})

    def read() -> bool:
        return bool(reader.poll(10, GIVE_UP).batches)

    producer.write(topic, [ProducerRecord(b"1")], lambda error, _: None)
    until(read)
    network.proxy.silence()
    producer.write(topic, [ProducerRecord(b"2")], lambda error, _: None)
    until(read)
    reader.close()
    producer.close(1)


@attrs.define
class Working:
    """A worker on a thread, with what it was called for."""

    worker: flux.Worker
    calls: list[bytes]
    thread: threading.Thread


@pytest.fixture
def working(network: Network, adapter: Any) -> Iterator[tuple[str, Working]]:
    topic, group = network.topic(), f"g{secrets.token_hex(6)}"
    network.topic(f"{topic}-{group}-try-1")
    network.topic(f"{topic}-{group}-dlq")
    calls: list[bytes] = []

    class Works(flux.Task):
        retries = 1
        wait = 0
        offset_commit_interval = 0.1

        def call(self, message: flux.Message) -> None:
            calls.append(message.value)
            if message.stage == 0 and message.value.startswith(b"fails"):
                raise ValueError

    Works.topic, Works.group_id, Works.adapter = topic, group, adapter
    worker = flux.Worker(Works)
    thread = threading.Thread(target=worker.run)
    thread.start()
    yield topic, Working(worker, calls, thread)
    worker.stop()
    thread.join(60)
    assert not thread.is_alive()


def test_a_worker_with_its_retries_and_its_positions(
    network: Network, adapter: Any, working: tuple[str, Working]
) -> None:
    topic, at = working
    producer = ConfluentAdapter(network.bootstrap).producer(ProducerSettings())

    def called(value: bytes, times: int) -> Callable[[], bool]:
        producer.write(topic, [ProducerRecord(value)], lambda error, _: None)

        def look() -> bool:
            time.sleep(0.02)
            return at.calls.count(value) >= times

        return look

    until(called(b"fails at first", 2))
    network.proxy.silence()
    producer.close(0)
    producer = ConfluentAdapter(network.bootstrap).producer(ProducerSettings())
    until(called(b"fails later", 2))
    admin = adapter.admin()
    group = at.worker.tasks[0].group_id

    def committed() -> bool:
        time.sleep(0.1)
        position: Mapping[int, Any] = admin.committed_offsets(group, topic, 5.0)
        return position.get(0, (0,))[0] == 2  # type: ignore[no-any-return]

    until(committed)
    admin.close()
    producer.close(0)


class Lost(flux.Hooks):
    def __init__(self) -> None:
        self.at: list[float] = []

    def on_lost(self, where: Any, partitions: Any) -> None:
        self.at.append(time.monotonic())


def test_a_member_whose_group_is_silent_makes_no_calls_beyond_its_session(network: Network, adapter: Any) -> None:
    topic, group = network.topic(), f"g{secrets.token_hex(6)}"
    network.topic(f"{topic}-{group}-dlq")
    calls: list[float] = []
    lost = Lost()

    class Works(flux.Task):
        retries = 0
        ordering = "partition"
        hooks = (lost,)

        def call(self, message: flux.Message) -> None:
            calls.append(time.monotonic())
            time.sleep(0.02)

    Works.topic, Works.group_id, Works.adapter = topic, group, adapter
    producer = ConfluentAdapter(network.bootstrap).producer(ProducerSettings())
    producer.write(topic, [ProducerRecord(b"%d" % i) for i in range(600)], lambda error, _: None)
    assert producer.flush(SECONDS) == 0
    worker = flux.Worker(Works)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        until(lambda: len(calls) > 20)
        network.proxy.hang()
        silent_since = time.monotonic()
        until(lambda: bool(lost.at))
        assert lost.at[0] - silent_since < SESSION + 1.5
        time.sleep(0.1)
        made = len(calls)
        time.sleep(1)
        assert len(calls) == made
        network.proxy.heal()
        until(lambda: len(calls) > made)
        assert calls[made] - lost.at[0] < 15  # nobody waits for who was lost
    finally:
        network.proxy.heal()
        worker.stop()
        thread.join(60)
        producer.close(0)
    assert not thread.is_alive()


def test_each_record_has_its_own_time_on_a_broker_that_hangs(network: Network, adapter: Any) -> None:
    """A later record does not fail with those that were written before it."""
    topic = network.topic()
    producer = adapter.producer(ProducerSettings(delivery_timeout=4))
    began: dict[bytes, float] = {}
    took: dict[bytes, float] = {}

    def write(value: bytes) -> None:
        def ended(error: BrokerError | None, record: Any) -> None:
            took[value] = time.monotonic() - began[value] if error is not None else 0.0

        began[value] = time.monotonic()
        producer.write(topic, [ProducerRecord(value)], ended)

    write(b"first")
    until(lambda: b"first" in took)
    assert took[b"first"] == 0.0
    network.proxy.hang()
    try:
        for value in (b"old", b"younger", b"youngest"):
            write(value)
            time.sleep(1.5)
        until(lambda: len(took) == 4)
    finally:
        network.proxy.heal()
        producer.close(1)
    assert all(3.5 < took[value] < 7 for value in (b"old", b"younger", b"youngest")), took


def test_clients_that_are_closed_make_no_more_connections(network: Network, adapter: Any) -> None:
    topic = network.topic()
    gc.disable()
    try:
        producer, admin = adapter.producer(ProducerSettings()), adapter.admin()
        reader = adapter.reader({TopicPartition(topic, 0): BEGINNING})
        until(lambda: topic in admin.topic_names(5) and producer.partitions(topic, 5) == 1)
        reader.poll(10, 1.0)
        for closed in (lambda: producer.close(1), admin.close, reader.close):
            closed()
        with network.nobody_there():
            before = network.proxy.accepted
            time.sleep(2)
            assert network.proxy.accepted == before
    finally:
        gc.enable()


def test_idle_stages_do_not_storm_a_broker_that_ends_their_connections(network: Network) -> None:
    """By aiokafka; librdkafka waits 100 ms (`reconnect.backoff.ms`), which its first connections take too."""
    topic, group = network.topic(), f"g{secrets.token_hex(6)}"
    for name in [f"{topic}-{group}-try-{n}" for n in range(1, 6)]:
        network.topic(name)
    network.topic(f"{topic}-{group}-dlq")
    joined: list[Any] = []

    class Joined(flux.Hooks):
        def on_assigned(self, where: Any, partitions: Any) -> None:
            joined.append(where)

    class Works(flux.Task):
        wait = 1  # so that all stages join at the start
        hooks = (Joined(),)

        def call(self, message: flux.Message) -> None:
            """There is none."""

    Works.topic, Works.group_id, Works.adapter = topic, group, aiokafka(network.bootstrap)
    worker = flux.Worker(Works)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        until(lambda: len(joined) >= 6)
        with network.nobody_there():
            time.sleep(2)  # back-off has begun
            before, seconds = network.proxy.accepted, 3.0
            time.sleep(seconds)
            assert (network.proxy.accepted - before) / seconds < 40
    finally:
        worker.stop()
        thread.join(60)
    assert not thread.is_alive()


@pytest.mark.parametrize("broken", ["refuse", "hang"])
def test_a_schedule_goes_on_after_a_broken_network_over_three_ticks(
    network: Network, adapter: Any, broken: str
) -> None:
    calls: list[tuple[int, float]] = []

    def call(message: flux.Message) -> None:
        calls.append((int(message.headers.get("flux-tick") or 0) // 1000, time.time()))

    task = flux.task(topic=network.topic(), group_id=f"g{secrets.token_hex(4)}", retries=1)(call)
    task.every(seconds=1)
    worker = flux.Worker(task, adapter=adapter, create_topics=True)
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    try:
        until(lambda: len(calls) >= 2)
        getattr(network.proxy, broken)()
        cut = time.time()
        time.sleep(3.5)
        network.proxy.heal()
        healed = time.time()
        until(lambda: len([tick for tick, _ in calls if tick > healed]) >= 3)
    finally:
        network.proxy.heal()
        worker.stop()
        thread.join(60)
    last, began = calls[0]
    seen = {last}
    for tick, at in calls[1:]:
        if tick in seen:
            assert tick > cut - 7, f"{last} and then {tick}"  # commits of calls before the cut were cut off
            continue
        assert tick > last, f"{last} and then {tick}"
        assert all(missed <= began + 0.5 for missed in range(last + 1, tick)), f"lost between {last} and {tick}"
        seen.add(tick)
        last, began = tick, at
