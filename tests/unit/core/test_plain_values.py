"""A text may be a member of an enum: its value is what counts, wherever a text is taken."""

from __future__ import annotations

import enum
import logging
from typing import Any

import pytest

import flux
from flux.adapters.memory import MemoryAdapter, forget
from flux.core.validation import plain
from flux.testing import Kit


class Names(str, enum.Enum):  # noqa: UP042 - it is what this is about
    ORDERS = "orders"
    GROUP = "billing"
    KEY = "ada"
    HEADER = "trace"
    VALUE = "worth"
    ORDERING = "partition"
    START = "latest"
    LZ4 = "lz4"
    ACKS = "all"
    DETAIL = "type"
    STAGES = "0-1"
    REASON = "no stock"
    URL = "memory://enumerated"
    REPORTS = "reports"


class Numbers(enum.IntEnum):
    ONE = 1
    TEN = 10


class Seconds(float, enum.Enum):
    TENTH = 0.1
    MINUTE = 60.0


class Bills(flux.Task):
    topic = Names.ORDERS
    group_id = Names.GROUP
    retries = Numbers.ONE
    wait = Seconds.MINUTE
    ordering: Any = Names.ORDERING
    error_headers: Any = Names.DETAIL
    concurrency = Numbers.TEN
    drain_timeout = Seconds.TENTH

    def call(self, message: flux.Message) -> None:
        raise flux.Retry(Names.REASON) if message.stage == 0 else flux.Reject(Names.REASON)


@pytest.mark.parametrize("value", [*Names, *Numbers, *Seconds, True, None, "x", 1, 1.5, b"x", [Names.KEY]])
def test_a_plain_value_is_equal_and_of_no_subclass(value: Any) -> None:
    found = plain(value)
    assert found == value
    assert type(found) in (str, int, float, bool, type(None), bytes, list)


def test_a_task_named_by_an_enum_uses_its_values(flux_kit: Kit) -> None:
    policy = Bills.policy()
    assert [stage.topic for stage in policy.stages] == ["orders", "orders-billing-try-1", "orders-billing-dlq"]
    assert [stage.group for stage in policy.stages] == ["billing", "billing-1", "billing-2"]
    for value in (policy.stages.topic, policy.stages.group, policy.ordering, policy.start_from, policy.error_headers):
        assert type(value) is str
    assert type(policy.concurrency) is type(policy.stages.retries) is int
    assert type(policy.drain_timeout) is float

    headers: Any = {Names.HEADER: Names.VALUE}
    flux_kit.produce(Names.ORDERS, Names.VALUE, key=Names.KEY, headers=headers)
    flux_kit.run(Bills)
    assert flux_kit.topic("orders").values == [b"worth"]
    [tried] = flux_kit.topic("orders-billing-try-1")
    assert (tried.key, tried.header("trace")) == (b"ada", "worth")
    assert len(flux_kit.topic(Bills)) == 1
    flux_kit.clock.advance(60)
    flux_kit.run(Bills, stages=Names.STAGES)
    [dead] = flux_kit.dead_letters(Bills)
    assert dead.header("flux-group") == "billing"
    Bills.enqueue(Names.VALUE, key=Names.KEY, headers=[(Names.HEADER, Names.VALUE)]).result(10)
    assert flux_kit.topic("orders").values == [b"worth"] * 2


def test_a_reason_that_is_an_enum_is_told_by_its_value() -> None:
    assert [str(made(Names.REASON)) for made in (flux.Reject, flux.Retry)] == ["no stock"] * 2
    assert str(flux.Pause(1, Names.REASON)) == "no stock"


def test_what_naming_gives_is_taken_by_its_values(flux_kit: Kit) -> None:
    class Named(Bills):
        naming: Any = staticmethod(
            lambda topic, group, stage: (Names.ORDERS, Names.GROUP) if stage == 0 else (f"o{stage}", group)
        )

    assert (Named.policy().stages[0].topic, Named.policy().stages[1].group) == ("orders", "billing")
    assert type(Named.policy().stages[0].group) is str


def test_a_producer_named_by_an_enum_uses_its_values(flux_kit: Kit) -> None:
    given: Any = {"compression": Names.LZ4, "acks": Names.ACKS, "max_buffer_size": Numbers.TEN}

    class Orders(flux.Producer):
        topic = Names.ORDERS
        options = flux.ProducerOptions(**given)

    assert [type(text) for text in (Orders.options.compression, Orders.options.acks)] == [str, str]
    headers: Any = {Names.HEADER: Names.VALUE}
    Orders.produce(Names.VALUE, key=Names.KEY, headers=headers, partition_key=Names.KEY)
    where = Orders.send(Names.VALUE).result(10)
    assert (where.topic, type(where.topic)) == ("orders", str)
    [first, _] = flux_kit.topic("orders")
    assert (first.key, first.value) == (b"ada", b"worth")
    assert [(name, type(name)) for name, _ in first.headers] == [("trace", str)]


def test_an_adapter_named_by_an_enum_uses_its_values() -> None:
    try:
        adapter = flux.adapter_from_url(Names.URL)
        assert adapter is flux.adapter_from_url("memory://enumerated")
        assert adapter.cluster == "memory://enumerated"
        worker = flux.Worker(Bills, adapter=Names.URL, stages=Names.STAGES, report=Names.REPORTS)
        assert worker.jobs[0].adapter is adapter
        made: Any = MemoryAdapter(Names.ORDERS)
        assert made.cluster == "memory://orders"
        made.broker.create_topic(Names.ORDERS, 2)
        assert made.admin().topic_names(1) == {"orders"}
        assert {type(name) for name in made.admin().topic_names(1)} == {str}
    finally:
        forget("enumerated")
        forget("orders")


def test_options_of_adapters_are_taken_by_their_values() -> None:
    from flux.adapters.aiokafka import config as aiokafka
    from flux.adapters.confluent import config as confluent

    class Options(str, enum.Enum):  # noqa: UP042
        ID = "client_id"
        PROPERTY = "client.id"
        VALUE = "billing"

    for checked, name in ((aiokafka.checked, Options.ID), (confluent.checked, Options.PROPERTY)):
        [(key, value)] = checked({name: Options.VALUE}).items()
        assert (key, value) == (name.value, "billing")
        assert type(key) is type(value) is str


def test_logging_shows_the_values(flux_kit: Kit, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    flux_kit.produce("orders", "x")
    flux_kit.run(Bills)
    assert "Names." not in caplog.text
