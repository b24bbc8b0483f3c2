"""What a user of `flux.Producer` sees: what is written, when, and where."""

from __future__ import annotations

import asyncio
import copy
import importlib
import pickle
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from flux import config
from flux.adapters.memory import MemoryAdapter
from flux.config import ProducerOptions
from flux.core.errors import ConfigurationError
from flux.core.ports import ProducerSettings
from flux.core.producing.partitioner import partition_for_key
from flux.producer import Producer
from flux.producing.registry import PRODUCERS
from flux.serde import json_serializer
from flux.system import SYSTEM
from unit.support.producer_support import OPTIONS, AwesomeProducer, World, world

__all__ = ["world"]


def test_a_record_waits_for_the_interval_and_no_longer(world: World) -> None:
    AwesomeProducer.produce(b"one")
    world.wait(0.99)
    assert world.values() == []
    world.wait(0.01)
    assert world.values() == [b"one"]


def test_the_flushing_thread_sleeps_until_the_interval_is_over_and_then_for_ever(world: World) -> None:
    AwesomeProducer.produce(b"one")
    [run] = world.system.spawned
    began = world.system.time
    with pytest.raises(AssertionError):  # this machine cannot wait for ever
        run()
    assert world.values() == [b"one"]
    assert (world.system.time - began, world.system.waits) == (1.0, 1)


def test_one_thread_flushes_all_producers(world: World) -> None:
    class Other(Producer):
        topic = "other"
        options = ProducerOptions(flush_interval=0.5)

    AwesomeProducer.produce(b"one")
    Other.produce(b"two")
    assert len(world.system.spawned) == 1
    world.wait(0.5)
    assert (world.values("other"), world.values()) == ([b"two"], [])
    world.wait(0.5)
    assert world.values() == [b"one"]


def test_so_many_records_are_flushed_at_once(world: World) -> None:
    for value in (b"1", b"2"):
        AwesomeProducer.produce(value, partition=0)
    assert world.values() == []
    AwesomeProducer.produce(b"3", partition=0)
    assert world.values() == [b"1", b"2", b"3"]


def test_so_many_bytes_are_flushed_at_once(world: World) -> None:
    class Small(AwesomeProducer):
        options = ProducerOptions(max_buffer_bytes=10)

    Small.produce(b"12345")
    assert world.values() == []
    Small.produce(b"1", key=b"2345")
    assert len(world.values()) == 2


def test_a_record_is_written_as_it_was_given(world: World) -> None:
    AwesomeProducer.send(
        "wörth", key="kéy", headers=[("a", "1"), ("b", b"\xff"), ("a", None)], timestamp=1_600_000_000_000
    )
    [record] = world.broker.records("awesome")
    assert record.value() == "wörth".encode()
    assert record.key() == "kéy".encode()
    assert list(record.headers() or ()) == [("a", b"1"), ("b", b"\xff"), ("a", None)]
    assert record.timestamp()[1] == 1_600_000_000_000
    assert record.partition() == partition_for_key("kéy".encode(), 4)


def test_headers_may_be_a_mapping(world: World) -> None:
    AwesomeProducer.send(b"", headers={"trace": "1"})
    [record] = world.broker.records("awesome")
    assert list(record.headers() or ()) == [("trace", b"1")]


def test_a_partition_key_places_the_record_and_is_not_stored(world: World) -> None:
    for key in ("a", "b", "c", "d", "e"):
        AwesomeProducer.send(key, partition_key=key)
    records = world.broker.records("awesome")
    assert {record.partition() for record in records} != {0}
    for record in records:
        assert record.key() is None
        assert record.partition() == partition_for_key(record.value() or b"", 4)


def test_a_partition_is_the_one_named(world: World) -> None:
    AwesomeProducer.send(b"x", key="anything", partition=3)
    [record] = world.broker.records("awesome")
    assert record.partition() == 3


def test_send_flushes_at_once_behind_what_was_buffered_and_tells_where_the_record_landed(world: World) -> None:
    AwesomeProducer.produce(b"before", partition=2)
    landed = AwesomeProducer.send(b"now", partition=2).result(0)
    assert (landed.topic, landed.partition, landed.offset) == ("awesome", 2, 1)
    assert landed.timestamp == int(world.system.time * 1000)
    assert world.values() == [b"before", b"now"]


def test_what_send_returns_can_be_awaited(world: World) -> None:
    async def main() -> int:
        return (await AwesomeProducer.send(b"x", partition=0)).offset

    assert asyncio.run(main()) == 0


