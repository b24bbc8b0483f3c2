"""What the log says of each task as a whole."""

from __future__ import annotations

from flux.core.monitoring.stats import Stats
from flux.core.monitoring.summary import Line, Summary, started
from unit.support.engine_support import STAGES


def test_a_task_is_described_at_its_start() -> None:
    line = started("Billing", "kafka:9092", "ConfluentAdapter", list(STAGES)[:3], 10)
    assert line.text == "Billing: topic t, group g, stages 0-2, concurrency 10, on kafka:9092 (ConfluentAdapter)"
    assert line.fields == {
        "task": "Billing",
        "cluster": "kafka:9092",
        "adapter": "ConfluentAdapter",
        "topic": "t",
        "group": "g",
        "stages": [0, 1, 2],
        "concurrency": 10,
    }


def test_it_is_due_every_minute() -> None:
    summary = Summary(100.0)
    assert [summary.due(now) for now in (100.0, 159.0, 160.0)] == [False, False, True]
    summary.since_last({}, 160.0)
    assert [summary.due(now) for now in (219.0, 220.0)] == [False, True]


def test_a_minute_counts_what_was_done_in_it_and_the_end_all() -> None:
    summary = Summary(100.0)
    main, retry, other = Stats(done=1200, failed=3, retried=3), Stats(done=2, failed=1, dead=1), Stats()
    tasks = {"Billing": [main, retry], "Shipping": [other]}
    assert summary.since_last(tasks, 160.0) == [
        Line(
            "Billing: 1,202 done, 4 failed, 3 retried, 1 dead letter in 60 s",
            {"task": "Billing", "done": 1202, "failed": 4, "retried": 3, "dead": 1, "seconds": 60.0},
        )
    ]
    assert summary.since_last(tasks, 220.0) == []
    main.done += 5
    assert [line.text for line in summary.since_last(tasks, 281.0)] == [
        "Billing: 5 done, 0 failed, 0 retried, 0 dead letters in 61 s"
    ]
    assert [line.text for line in summary.in_all(tasks, 300.0)] == [
        "Billing: in all: 1,207 done, 4 failed, 3 retried, 1 dead letter in 200 s",
        "Shipping: in all: 0 done, 0 failed, 0 retried, 0 dead letters in 200 s",
    ]


def test_the_fields_have_tenths_of_seconds() -> None:
    [line] = Summary(100.0).in_all({"Billing": []}, 190.26)
    assert line.fields["seconds"] == 90.3
