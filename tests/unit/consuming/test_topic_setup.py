"""Topics that are made directly before the start, in a cluster whose brokers do not hear of them at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from flux.consuming import effects as do
from flux.consuming.forwarder import ForwardWriter
from flux.consuming.procedures import cycle
from flux.consuming.topic_setup import Spreading, create_topics, plan_topics, require_topics
from flux.core.engine.new_topic import SPREAD
from flux.core.errors import BrokerError, ConfigurationError, Fault
from flux.core.ports import NewTopic, PollResult, ProducerSettings, TopicInfo
from unit.support.engine_support import STAGES, Driver, policy
from unit.support.memory_support import Kit

UNKNOWN = BrokerError("cannot consume topic t: it does not exist", Fault.UNKNOWN_TOPIC)
NAMES = [stage.topic for stage in STAGES]


class Time:
    """Nobody waits in it."""

    condition = staticmethod(threading.Condition)

    def __init__(self) -> None:
        self.at = 0.0

    def now(self) -> float:
        return self.at

    monotonic = now

    def sleep(self, seconds: float) -> None:
        self.at += seconds


class Late:
    """An admin whose broker hears of each topic `late` seconds after it was made. Whatever else it is asked is the
    in-memory broker's."""

    def __init__(self, time: Time, late: float) -> None:
        self._time = time
        self._late = late
        self._inner = Kit().adapter.admin()
        self.made: dict[str, float] = {}

    def _knows(self, topic: str) -> bool:
        return topic in self.made and self._time.at >= self.made[topic] + self._late

    def create_topics(self, topics: Iterable[NewTopic], timeout: float) -> None:
        self._inner.create_topics(list(topics), timeout)
        for topic in topics:
            self.made.setdefault(topic.name, self._time.at)

    def topics(self, names: Iterable[str], timeout: float) -> dict[str, TopicInfo | None]:
        names = list(names)
        return {n: found if self._knows(n) else None for n, found in self._inner.topics(names, timeout).items()}

    def topic_config(self, topic: str, timeout: float) -> dict[str, str]:
        if not self._knows(topic):
            raise UNKNOWN
        return self._inner.topic_config(topic, timeout)


@pytest.fixture
def time() -> Time:
    return Time()


def test_retry_topics_get_the_partitions_of_a_main_topic_that_is_made_with_them(time: Time) -> None:
    late: Any = Late(time, 1.5)
    missing, _ = plan_topics(policy(), late, partitions=6)
    create_topics(policy(), late, missing, time)  # type: ignore[arg-type]
    assert {name: info and info.partitions for name, info in late.topics(NAMES, 1).items()} == dict.fromkeys(NAMES, 6)


def test_a_topic_that_was_made_a_moment_ago_is_not_missing(time: Time) -> None:
    late: Any = Late(time, 1.5)
    late.create_topics([NewTopic(name, 1, 1) for name in NAMES], 1)
    require_topics("Billing", policy(), late, False, time)  # type: ignore[arg-type]
    assert time.at < SPREAD


def test_settings_of_a_topic_that_only_some_brokers_know_are_requested_again(time: Time) -> None:
    class Unsettled(Late):
        """Lists the main topic at once; the broker with its settings knows it a second later."""

        def topic_config(self, topic: str, timeout: float) -> dict[str, str]:
            if time.at < 1.0:
                raise UNKNOWN
            return {"max.message.bytes": "5000000"}

    admin: Any = Unsettled(time, 0.0)
    admin.create_topics([NewTopic(NAMES[0], 3, 1)], 5.0)
    require_topics("Billing", policy(), admin, True, time)  # type: ignore[arg-type]
    assert set(admin.made) == set(NAMES)
    assert time.at < 3.0


def test_a_topic_that_is_missing_is_named_within_seconds(time: Time) -> None:
    late: Any = Late(time, 1.5)
    with pytest.raises(ConfigurationError, match="flux topics --load FILE Billing --create"):
        require_topics("Billing", policy(), late, False, time)  # type: ignore[arg-type]
    assert time.at <= 5


def test_whoever_is_asked_of_a_topic_too_early_is_asked_again_for_a_while(time: Time) -> None:
    late: Any = Late(time, 3.0)
    late.create_topics([NewTopic("t", 1, 1)], 1)
    spreading = Spreading(time)  # type: ignore[arg-type]
    assert spreading.known(lambda: late.topic_config("t", 1))["cleanup.policy"] == "delete"
    with pytest.raises(BrokerError, match="does not exist"):
        spreading.known(lambda: late.topic_config("nothing", 1))
    assert time.at <= SPREAD + 1