def test_deliver_flushes(world: World) -> None:
    AwesomeProducer.produce(b"x")
    AwesomeProducer.flush()
    assert world.values() == [b"x"]
    AwesomeProducer.produce(b"y", partition=0)
    asyncio.run(AwesomeProducer.aflush())
    assert sorted(world.values(), key=str) == [b"x", b"y"]


def test_a_producer_that_was_shut_down_boots_again_with_the_next_record(world: World) -> None:
    AwesomeProducer.produce(b"x", partition=0)
    AwesomeProducer.close()
    assert world.values() == [b"x"]
    AwesomeProducer.produce(b"y", partition=0)
    asyncio.run(AwesomeProducer.aclose())
    assert world.values() == [b"x", b"y"]


def test_producers_with_the_same_adapter_and_settings_share_a_client(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []
    make = MemoryAdapter.producer

    def counted(self: MemoryAdapter, settings: ProducerSettings) -> Any:
        made.append(settings)
        return make(self, settings)

    monkeypatch.setattr(MemoryAdapter, "producer", counted)

    class Other(Producer):
        topic = "other"
        options = ProducerOptions(max_buffer_size=77)

    class Different(Producer):
        topic = "different"
        options = ProducerOptions(acks="1")

    AwesomeProducer.produce(b"x", partition=0)
    Other.produce(b"x")
    assert len(made) == 1
    Different.produce(b"x")
    assert len(made) == 2
    Other.close()
    AwesomeProducer.produce(b"still", partition=0)
    AwesomeProducer.flush()
    assert (world.values(), len(made)) == ([b"x", b"still"], 2)


def test_a_class_without_a_topic_is_refused(world: World) -> None:
    with pytest.raises(ConfigurationError, match='Producer has no topic: give it a class attribute topic = "…"'):
        Producer.produce(b"x")


def test_without_an_adapter_the_error_says_what_to_do(world: World) -> None:
    config.reset()
    with pytest.raises(ConfigurationError, match=r"flux\.configure"):
        AwesomeProducer.produce(b"x")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"value": "\ud800"}, "a value for AwesomeProducer holds a lone surrogate"),
        ({"value": {"a": 1}}, "a value for AwesomeProducer must be str, bytes or None, not dict: give .* a serializer"),
        ({"value": b"", "key": "\ud800"}, "a key holds a lone surrogate"),
        ({"value": b"", "key": 7}, "a key must be str, bytes or None, not int"),
        ({"value": b"", "headers": {"\ud800": "x"}}, "a header's name holds a lone surrogate"),
        ({"value": b"", "headers": {"a\0b": "x"}}, "a header's name must hold no NUL"),
        ({"value": b"", "headers": {b"a": "x"}}, "a header's name must be str, not bytes"),
        ({"value": b"", "headers": {"a": "\ud800"}}, "header a holds a lone surrogate"),
        ({"value": b"", "headers": {"a": 1}}, "header a must be str, bytes or None, not int"),
        ({"value": b"", "headers": 5}, "headers must be a mapping, or pairs"),
        ({"value": b"", "headers": ["abc"]}, "headers must be a mapping, or pairs"),
        ({"value": b"", "partition": -1}, "partition must be a whole number from 0 to"),
        ({"value": b"", "partition": 1, "partition_key": "x"}, "give partition or partition_key, not both"),
        ({"value": b"", "timestamp": 0}, "timestamp .* must be a whole number from 1 to"),
        ({"value": b"", "timestamp": 1.5}, "timestamp .* must be a whole number from 1 to"),
    ],
)
def test_what_cannot_be_a_record_is_refused_before_the_client_sees_it(
    world: World, record: dict[str, Any], message: str
) -> None:
    for method in (AwesomeProducer.produce, AwesomeProducer.send):
        with pytest.raises(ConfigurationError, match=message):
            method(**record)
    with pytest.raises(ConfigurationError, match=message):
        asyncio.run(AwesomeProducer.aproduce(**record))
    AwesomeProducer.flush()
    assert world.values() == []


def test_a_serializer_makes_bytes_of_any_value_but_a_tombstone(world: World) -> None:
    class Json(AwesomeProducer):
        serializer = json_serializer

    for value in ({"a": "ä"}, "text", None):
        Json.send(value, partition=0)
    Json(adapter=world.adapter).send([1], partition=0)
    assert world.values() == ['{"a":"ä"}'.encode(), b'"text"', None, b"[1]"]


def test_a_serializer_that_returns_something_else_is_refused(world: World) -> None:
    class Wrong(AwesomeProducer):
        @staticmethod
        def serializer(value: object) -> object:
            return 5

    with pytest.raises(ConfigurationError, match="what a serializer returns must be str, bytes or None, not int"):
        Wrong.produce(b"x")


