"""Anything at all as a setting: a ConfigurationError in one line at the start, or a task that works. Nothing else."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import flux
from flux.adapters.aiokafka import AiokafkaAdapter
from flux.adapters.confluent import ConfluentAdapter
from flux.adapters.memory import MemoryAdapter
from flux.core.validation import shown
from flux.outbox import Guard, Relay, open_store
from flux.testing import kit
from flux.testing.machine import Stuck

HUGE = 10**400
NUMBERS = [0, 1, -1, 2000, 0.01, 0.3, 1e-300, 5e-324, 1e300, math.inf, -math.inf, math.nan, HUGE, -HUGE, True]


class Hostile:
    """As a library's object may be: nothing can be asked of it."""

    def __repr__(self) -> str:
        raise RuntimeError("no")

    __str__ = __repr__

    def __bool__(self) -> bool:
        raise RuntimeError("no")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no")

    __hash__ = None  # type: ignore[assignment]


def raising(*_: Any) -> Any:
    raise ValueError("two\nlines")


ANYTHING = st.one_of(
    st.sampled_from(
        [*NUMBERS, None, False, "", "x", "5", "key", "latest", "full", "two\nlines", "\ud800", "x" * 5000, b"x", object,
         Exception, ValueError("x"), raising, lambda *_: None, lambda *_: HUGE, lambda *_: ("a", 5), print, Hostile(),
         [], [5], ["5"], [HUGE], (), (5,), (Exception,), (int, "x"), {}, {"a": 1}, {5}, iter([1]), Path("/")]
    ),
    st.integers(), st.floats(), st.text(max_size=5), st.lists(st.integers() | st.floats(), max_size=3),
)  # fmt: skip
IGNORED = {"adapter", "naming_", "call", "setup", "close", "enqueue", "policy", "decoder"}
TASK = sorted(name for name in vars(flux.Task) if not name.startswith("_") and name not in IGNORED)
BATCH = [*TASK, "max_batch", "max_wait"]


def checked(make: Any) -> Any:
    """What `make` gives; None, when it is refused as a user's mistake shall be."""
    try:
        return make()
    except flux.ConfigurationError as error:
        said = str(error)
    assert said.splitlines() == [said]
    assert len(said) < 700
    return None


@pytest.mark.filterwarnings("ignore:coroutine")
@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("name", BATCH)
def test_each_setting_refuses_an_object_that_answers_nothing(name: str, batched: bool) -> None:
    if batched or name in TASK:
        works(batched, {name: Hostile()})


@pytest.mark.filterwarnings("ignore:coroutine")
@settings(max_examples=300, deadline=None)
@given(st.booleans(), st.data())
def test_a_task_is_refused_in_one_line_or_works(batched: bool, data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(BATCH if batched else TASK), min_size=1, max_size=2, unique=True))
    chosen = {name: data.draw(ANYTHING, name) for name in names}
    works(batched, chosen)


def works(batched: bool, chosen: dict[str, Any]) -> None:
    calls: list[Any] = []

    class One(flux.Task):
        topic, group_id, retries, wait = "orders", "billing", 2, 1

        def call(self, message: flux.Message) -> None:
            calls.append(message)
            if message.attempt == 1:
                raise ValueError

    class Many(flux.BatchTask):
        topic, group_id, retries, wait = "orders", "billing", 2, 1

        def call(self, messages: Sequence[flux.Message]) -> None:
            calls.append(messages)
            if messages[0].attempt == 1:
                raise ValueError

    task: Any = type("Bills", (Many if batched else One,), chosen)
    with kit() as given_kit:
        if checked(task.policy) is None or checked(lambda: flux.Worker(task, adapter="memory://x")) is None:
            return
        given_kit.produce(task.policy().stages.topic, b"{}", key="k")
        try:
            done = checked(lambda: given_kit.run_to_the_end(task))
        except Stuck:
            assert chosen.get("pause_on")  # for ever, as the call fails each time
            return
        if done is not None and not chosen.get("middleware"):
            assert calls or done.dead or done.failed


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("in_place_retries", 2000, "in_place_retries = 2000: give a whole number, 0 or more, at most 1000"),
        ("max_delay", math.inf, "max_delay = inf: give seconds, 0 or more, at most "),
        ("naming", 5, "naming = 5: give a callable (topic, group, stage) -> (topic, group)"),
        ("naming", raising, "naming raised ValueError: two lines for stage 0: make it return (topic, group)"),
        ("rate_limit", HUGE, "rate_limit = 1000"),
        ("rate_limit", 5e-324, "rate_limit = 5e-324: give calls a second, more than "),
        ("wait", raising, "wait raised ValueError: two lines for stage 1: make it return seconds"),
        ("wait", HUGE, "wait of stage 1 is 1000"),
        (
            "retries",
            10**5000,
            "retries = a value that cannot be shown (int): give a whole number, 0 or more",
        ),
        ("concurrency", True, "concurrency = True: give a whole number, 1 or more, at most "),
        ("shutdown_timeout", math.nan, "shutdown_timeout = nan: give seconds, 0 or more, at most "),
        ("ordering", "x\ny", r"ordering = 'x\ny': give one of key, partition, none"),
        ("acknowledge_produced", "no", "acknowledge_produced = 'no': give True or False"),
        ("group_id", "a\nb", "characters that can be printed"),
    ],
    ids=lambda each: each if type(each) is str else type(each).__name__,
)
def test_what_overflows_or_is_of_the_wrong_type_is_named(name: str, value: Any, says: str) -> None:
    task: Any = type(
        "Bills", (flux.Task,), {"topic": "orders", "group_id": "billing", "call": lambda *_: None, name: value}
    )
    if callable(value):
        setattr(task, name, staticmethod(value))
    with pytest.raises(flux.ConfigurationError) as refused:
        task.policy()
    assert says in str(refused.value)
    assert str(refused.value).startswith("Bills: ")
    assert "\n" not in str(refused.value)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([field.name for field in attrs.fields(flux.ProducerOptions)]), ANYTHING)
