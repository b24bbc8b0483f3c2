"""That the books find what went wrong: without that, chaos would prove nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
from proof.history.checker import AT_ONCE, OUT_OF_ORDER, UNASKED, Finding
from proof.history.events import Began, Moment

from chaos import books, plan
from chaos.books import Call, Fault, Figures


@attrs.frozen
class Copy:
    number: int
    at: int
    changed: bool = False

    def value(self) -> bytes:
        return plan.value(self.number)

    def key(self) -> bytes | None:
        return b"another" if self.changed else plan.key(self.number)

    def headers(self) -> plan.Headers:
        return plan.headers(self.number)

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return self.at


DONE, FAILS, DIES, ECHOES = 10, 41, 4, 7
"""Numbers, by what the plan wants of them."""


def call(number: int, stage: int = 0, began: float = 100.0, pid: int = 1, at: int = 0, ended: bool = True) -> Call:
    step = plan.step(number, stage) if ended else None
    return Call(pid, began, began + 0.1 if ended else None, number, stage, 0, at, step)


def audit(
    calls: Sequence[Call],
    sent: Sequence[int],
    copies: dict[int, list[Any]] | None = None,
    echoes: Sequence[Any] = (),
    faults: Sequence[Fault] = (),
    findings: Sequence[Finding] = (),
) -> Figures:
    found: dict[int, list[Any]] = {stage: [] for stage in range(plan.DEAD + 1)} | (copies or {})
    return books.audit(sent, list(calls), found, echoes, list(faults), window=2.0, findings=findings)


def test_all_is_well_when_each_stage_was_called_once() -> None:
    copies = {1: [Copy(FAILS, 0)], plan.DEAD: [Copy(DIES, 0)]}
    calls = [call(DONE, at=0), call(FAILS, at=1), call(FAILS, 1), call(DIES, at=2), call(ECHOES, at=3)]
    figures = audit(calls, [DONE, FAILS, DIES, ECHOES], copies, [Copy(ECHOES, 0)])
    assert (figures.problems, figures.lost, figures.repeated) == ([], 0, 0)


def test_a_record_that_nobody_called_is_lost() -> None:
    assert audit([], [DONE]).lost == 1


def test_a_call_that_did_not_end_counts_for_nothing() -> None:
    assert audit([call(DONE, ended=False)], [DONE]).lost == 1


def test_a_record_that_did_not_come_to_its_next_stage_is_lost() -> None:
    assert audit([call(FAILS)], [FAILS]).lost == 1


def test_a_record_that_is_no_dead_letter_is_lost() -> None:
    assert audit([call(DIES)], [DIES]).lost == 1


def test_a_record_whose_product_is_nowhere_is_lost() -> None:
    assert audit([call(ECHOES)], [ECHOES]).lost == 1


def test_a_repeat_needs_a_process_at_fault_and_a_late_end() -> None:
    def problems(*faults: Fault) -> list[str]:
        figures = audit([call(DONE, began=100.0, pid=1), call(DONE, began=109.0, pid=2)], [DONE], faults=faults)
        assert figures.repeated == 1
        return figures.problems

    assert problems()
    assert problems(Fault("kill", 101.0, 101.0, pid=1)) == []
    assert problems(Fault("kill", 101.0, 101.0, pid=2))
    assert problems(Fault("kill", 105.0, 105.0, pid=1))
    assert problems(Fault("join", 101.0, 101.0, excuses=False))
    assert problems(Fault("broker", 101.0, 104.0)) == []


def test_one_who_was_away_may_repeat_what_others_did_meanwhile() -> None:
    calls = [call(DONE, began=105.0, pid=2), call(DONE, began=110.1, pid=1)]
    assert audit(calls, [DONE], faults=[Fault("zombie", 100.0, 110.0, pid=1)]).problems == []
    late = [call(DONE, began=105.0, pid=2), call(DONE, began=113.0, pid=1)]
    assert audit(late, [DONE], faults=[Fault("zombie", 100.0, 110.0, pid=1)]).problems


def test_a_copy_that_was_changed_is_found() -> None:
    figures = audit([call(DIES)], [DIES], {plan.DEAD: [Copy(DIES, 0, changed=True)]})
    assert len(figures.problems) == 1


def test_a_copy_more_is_excused_by_a_cluster_at_fault() -> None:
    findings = [Finding(UNASKED, (DIES,), "1 of 2 copies")]

    def figures(*faults: Fault) -> Figures:
        return audit([call(DIES)], [DIES], {plan.DEAD: [Copy(DIES, 0)]}, faults=faults, findings=findings)

    assert figures().problems
    assert figures(Fault("kill", 101.0, 101.0, pid=1)).problems
    assert figures(Fault("broker", 101.0, 104.0)).problems == []
    assert figures(Fault("broker", 101.0, 104.0)).doubled == 1


def test_a_dead_letter_that_was_done_is_found() -> None:
    assert audit([call(DONE)], [DONE], {plan.DEAD: [Copy(DONE, 0)]}).problems


def test_calls_of_one_key_at_once_are_excused_for_an_owner_at_fault() -> None:
    def problems(second: int, *faults: Fault, kind: str = AT_ONCE) -> list[str]:
        pair = [Began(0, pid, DONE, 0, 0, 0, "k", 0, Moment(0, 100_000_000_000)) for pid in (1, second)]
        found = Finding(kind, (DONE,), "", tuple(pair))
        return audit([call(DONE)], [DONE], faults=faults, findings=[found]).problems

    assert problems(2)
    assert problems(2, Fault("zombie", 95.0, 101.0, pid=1)) == []
    assert problems(2, Fault("zombie", 95.0, 101.0, pid=3))
    assert problems(2, Fault("zombie", 80.0, 90.0, pid=1))
    assert problems(2, Fault("join", 95.0, 101.0, excuses=False))
    assert problems(1, Fault("zombie", 95.0, 101.0, pid=1)), "within an owner nothing excuses it"
    assert problems(2, Fault("zombie", 95.0, 101.0, pid=1), kind=OUT_OF_ORDER)
