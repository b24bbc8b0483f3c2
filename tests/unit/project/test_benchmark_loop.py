"""The benchmark of the loop measures all that it names. How fast anything is belongs to no test."""

from __future__ import annotations

import pytest

from benchmarks import loop


@pytest.mark.parametrize("name", loop.CONTESTANTS)
def test_each_contestant_calls_each_record_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(loop, "handle", lambda message: seen.append(message.offset))
    monkeypatch.setattr(loop.Batched, "call", lambda self, messages: seen.extend(each.offset for each in messages))
    with loop.CONTESTANTS[name]() as cycle:
        cycle([loop.Record(at) for at in range(3)])
        cycle([loop.Record(at) for at in range(3, 5)])
    assert sorted(seen) == [0, 1, 2, 3, 4]


def test_its_table_compares_with_nothing_on() -> None:
    table = loop.table({"no flux": 100.0, "flux, nothing on": 150.0, "metrics": 2100.0})
    assert table.splitlines()[2:] == [
        "| no flux | 100 | -50 |",
        "| flux, nothing on | 150 | +0 |",
        "| metrics | 2,100 | +1,950 |",
    ]