@example("max_queue_bytes", HUGE)
@example("flush_interval", math.nan)
@example("compression", ["lz4"])
def test_options_of_producers_are_refused_in_one_line_or_work(name: str, value: Any) -> None:
    options = checked(lambda: flux.ProducerOptions(**{name: value}))
    if options is None:
        return
    with kit() as given_kit:
        producer: Any = type("Orders", (flux.Producer,), {"topic": "orders", "options": options})
        producer.produce(b"x")
        assert producer.send(b"y").result(10).topic == "orders"
        assert given_kit.topic("orders").values == [b"x", b"y"]


WORKER = [
    name
    for name, each in inspect.signature(flux.Worker).parameters.items()
    if each.kind is inspect.Parameter.KEYWORD_ONLY and name not in ("adapter", "system")
]


class Bills(flux.Task):
    topic, group_id = "orders", "billing"

    def call(self, message: flux.Message) -> None:
        pass


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(WORKER), ANYTHING)
@example("exit_when_idle", math.nan)
@example("stages", 5)
@example("create_topics", "no")
@example("metrics_port", HUGE)
@example("report", 5)
def test_a_worker_s_arguments_are_refused_in_one_line_or_taken(name: str, value: Any) -> None:
    checked(lambda: flux.Worker(Bills, adapter="memory://x", **{name: value}))


@pytest.mark.parametrize("name", WORKER)
def test_each_argument_of_a_worker_refuses_an_object_that_answers_nothing(name: str) -> None:
    with pytest.raises(flux.ConfigurationError):
        flux.Worker(Bills, **{"adapter": "memory://x", name: Hostile()})  # type: ignore[arg-type]


class Sent(flux.Producer):
    topic = "orders"


def entered(**arguments: Any) -> None:
    with kit(**arguments):
        pass


@attrs.define
class Row:
    number: int = 0


class Waiting(Bills):
    retries, wait = 1, 1


def ticking(cron: Any = None, **arguments: Any) -> Any:
    work: Any = type("Ticking", (Bills,), {"retries": 1, "wait": 1})
    work.every(cron, **arguments)
    return work.policy()


ODD = [Hostile(), object, 5, -0.5, math.nan, HUGE, "", "x\ny", "\ud800", b"x", [], [5], {5: 5}, True, raising]
ARGUMENTS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "configure": (flux.configure, flux.configure, {}),
    "ProducerOptions": (flux.ProducerOptions, flux.ProducerOptions, {}),
    "FailureRate": (flux.FailureRate, flux.FailureRate, {"share": 0.5}),
    "Producer": (Sent, Sent, {}),
    "produce": (Sent.produce, Sent.produce, {"value": b"x"}),
    "send": (Sent.send, Sent.send, {"value": b"x"}),
    "enqueue": (Waiting.enqueue, Waiting.enqueue, {"value": b"x"}),
    "Task.cancel": (Waiting.cancel, Waiting.cancel, {"id": "x"}),
    "cancel": (flux.cancel, flux.cancel, {"task": Waiting, "id": "x"}),
    "every": (ticking, Waiting.every, {"cron": "0 6 * * *"}),
    "adapter_from_url": (flux.adapter_from_url, flux.adapter_from_url, {"url": "memory://x"}),
    "ConfluentAdapter": (ConfluentAdapter, ConfluentAdapter, {"bootstrap": "127.0.0.1:9"}),
    "AiokafkaAdapter": (AiokafkaAdapter, AiokafkaAdapter, {"bootstrap": "127.0.0.1:9"}),
    "MemoryAdapter": (MemoryAdapter, MemoryAdapter, {"name": "odd"}),
    "kit": (entered, kit, {}),
    "open_store": (open_store, open_store, {"url": "sqlite:///odd"}),
    "Guard": (Guard, Guard, {"name": "odd", "begin": lambda: None}),
    "Relay": (Relay, Relay, {"store": open_store("sqlite:///odd")}),
    "avro": (flux.serde.avro, flux.serde.avro, {"kind": Row, "registry": "http://127.0.0.1:9"}),
    "json_schema": (flux.serde.json_schema, flux.serde.json_schema, {"kind": Row, "registry": "http://127.0.0.1:9"}),
    "model_serializer": (flux.serde.model_serializer, flux.serde.model_serializer, {"model": Row}),
    "model_deserializer": (flux.serde.model_deserializer, flux.serde.model_deserializer, {"model": Row}),
    "task": (flux.task, flux.task, {"topic": "orders", "group_id": "billing"}),
}