def test_an_instance_has_its_own_adapter_and_the_class_keeps_its(world: World) -> None:
    other = world.cluster("other")
    mine = AwesomeProducer(adapter=other)
    assert isinstance(mine, AwesomeProducer)
    mine.produce(b"mine")
    AwesomeProducer.produce(b"class")
    mine.flush()
    AwesomeProducer.flush()
    assert (world.values(adapter=other), world.values()) == ([b"mine"], [b"class"])
    assert AwesomeProducer.adapter is None


def test_an_instance_without_its_own_is_as_its_class(world: World) -> None:
    AwesomeProducer().produce(b"x")
    AwesomeProducer.flush()
    assert world.values() == [b"x"]


def test_an_override_that_calls_super_stays_on_the_instance_s_adapter(world: World) -> None:
    other = world.cluster("other")

    class Shouting(AwesomeProducer):
        def shout(self, value: str) -> None:
            self.produce(value.upper())

        @classmethod
        def produce(cls, value: Any, **options: Any) -> None:
            super().produce(f"{value}!", **options)

    mine = Shouting(adapter=other)
    mine.shout("hey")
    mine.flush()
    assert (world.values(adapter=other), world.values()) == ([b"HEY!"], [])


def test_an_adapter_that_is_replaced_counts_from_the_next_record_on_and_loses_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = world.cluster("replaced")
    AwesomeProducer.produce(b"1", partition=0)
    with monkeypatch.context() as patched:
        patched.setattr(AwesomeProducer, "adapter", other)
        AwesomeProducer.produce(b"2")
    AwesomeProducer.produce(b"3", partition=0)
    world.wait(1)
    assert (world.values(), world.values(adapter=other)) == ([b"1", b"3"], [b"2"])


def test_a_topic_that_is_replaced_on_an_instance_or_a_class_counts_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = AwesomeProducer()
    monkeypatch.setattr(mine, "topic", "mine")
    monkeypatch.setattr(AwesomeProducer, "options", ProducerOptions(max_buffer_size=1))
    mine.produce(b"m")
    AwesomeProducer.produce(b"c")
    assert (world.values("mine"), world.values()) == ([b"m"], [b"c"])


def test_configuring_anew_counts_from_the_next_record_on(world: World) -> None:
    AwesomeProducer.produce(b"1")
    other = world.cluster("anew")
    config.configure(adapter=other)
    AwesomeProducer.produce(b"2")
    world.wait(1)
    assert (world.values(), world.values(adapter=other)) == ([b"1"], [b"2"])


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_a_copied_or_pickled_instance_goes_where_its_original_went(world: World, again: Any) -> None:
    world.cluster("copied")
    config._adapters["memory://copied"] = other = MemoryAdapter("copied", system=world.system)
    original = AwesomeProducer(adapter="memory://copied")
    original.note = ["kept"]
    original.produce(b"1")
    copied = again(original)
    assert (type(copied).__name__, copied.note) == ("AwesomeProducer", ["kept"])
    copied.produce(b"2")
    assert (AwesomeProducer.adapter, world.values(adapter=other)) == (None, [])
    copied.flush()
    assert world.values(adapter=other) == [b"1", b"2"]


def test_a_pickled_class_is_the_class(world: World) -> None:
    AwesomeProducer.produce(b"x")
    assert pickle.loads(pickle.dumps(AwesomeProducer)) is AwesomeProducer


def test_a_reloaded_module_s_class_goes_on_where_the_old_one_was(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "reloaded_producers.py").write_text(
        "from flux.producer import Producer\nclass Reloaded(Producer):\n    topic = 'awesome'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    module: Any = importlib.import_module("reloaded_producers")
    monkeypatch.delitem(sys.modules, "reloaded_producers")
    module.Reloaded.produce(b"1", partition=0)
    module_again: Any = importlib.import_module("reloaded_producers")
    assert module_again.Reloaded is not module.Reloaded
    module_again.Reloaded.produce(b"2", partition=0)
    module_again.Reloaded.flush()
    assert world.values() == [b"1", b"2"]


def test_records_of_many_threads_are_all_written_in_each_thread_s_order(world: World) -> None:
    real = MemoryAdapter("threads")
    config.configure(adapter=real, producer=OPTIONS)
    PRODUCERS.reset(SYSTEM)

    def produce(thread: int) -> None:
        for number in range(500):
            AwesomeProducer.produce(f"{thread} {number}", partition=0)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=produce, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    AwesomeProducer.close()
    found = [tuple(map(int, (record.value() or b"").split())) for record in real.broker.records("awesome")]
    assert len(found) == 2000
    for number in range(4):
        assert [count for thread, count in found if thread == number] == list(range(500))
