"""Reports are read as they were written, and whatever else is in their topic does no harm."""

from __future__ import annotations

import json

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.core.monitoring.report import (
    MOST_KEY,
    VERSION,
    Call,
    Limited,
    Open,
    Paused,
    RateSet,
    Report,
    ScheduleReport,
    StageReport,
    ranges_of,
    shown_key,
    within,
)
from unit.support.report_support import PAUSED, REPORT, STAGE


def test_a_report_comes_back_as_it_was() -> None:
    assert Report.from_json(REPORT.to_json()) == REPORT
    paused = attrs.evolve(REPORT, stages=(PAUSED, attrs.evolve(STAGE, in_place=7)))
    assert Report.from_json(paused.to_json()) == paused
    slowed = attrs.evolve(REPORT, stages=(attrs.evolve(STAGE, rate_set=RateSet(None, "ada", 60.0)),))
    assert Report.from_json(slowed.to_json()) == slowed
    names = attrs.evolve(
        REPORT,
        stages=(attrs.evolve(STAGE, paused_names=(Paused("TooManyFailures", 1.5, None, why="2 of 2", name="acme"),)),),
    )
    assert Report.from_json(names.to_json()) == names
    assert b" " not in paused.to_json()
    schedules = (ScheduleReport("nightly", 1_000, 1_005, True, 2, 1),)
    scheduled = attrs.evolve(REPORT, stages=(attrs.evolve(STAGE, stage=1, schedules=schedules),))
    assert Report.from_json(scheduled.to_json()) == scheduled
    limited = (Limited("rate_limit_key", "acme", 800), Limited("pause_when", "host", 12))
    held_back = attrs.evolve(REPORT, stages=(attrs.evolve(STAGE, limited=limited, limited_records=900),))
    assert Report.from_json(held_back.to_json()) == held_back


def test_a_report_of_an_older_flux_is_read() -> None:
    older = json.loads(REPORT.to_json())
    for stage in older["stages"]:
        del stage["schedules"], stage["in_place"], stage["paused"], stage["done_to"], stage["calls"][0]["records"]
    assert Report.from_json(json.dumps(older).encode()) == REPORT


def test_fields_that_older_reports_have_come_first_and_all_since_have_a_default() -> None:
    added = [field.name for kind in (Call, Open) for field in attrs.fields(kind) if field.default is not attrs.NOTHING]
    assert added == ["records", "refused"]
    older = ["task", "stage", "topic", "group", "partitions", "done", "failed", "retried", "dead", "done_rate"]
    older += ["failed_rate", "waiting", "due_in", "in_flight", "calls", "on_their_way", "open"]
    names = {field.name: field.default for field in attrs.fields(StageReport)}
    assert [name for name, default in names.items() if default is attrs.NOTHING] == older


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"\xff",
        b"null",
        b"[" * 100_000,
        json.dumps({**json.loads(REPORT.to_json()), "v": VERSION + 1}).encode(),
        json.dumps({**json.loads(REPORT.to_json()), "pid": "x"}).encode(),
        json.dumps({**json.loads(REPORT.to_json()), "stages": {}}).encode().replace(b'"stages": {}', b'"stages": [1]'),
        json.dumps({**json.loads(REPORT.to_json()), "stages": [{**attrs.asdict(STAGE), "calls": [{}]}]}).encode(),
    ],
)
def test_what_is_damaged_foreign_or_of_another_version_is_ignored(data: bytes) -> None:
    assert Report.from_json(data) is None


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
fields = st.sampled_from(
    sorted(
        {
            field.name
            for kind in (Report, StageReport, ScheduleReport, Call, Open, Paused)
            for field in attrs.fields(kind)
        }
    )
)


@given(fields, values, st.integers(0, 4))
def test_no_report_that_anybody_wrote_can_do_harm(name: str, value: object, depth: int) -> None:
    data = json.loads(attrs.evolve(REPORT, stages=(attrs.evolve(STAGE, paused=PAUSED.paused),)).to_json())
    stage = data["stages"][0]
    [data, stage, stage["calls"][0], stage["open"][0], stage["paused"]][depth][name] = value
    found = Report.from_json(json.dumps(data).encode())
    if found is not None:
        assert Report.from_json(found.to_json()) is not None or "NaN" in json.dumps(data)


def test_fields_that_are_not_known_are_ignored() -> None:
    data = json.dumps({**json.loads(REPORT.to_json()), "later": {"v": 2}}).encode()
    assert Report.from_json(data) == REPORT


def test_keys_are_cut_and_text() -> None:
    assert shown_key(None) is None
    assert shown_key(b"\xff\x00k") == "\\xff\x00k"
    cut = shown_key(b"x" * 1_000_000)
    assert cut is not None
    assert len(cut) == MOST_KEY
    assert shown_key(b"x" * MOST_KEY) == "x" * MOST_KEY
    assert shown_key(b"x" * (MOST_KEY + 1)) == "x" * (MOST_KEY - 1) + "…"


def test_partitions_are_ranges() -> None:
    assert ranges_of([3, 0, 1, 2, 7, 9, 10]) == "0-3,7,9-10"
    assert ranges_of([]) == ""
    assert [number for number in range(12) if within("0-3,7,9-10", number)] == [0, 1, 2, 3, 7, 9, 10]
    assert not any(within(damaged, 3) for damaged in ("", "-", "a-5", ",", "4-2"))


def test_a_process_is_named_and_has_a_key_of_its_own() -> None:
    child = attrs.evolve(REPORT, process=2)
    assert (REPORT.name, child.name) == ("host-1 pid 4711", "host-1 pid 4711 (process 2)")
    assert len({REPORT.key, attrs.evolve(REPORT, pid=1).key, attrs.evolve(REPORT, host="host-2").key}) == 3