@pytest.mark.filterwarnings("ignore:coroutine")
@pytest.mark.parametrize(
    ("make", "given_", "name"),
    [
        pytest.param(make, given_, name, id=f"{called}-{name}")
        for called, (make, public, given_) in ARGUMENTS.items()
        for name, each in inspect.signature(public).parameters.items()
        if name not in ("system", "kind")  # a port, and a type
        if each.kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    ],
)
def test_each_argument_is_refused_in_one_line_or_taken(make: Any, given_: dict[str, Any], name: str) -> None:
    for value in ODD:
        with kit():
            checked(partial(make, **{**given_, name: value}))


@given(ANYTHING)
def test_what_is_no_task_is_refused(value: Any) -> None:
    with pytest.raises(flux.ConfigurationError):
        flux.Worker(value, adapter="memory://x")


@given(st.sampled_from(["timestamp", "partition", "key", "partition_key", "headers"]), ANYTHING)
@example("timestamp", HUGE)
@example("partition", HUGE)
def test_what_a_record_is_produced_with_is_refused_in_one_line_or_written(name: str, value: Any) -> None:
    with kit() as given_kit:
        producer: Any = type("Orders", (flux.Producer,), {"topic": "orders"})
        try:
            checked(lambda: producer.send(b"x", **{name: value}))
            producer.flush(10)
        except flux.DeliveryError:
            assert name == "partition"
        assert len(given_kit.topic("orders").values) <= 1


@given(ANYTHING)
@example(HUGE)
def test_a_delay_is_refused_in_one_line_or_kept(value: Any) -> None:
    with kit():
        checked(lambda: Bills.enqueue(b"x", delay=value))


@given(st.sampled_from(["name", "default_partitions"]), ANYTHING)
def test_a_broker_in_memory_is_refused_in_one_line_or_made(name: str, value: Any) -> None:
    given_: dict[str, Any] = {"name": "fuzzed", name: value}
    from flux.adapters.memory import forget

    made = checked(lambda: MemoryAdapter(**given_))
    if made is not None:
        forget(made.cluster.removeprefix("memory://"))


CONFLUENT = ["client.id", "session.timeout.ms", "linger.ms", "error_cb", "logger", "security.protocol", "acks", "x",
             "partition.assignment.strategy", "sasl.username", "ssl.ca.location", "group.protocol"]  # fmt: skip
AIOKAFKA = ["client_id", "session_timeout_ms", "ssl_context", "check_crcs", "isolation_level", "group_instance_id",
            "partition_assignment_strategy", "sasl_oauth_token_provider", "acks", "nonsense"]  # fmt: skip


@settings(max_examples=300)
@given(st.one_of(st.tuples(st.just(ConfluentAdapter), st.sampled_from(CONFLUENT) | ANYTHING, ANYTHING),
                 st.tuples(st.just(AiokafkaAdapter), st.sampled_from(AIOKAFKA) | ANYTHING, ANYTHING)))  # fmt: skip
def test_options_of_adapters_are_refused_in_one_line_or_taken(chosen: tuple[Any, Any, Any]) -> None:
    make, name, value = chosen
    try:
        options = {name: value}
    except (TypeError, RuntimeError):
        return  # no dictionary has such a name
    checked(lambda: make("127.0.0.1:9092", options))
    checked(lambda: make(value))


@pytest.mark.parametrize("value", [HUGE, 10**12, str(2**32 + 10_000), -(10**12), math.inf, math.nan, "9" * 400])
@pytest.mark.parametrize("name", ["session.timeout.ms", "statistics.interval.ms", "linger.ms", "message.max.bytes"])
def test_a_number_that_librdkafka_would_take_for_another_is_refused(name: str, value: Any) -> None:
    if type(value) is str and len(value) > 300:
        value = value[:300]
    with pytest.raises(flux.ConfigurationError, match=name):
        ConfluentAdapter("127.0.0.1:9092", {name: value})


@pytest.mark.parametrize("value", [HUGE, 10**12, "9" * 18, -1, True, 0.5, math.nan])
def test_a_number_that_aiokafka_would_fail_at_is_refused(value: Any) -> None:
    with pytest.raises(flux.ConfigurationError, match="session_timeout_ms must be a whole number from 0 to "):
        AiokafkaAdapter("127.0.0.1:9092", {"session_timeout_ms": value})


def test_what_librdkafka_refuses_is_told_in_one_line() -> None:
    assert checked(lambda: ConfluentAdapter("127.0.0.1:1", {"session.timeout.ms": -5}).admin()) is None


@given(ANYTHING)
def test_anything_is_shown_in_one_short_line(value: Any) -> None:
    assert len(shown(value)) < 1000
    assert "\n" not in shown(value)