def test_another_refusal_is_nothing_to_wait_for(time: Time) -> None:
    def refuse() -> None:
        raise BrokerError("no", Fault.DENIED)

    with pytest.raises(BrokerError):
        Spreading(time).known(refuse)  # type: ignore[arg-type]
    assert time.at == 0


def test_a_writer_warms_up_for_topics_that_its_brokers_hear_of_later(time: Time) -> None:
    asked: list[str] = []

    class Client:
        def partitions(self, topic: str, timeout: float) -> int:
            asked.append(topic)
            if time.at < 2:
                raise UNKNOWN
            return 1

    class Cluster:
        def producer(self, settings: ProducerSettings) -> Any:
            return Client()

    ForwardWriter(Cluster(), ProducerSettings(), time).warm_up(["a", "b"])  # type: ignore[arg-type]
    assert 2 <= time.at < SPREAD
    assert asked[-2:] == ["a", "b"]


# -- a member


def polls(driver: Driver, told: Callable[[int], BrokerError | None], most: int = 1000) -> int:
    """Turns of a stage whose polls raise what `told` says of each; how many it took until one raised for good."""
    for number in range(most):
        procedure, answer = cycle(driver.engine, lambda: driver.now), None
        try:
            effect = procedure.send(None)
            while True:
                answer = None
                if isinstance(effect, do.Rest):
                    driver.now += effect.timeout
                if isinstance(effect, do.Poll):
                    driver.now += 0.1
                    error = told(number)
                    if error is not None:
                        effect = procedure.throw(error)
                        continue
                    answer = PollResult()
                effect = procedure.send(answer)
        except StopIteration:
            continue
    return most


def test_a_member_polls_on_while_its_topic_may_still_become_known() -> None:
    driver = Driver()
    began = driver.now
    assert polls(driver, lambda number: UNKNOWN if number < 5 else None, 20) == 20
    driver.assign(0)
    driver.now = began + 2 * SPREAD
    assert polls(driver, lambda number: None, 5) == 5


@pytest.mark.parametrize("once", [False, True], ids=["told in each poll", "told once"])
def test_a_member_of_a_topic_that_stays_unknown_ends(once: bool) -> None:
    driver = Driver()
    began = driver.now
    with pytest.raises(BrokerError, match="does not exist"):
        polls(driver, lambda number: UNKNOWN if number == 0 or not once else None)
    assert SPREAD <= driver.now - began <= SPREAD + 2


def test_another_failure_of_a_poll_ends_a_member_at_once() -> None:
    driver = Driver()
    began = driver.now
    with pytest.raises(BrokerError, match="READ"):
        polls(driver, lambda _: BrokerError("needs READ", Fault.DENIED))
    assert driver.now - began < 1


ORDERED = policy(retry_order="key")
KEYS = ORDERED.stages.keys_topic


def test_a_task_that_keeps_an_order_gets_a_compacted_topic_of_one_partition(time: Time) -> None:
    late: Any = Late(time, 0.0)
    late.create_topics([NewTopic(NAMES[0], 3, 1)], 1)
    require_topics("Billing", ORDERED, late, True, time)  # type: ignore[arg-type]
    assert late.topics([KEYS], 1)[KEYS].partitions == 1
    assert late.topic_config(KEYS, 1)["cleanup.policy"] == "compact"
    require_topics("Billing", ORDERED, late, False, time)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("partitions", "config", "why"),
    [(2, {"cleanup.policy": "compact"}, "has 2 partitions"), (1, {"cleanup.policy": "delete"}, "set it to compact")],
)
def test_a_topic_of_keys_that_could_lose_entries_is_refused(
    time: Time, partitions: int, config: dict[str, str], why: str
) -> None:
    late: Any = Late(time, 0.0)
    late.create_topics([*(NewTopic(name, 1, 1) for name in NAMES), NewTopic(KEYS, partitions, 1, config)], 1)
    with pytest.raises(ConfigurationError, match=why) as refused:
        require_topics("Billing", ORDERED, late, False, time)  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)


def test_whoever_may_not_read_the_settings_of_the_topic_of_keys_starts_all_the_same(time: Time) -> None:
    class Silent(Late):
        def topic_config(self, topic: str, timeout: float) -> dict[str, str]:
            if topic == KEYS:
                raise BrokerError("no", Fault.DENIED)
            return super().topic_config(topic, timeout)

    admin: Any = Silent(time, 0.0)
    admin.create_topics([*(NewTopic(name, 1, 1) for name in NAMES), NewTopic(KEYS, 1, 1)], 1)
    require_topics("Billing", ORDERED, admin, False, time)  # type: ignore[arg-type]
