"""The comparison, with the in-memory broker on both sides: quiet where nothing differs, and a lie is found."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings

from flux.adapters.memory import forget
from flux.core.ports import CommittedOffset
from proof.model.play import PARTITIONS, Differs, record, replay
from proof.model.run import memory
from proof.model.steps import Commit, Draft, Drain, Join, Look, Produce, Read, Step, Transact, sequences
from proof.model.subject import Drained, Subject
from proof.model.topic import Shown


@contextmanager
def subject(kind: type[Subject] = Subject) -> Iterator[Subject]:
    cluster = f"proof-{secrets.token_hex(6)}"
    try:
        with memory(cluster) as bench:
            yield kind(bench, PARTITIONS)
    finally:
        forget(cluster)


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(sequences(6))
def test_the_same_broker_returns_the_same(steps: tuple[Step, ...]) -> None:
    with subject() as model, subject() as other:
        replay(record(steps, model), other, "memory")


class Loses(Subject):
    def drain(self) -> Drained:
        drained = super().drain()
        return attrs.evolve(drained, records={number: each[1:] for number, each in drained.records.items()})


class Swaps(Subject):
    def drain(self) -> Drained:
        drained = super().drain()
        return attrs.evolve(drained, records={number: each[::-1] for number, each in drained.records.items()})


class DeliversAborted(Subject):
    def transact(self, values: tuple[bytes, ...], offset: tuple[int, int] | None, commits: bool) -> None:
        super().transact(values, None, commits=True)


class LeavesOffsetsOut(Subject):
    def transact(self, values: tuple[bytes, ...], offset: tuple[int, int] | None, commits: bool) -> None:
        super().transact(values, None, commits)


class ForgetsMetadata(Subject):
    def member_committed(self) -> list[tuple[int, CommittedOffset | None]]:
        return [(at, found and CommittedOffset(found.offset)) for at, found in super().member_committed()]


class PlacesElsewhere(Subject):
    def produce(self, partition: int | None, drafts: Iterable[Draft]) -> list[Shown]:
        return super().produce(1 if partition == 0 else partition, drafts)


class ReadsFromTheStart(Subject):
    def read(self, partition: int, offset: int) -> tuple[list[Shown], bool, int]:
        return super().read(partition, 0)


LIARS = [Loses, Swaps, DeliversAborted, LeavesOffsetsOut, ForgetsMetadata, PlacesElsewhere, ReadsFromTheStart]


@pytest.mark.parametrize("liar", LIARS)
def test_a_broker_that_does_something_else_is_found(liar: type[Subject]) -> None:
    steps: tuple[Step, ...] = (
        Produce(0, (Draft(b"1", b"a"), Draft(b"2", b"b"))),
        Join(0),
        Transact((b"3",), 0, 7, commits=False),
        Transact((b"4",), 1, 7, commits=True),
        Commit(0, 7, "m", waits=True),
        Read(0, 4),
        Drain(),
        Look(0),
    )
    with subject() as model, subject(liar) as other:
        played: list[tuple[str, Callable[[Subject], Any], Any]] = record(steps, model)
        with pytest.raises(Differs):
            replay(played, other, "liar")
