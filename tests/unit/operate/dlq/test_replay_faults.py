"""Replays that are interrupted, refused or cut short: no dead letter counts as replayed without a copy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st

from flux.core.errors import BrokerError, ConfigurationError, Fault
from flux.operate.dlq.dead_letters import dead_letter_of
from flux.operate.dlq.filters import Filter
from flux.operate.dlq.reject import reject
from flux.operate.dlq.replay_progress import DeadLetterState, ReplayProgress, replay_group
from unit.support.operate_support import DEAD, NOW_MS, OperateKit, only

PARTITIONS = 2


@attrs.frozen
class Step:
    """One replay, or one rejection. Faults hit the so-many-th write or commit of it; None: none."""

    criteria: Filter
    buried_before: list[str]
    limit: int | None
    stopped_at: int | None
    refused: int | None
    lost: int | None
    """A copy is there, and its acknowledgement is not."""
    uncommitted: int | None
    rejects: bool


few = st.none() | st.integers(0, 12)
steps = st.builds(
    Step,
    criteria=st.sampled_from([Filter(), Filter(), only(error="A"), only(error="B"), only(error="[AB]")])
    | st.builds(Filter, only=st.frozensets(st.tuples(st.integers(0, PARTITIONS - 1), st.integers(0, 3)), max_size=4)),
    buried_before=st.lists(st.sampled_from("ABC"), max_size=8),
    limit=st.none() | st.integers(1, 6),
    stopped_at=few,
    refused=few,
    lost=few,
    uncommitted=few,
    rejects=st.sampled_from([False, False, True]),
)


class Play:
    def __init__(self) -> None:
        self.yard = OperateKit(PARTITIONS)
        self.repeats_excused = False
        self._number = 0

    def bury(self, errors: list[str]) -> None:
        for error in errors:
            self.yard.bury({"error": error, "at": self._number % PARTITIONS, "text": f"number {self._number}"})
            self._number += 1

    def step(self, step: Step) -> None:
        self.bury(step.buried_before)
        broker = self.yard.broker
        broker.fail_writes(_nth(step.refused))
        broker.fail_writes(_nth(step.lost), stored=True)
        broker.fail_commits(_nth(step.uncommitted))
        asked = iter(range(step.stopped_at)) if step.stopped_at is not None else None
        try:
            self._do(step, asked)
        except ConfigurationError:  # chosen beyond the end
            assert step.criteria.only is not None
        broker.fail_writes(None)
        broker.fail_writes(None, stored=True)
        broker.fail_commits(None)
        self.check()

    def _do(self, step: Step, asked: Iterator[int] | None) -> None:
        if step.rejects:
            with suppress(BrokerError):
                reject(self.yard.adapter, self.yard.admin, self.yard.policy, step.criteria, system=self.yard.system)
            return
        result = self.yard.replay(
            should_stop=lambda: asked is not None and next(asked, None) is None,
            criteria=step.criteria,
            limit=step.limit,
        )
        if result.failed:
            self.repeats_excused = True

    def copies(self) -> Counter[tuple[int, int]]:
        """By the dead letter's place, which its text names."""
        texts = Counter(dict(record.headers() or ())["flux-error-message"] for record in self.yard.copies())
        return Counter(
            {
                (record.partition(), record.offset()): texts[dict(record.headers() or ())["flux-error-message"]]
                for record in self.yard.broker.records(DEAD)
            }
        )

    def check(self) -> None:
        yard, copies = self.yard, self.copies()
        positions = yard.broker.committed_offsets(replay_group(yard.policy), DEAD)
        for record in yard.broker.records(DEAD):
            known = (
                ReplayProgress.of(positions[record.partition()])
                if record.partition() in positions
                else ReplayProgress(0)
            )
            there = copies[record.partition(), record.offset()]
            state = known.state_of(dead_letter_of(record, yard.policy, NOW_MS))
            if state is DeadLetterState.REPLAYED:
                assert there >= 1, f"{record} counts as replayed, and is not"
            if state is DeadLetterState.REJECTED and not self.repeats_excused:
                assert there == 0, f"{record} is rejected, and was replayed"
            if not self.repeats_excused:
                assert there <= 1, f"{record} was replayed {there} times"


def _nth(number: int | None):  # type: ignore[no-untyped-def]
    left = None if number is None else iter(range(number))

    def fault(*_: object) -> BrokerError | None:
        if left is None or next(left, None) is not None:
            return None
        return BrokerError("refused", Fault.UNAVAILABLE)

    return fault


@settings(max_examples=150, deadline=None)
@given(st.lists(steps, max_size=6))
def test_whatever_happens_nothing_is_passed_over_and_a_last_replay_takes_the_rest(plan: list[Step]) -> None:
    play = Play()
    for step in plan:
        play.step(step)
    play.bury(["A", "B"])
    assert not play.yard.replay().failed
    play.check()
    assert not play.yard.replay(rejected=True).failed
    assert all(count >= 1 for count in play.copies().values())
    assert len(play.copies()) == len(play.yard.broker.records(DEAD))
    assert play.yard.replay().replayed == 0
