"""Facts in, findings out."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.adapters.memory import MemoryAdapter, forget
from flux.consuming.topic_setup import config_for
from flux.core.backoff import Waits
from flux.core.policy import DAY, Policy
from flux.core.ports import GroupProtocol, Permissions, ProducerRecord, System, TopicInfo, TransactionSettings
from flux.core.schedules import Schedule, interval
from flux.core.stage import Stages
from flux.operate.doctor import CHECKS, ClockDifference, Facts, Finding, TopicFacts, examine
from flux.operate.doctor.clock import closest
from flux.operate.doctor.collect import collect_facts
from flux.operate.status.schedules import ScheduleStatus
from flux.system import SYSTEM
from unit.support.operate_support import NOW_MS, RETRY, OperateKit

POLICY = Policy(Stages("orders", "billing", 2), waits=Waits([60, 3600], 30 * DAY))
MAIN, FIRST, SECOND, DEAD = (stage.topic for stage in POLICY.stages)
DEFAULTS = {
    "cleanup.policy": "delete",
    "max.message.bytes": "1048588",
    "message.timestamp.after.max.ms": "3600000",
    "message.timestamp.before.max.ms": "9223372036854775807",
    "message.timestamp.type": "CreateTime",
    "min.insync.replicas": "2",
    "retention.bytes": "-1",
    "retention.ms": "604800000",
    "unclean.leader.election.enable": "false",
}
READ_WRITE = frozenset({"READ", "WRITE", "DESCRIBE"})
GROUPS = ("billing", "billing-1", "billing-2")


def sound(policy: Policy = POLICY) -> Facts:
    """A task as flux makes it, on three brokers."""
    topics = tuple(
        TopicFacts(
            stage,
            TopicInfo(12, 3),
            DEFAULTS | ({} if stage.number == 0 else config_for(policy, stage, 1_048_588)),
        )
        for stage in policy.stages
    )
    return Facts(
        "Billing",
        policy,
        topics,
        names=frozenset(topic.name for topic in topics),
        brokers={number: {"offsets.retention.minutes": "10080"} for number in (1, 2, 3)},
        permissions=Permissions(
            {topic.name: READ_WRITE for topic in topics}, dict.fromkeys(GROUPS, READ_WRITE), frozenset()
        ),
        protocols={group: GroupProtocol("", ("cooperative-sticky",)) for group in GROUPS},
        clock=ClockDifference(0.2, 0.001),
    )


def altered(name: str, facts: Facts | None = None, **changes: Any) -> Facts:
    """One topic with other values; `config` is added to."""
    facts = facts or sound()

    def change(topic: TopicFacts) -> TopicFacts:
        if topic.name != name:
            return topic
        config = changes.get("config")
        return attrs.evolve(topic, **(changes | ({"config": {**(topic.config or {}), **config}} if config else {})))

    return attrs.evolve(facts, topics=tuple(map(change, facts.topics)))


def only(facts: Facts) -> Finding:
    findings = examine(facts)
    assert len(findings) == 1, [str(finding) for finding in findings]
    finding = findings[0]
    assert "\n" not in str(finding)
    assert finding.check in CHECKS
    return finding


def test_a_task_as_flux_creates_it_has_no_findings() -> None:
    assert examine(sound()) == []


def test_unknown_facts_are_no_findings() -> None:
    """They are named as not checked where they were asked for."""
    facts = attrs.evolve(sound(), brokers=None, permissions=None, protocols={}, clock=None)
    bare = tuple(attrs.evolve(topic, config=None) for topic in facts.topics)
    assert examine(attrs.evolve(facts, topics=bare)) == []


CASES: dict[str, tuple[str, str, str, Callable[[], Facts]]] = {
    # name: (check, about, part of the problem, facts)
    "a topic is missing": ("topics", FIRST, "no such topic (retry 1)", lambda: altered(FIRST, info=None, config=None)),
    "fewer partitions": ("partitions", FIRST, "12: fewer workers", lambda: altered(FIRST, info=TopicInfo(6, 3))),
    "more partitions": ("partitions", DEAD, "stay empty", lambda: altered(DEAD, info=TopicInfo(13, 3))),
    "one replica": ("replication", MAIN, "losing a broker loses its records", lambda: lone(MAIN)),
    "fewer replicas": (
        "replication",
        SECOND,
        "losing two brokers",
        lambda: altered(SECOND, info=TopicInfo(12, 2), **isr(1)),
    ),
    "no write is possible": ("replication", MAIN, "refuse every write", lambda: altered(MAIN, **isr(4))),
    "a broker away stops writes": ("replication", DEAD, "stops all writes", lambda: altered(DEAD, **isr(3))),
    "a lone acknowledgement": ("replication", FIRST, "lost with it", lambda: altered(FIRST, **isr(1))),
    "an unclean leader": (
        "replication",
        FIRST,
        "may become leader",
        lambda: altered(FIRST, config={"unclean.leader.election.enable": "true"}),
    ),
    "compacted": (
        "retention",
        FIRST,
        "a later one has the same key",
        lambda: altered(FIRST, config={"cleanup.policy": "compact"}),
    ),
    "compacted and deleted": (
        "retention",
        DEAD,
        "a later one has the same key",
        lambda: altered(DEAD, config={"cleanup.policy": "compact,delete"}),
    ),
    "by size": ("retention", DEAD, "retention.bytes=1000", lambda: altered(DEAD, config={"retention.bytes": "1000"})),
    "shorter than the wait": ("retention", SECOND, "some are never retried", lambda: kept(SECOND, 3599)),
    "hardly longer than the wait": ("retention", SECOND, "when workers are down", lambda: kept(SECOND, 3600 + DAY - 1)),
    "shorter than a call may ask": ("retention", FIRST, "Retry(after=)", lambda: kept(FIRST, 31 * DAY - 1)),
    "dead letters for a week": ("retention", DEAD, "nobody has looked at", lambda: kept(DEAD, 7 * DAY)),
    "dead letters expire": ("expiry", DEAD, "3 dead letters", lambda: altered(DEAD, kept(DEAD, 40 * DAY), old=3)),
    "work expires": ("expiry", MAIN, "1,200 records not done yet", lambda: altered(MAIN, old=1200)),
    "no room for the record": (
        "message size",
        FIRST,
        "a large record does not fit",
        lambda: altered(FIRST, config={"max.message.bytes": "1000000"}),
    ),
    "no room for headers": (
        "message size",
        DEAD,
        "no room for flux's headers",
        lambda: altered(DEAD, config={"max.message.bytes": "1048588"}),
    ),
    "a compression that the client cannot read": (
        "compression",
        MAIN,
        "compressed with zstd, which this client cannot read here",
        lambda: altered(MAIN, unreadable={"zstd": "pip install it"}),
    ),
    "a compression that the client cannot write": (
        "compression",
        "ProducerOptions",
        "lacks the library for compression lz4",
        lambda: attrs.evolve(sound(), unwritable="this lacks the library for compression lz4: pip install it"),
    ),
    "two clocks": (
        "timestamps",
        FIRST,
        "of two clocks",
        lambda: altered(FIRST, config={"message.timestamp.type": "LogAppendTime"}),
    ),
    "a narrow window": (
        "timestamps",
        FIRST,
        "clock is off by ~1.0 minute",
        lambda: altered(FIRST, config={"message.timestamp.after.max.ms": "60000"}),
    ),
    "positions are forgotten": (
        "committed offsets",
        "broker 2",
        "~1.0 hour",
        lambda: brokers({2: {"offsets.retention.minutes": "59"}}),
    ),
    "may not write": (
        "permissions",
        f"topic {FIRST}",
        "lacks WRITE",
        lambda: allowed(topics={FIRST: frozenset({"READ", "DESCRIBE"})}),
    ),
    "may not look": (
        "permissions",
        f"topic {DEAD}",
        "lacks WRITE and DESCRIBE",
        lambda: allowed(topics={DEAD: None}, facts=altered(DEAD, info=None, config=None, hidden=True)),
    ),
    "may not join": (
        "permissions",
        "group billing-1",
        "lacks READ",
        lambda: allowed(groups={"billing-1": frozenset()}),
    ),
    "two families of clients": (
        "members",
        "group billing",
        "protocol range, and this adapter uses cooperative-sticky",
        lambda: attrs.evolve(sound(), protocols={"billing": GroupProtocol("range", ("cooperative-sticky",))}),
    ),
    "a clock ahead": (
        "clock",
        "this machine",
        "1.6 s ahead",
        lambda: attrs.evolve(sound(), clock=ClockDifference(1.6, 0.5)),
    ),
    "a clock behind": (
        "clock",
        "this machine",
        "9.0 s behind",
        lambda: attrs.evolve(sound(), clock=ClockDifference(-9, 0.5)),
    ),
    "a task that shares the group": (
        "names",
        "Billing",
        "Billing and Other both consume topic orders as group billing",
        lambda: attrs.evolve(sound(), others=(("Other", Stages("orders", "billing", 0)),)),
    ),
    "a task that works the retries": (
        "names",
        "Billing",
        f"Other consumes topic {FIRST}",
        lambda: attrs.evolve(sound(), others=(("Other", Stages(FIRST, "else", 0)),)),
    ),
}


def isr(least: int) -> dict[str, Any]:
    return {"config": {"min.insync.replicas": str(least)}}


def lone(name: str) -> Facts:
    facts = attrs.evolve(sound(), brokers={1: {}, 2: {}})
    facts = attrs.evolve(facts, topics=tuple(attrs.evolve(topic, info=TopicInfo(12, 2)) for topic in facts.topics))
    for topic in facts.topics:
        facts = altered(topic.name, facts, **isr(1))
    return altered(name, facts, info=TopicInfo(12, 1))


def kept(name: str, seconds: float) -> Facts:
    return altered(name, config={"retention.ms": str(int(seconds * 1000))})


def brokers(configs: dict[int, dict[str, str]]) -> Facts:
    facts = sound()
    return attrs.evolve(facts, brokers={**(facts.brokers or {}), **configs})


def allowed(
    topics: dict[str, frozenset[str] | None] | None = None,
    groups: dict[str, frozenset[str] | None] | None = None,
    facts: Facts | None = None,
) -> Facts:
    facts = facts or sound()
    known = facts.permissions
    assert known is not None
    of = Permissions({**known.topics, **(topics or {})}, {**known.groups, **(groups or {})}, known.cluster)
    return attrs.evolve(facts, permissions=of)


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_one_finding(case: str) -> None:
    check, about, problem, made = CASES[case]
    finding = only(made())
    assert (finding.check, finding.about) == (check, about)
    assert problem in finding.problem
    assert finding.remedy


def test_a_missing_topic_that_differs_from_another_in_dots_only_cannot_be_made() -> None:
    facts = attrs.evolve(altered(FIRST, info=None, config=None), names=frozenset({FIRST.replace("-", "."), "orders"}))
    assert [finding.check for finding in examine(facts)] == ["topics"]
    underscored = Policy(Stages("my.orders", "g", 0))
    missing = Facts("T", underscored, tuple(map(TopicFacts, underscored.stages)), names=frozenset({"my_orders"}))
    [clash] = [finding for finding in examine(missing) if finding.check == "names"]
    assert (clash.about, "my_orders" in clash.problem) == ("my.orders", True)


@pytest.mark.parametrize(
    ("case", "settings"),
    [
        ("compacted", {"cleanup.policy": "delete", "retention.ms": str(67 * 86_400_000)}),
        ("by size", {"retention.bytes": "-1"}),
        ("shorter than the wait", {"retention.ms": str(67 * 86_400_000)}),
        ("dead letters for a week", {"retention.ms": "-1"}),
        ("no room for headers", {"max.message.bytes": str(1_048_588 + 65_536)}),
    ],
)
def test_what_is_safe_to_set_fixes_the_finding(case: str, settings: dict[str, str]) -> None:
    facts = CASES[case][3]()
    finding = only(facts)
    assert finding.settings == settings
    assert finding.fixable
    assert all(f"{name}={value}" in finding.remedy for name, value in settings.items())
    assert examine(altered(finding.about, facts, config=settings)) == []


@pytest.mark.parametrize("case", ["fewer partitions", "work expires", "two clocks", "a lone acknowledgement"])
def test_what_somebody_must_decide_is_not_fixed(case: str) -> None:
    assert not only(CASES[case][3]()).fixable


def test_the_main_topic_keeps_its_owners_settings() -> None:
    facts = altered(MAIN, config={"cleanup.policy": "compact", "retention.bytes": "1", "retention.ms": "1000"})
    assert examine(facts) == []


def test_a_larger_main_topic_needs_more_room_in_the_others() -> None:
    findings = examine(altered(MAIN, config={"max.message.bytes": "5000000"}))
    assert [(finding.check, finding.about) for finding in findings] == [
        ("message size", n) for n in (FIRST, SECOND, DEAD)
    ]
    assert findings[0].settings == {"max.message.bytes": str(5_000_000 + 65_536)}


def test_kept_for_ever_is_long_enough() -> None:
    assert examine(altered(FIRST, config={"retention.ms": "-1"})) == []


def test_a_single_broker_needs_no_second_replica() -> None:
    facts = attrs.evolve(sound(), brokers={1: {}})
    for topic in facts.topics:
        facts = altered(topic.name, facts, info=TopicInfo(12, 1), **isr(1))
    assert examine(facts) == []


def test_a_clock_that_is_off_by_less_than_its_error_is_no_finding() -> None:
    assert examine(attrs.evolve(sound(), clock=ClockDifference(1.4, 0.5))) == []


def test_the_clock_is_measured_by_the_record_that_was_acknowledged_soonest() -> None:
    clock = closest([(100.0, 102.0, 90.0), (103.0, 103.2, 98.1), (104.0, 105.0, 99.0)])
    assert clock.ahead == pytest.approx(5.0)
    assert clock.error == pytest.approx(0.1, abs=0.01)


SETTINGS = st.dictionaries(
    st.sampled_from([*DEFAULTS, "local.retention.ms"]),
    st.one_of(
        st.integers().map(str), st.sampled_from(["", "-", "compact", "delete", "true", "LogAppendTime"]), st.text()
    ),
)


@given(st.lists(st.tuples(SETTINGS, st.integers(1, 20), st.integers(1, 5), st.integers(0, 9)), min_size=4, max_size=4))
def test_whatever_a_cluster_says_each_finding_is_of_a_check_and_has_a_remedy(
    shown: list[tuple[dict[str, str], int, int, int]],
) -> None:
    facts = sound()
    topics = tuple(
        attrs.evolve(topic, info=TopicInfo(partitions, replicas), config=settings, old=old)
        for topic, (settings, partitions, replicas, old) in zip(facts.topics, shown, strict=True)
    )
    for finding in examine(attrs.evolve(facts, topics=topics)):
        assert finding.check in CHECKS
        assert finding.remedy
        assert finding.about != MAIN or not finding.fixable


def exact(broker: dict[str, str] | None = None, count: int = 3, **changes: Any) -> Facts:
    """A task with `exactly_once`."""
    policy = attrs.evolve(POLICY, exactly_once=True)
    return attrs.evolve(sound(policy), brokers=dict.fromkeys(range(1, count + 1), broker or {}), **changes)


def test_transactions_need_permission_time_and_replicas() -> None:
    assert examine(exact()) == []
    assert examine(exact({"transaction.max.timeout.ms": "900000", "transaction.state.log.min.isr": "2"})) == []
    assert examine(exact(transaction_log=(1, 1), count=1)) == [], "a single broker is for development"
    refused = "transactional id flux-billing-h-0: cannot start: refused: grant it WRITE and DESCRIBE"
    assert only(exact(untransactional=refused)).remedy == "grant it WRITE and DESCRIBE"
    short = examine(exact({"transaction.max.timeout.ms": "10000"}))
    assert [finding.about for finding in short] == ["broker 1", "broker 2", "broker 3"]
    assert "set transaction.max.timeout.ms=15000" in short[0].remedy
    for facts in (
        exact(transaction_log=(2, 2)),
        exact(transaction_log=(3, 1)),
        exact({"transaction.state.log.replication.factor": "1"}),
        exact({"transaction.state.log.min.isr": "1"}),
    ):
        assert only(facts).about == "topic __transaction_state"


def test_a_task_without_exactly_once_needs_no_transactions() -> None:
    facts = exact({"transaction.max.timeout.ms": "1"}, transaction_log=(1, 1), untransactional="refused: grant it")
    assert [each for each in examine(attrs.evolve(facts, policy=POLICY)) if each.check == "transactions"] == []


def test_only_a_transaction_that_stays_open_holds_records_back() -> None:
    adapter = MemoryAdapter("doctor-held-back")
    try:
        adapter.broker.create_topic(MAIN, 2)
        writer = adapter.transactions(TransactionSettings("foreign"))
        writer.start(5)
        writer.begin()
        writer.write(MAIN, [ProducerRecord(b"x", partition=1)])
        ends = False

        class Hasty:
            def __getattr__(self, name: str) -> Any:
                return getattr(SYSTEM, name)

            def sleep(self, seconds: float) -> None:
                if ends:
                    writer.commit(5)

        def held_back() -> list[Finding]:
            facts = collect_facts("Billing", POLICY, adapter.admin(), system=cast(System, Hasty()))
            return [finding for finding in examine(facts) if finding.check == "held back"]

        [finding] = held_back()
        assert (finding.about, "from offset 0 on" in finding.problem) == (f"{MAIN}[1]", True)
        ends = True
        assert held_back() == []
    finally:
        forget("doctor-held-back")


def test_the_page_lists_each_check() -> None:
    page = (Path(__file__).parents[4] / "docs" / "how-to" / "doctor.md").read_text()
    shown = re.findall(r"^\| ([a-z ]+) \|", page.split("## Checks")[1].split("## `--fix`")[0], re.MULTILINE)
    assert shown[1:] == list(CHECKS)


# -- schedules


@pytest.mark.parametrize(("late", "found"), [(-60, False), (60, False), (61, True)])
def test_a_tick_that_no_worker_takes_is_found(late: float, found: bool) -> None:
    hourly = ScheduleStatus("hourly", "every 3600 s", 7_200_000)
    facts = attrs.evolve(sound(), schedules=(hourly,), at=7200.0 + late)
    if not found:
        assert examine(facts) == []
        return
    finding = only(facts)
    assert (finding.check, finding.about, finding.fixable) == ("schedules", "schedule hourly", False)
    assert finding.problem == "its tick has been due for 1.0 minute, and no worker takes it"


def test_a_schedule_that_has_not_begun_and_one_of_other_code_are_no_findings() -> None:
    schedules = ScheduleStatus("new", "every 3600 s"), ScheduleStatus("former", "", 1)
    assert examine(attrs.evolve(sound(), schedules=schedules, at=10**6)) == []


def test_the_ticks_of_a_schedule_are_read() -> None:
    yard = OperateKit()
    schedule = Schedule("hourly", "every 3600 s", interval(3_600_000))
    tick = b"%d" % (NOW_MS - 3_600_000)
    headers = [
        ("flux-due", tick),
        ("flux-attempts", b"0"),
        ("flux-tick", tick),
        ("flux-schedule", schedule.title.encode()),
    ]
    yard.kit.write(ProducerRecord(b"v", b"k", headers, 0, NOW_MS), topic=RETRY)
    collect = partial(collect_facts, "Billing", yard.policy, yard.admin, schedules=[schedule], system=yard.system)
    [found] = collect(adapter=yard.adapter).schedules
    assert found.next_tick == NOW_MS - 3_600_000
    assert "schedules" in {finding.check for finding in examine(collect(adapter=yard.adapter))}
    assert collect().schedules == ()
