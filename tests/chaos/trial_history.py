"""Puts the history of a trial together: from its feeder, its workers' books, the trial itself, and the cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from proof.history import kafka
from proof.history.events import Event, Output, Stored, Timed

from chaos import books, plan

if TYPE_CHECKING:
    from chaos.trial import Trial


def history(trial: Trial, copies: Mapping[int, list[Any]], outputs: list[Any]) -> Iterator[Event]:
    """`copies`: what the topic of each stage holds."""
    happened: list[Timed] = [*trial.feeder.acknowledged, *trial.history, *books.events(trial.directory / "books")]
    yield from sorted(happened, key=lambda event: event.at.mono)
    for stage, messages in copies.items():
        for each in messages:
            number, stamp = plan.number_of(each.value()), each.timestamp()[1]
            yield Stored(number, stage, each.partition(), each.offset(), stamp, stage == plan.DEAD)
    for each in outputs:
        yield Output(plan.number_of(each.value()), each.timestamp()[1])
    pairs = zip(trial.groups, trial.topics, strict=False)  # no worker consumes the dead letters
    stages = {pair: stage for stage, pair in enumerate(pairs)}
    yield from kafka.commits(kafka.read_topic(trial.cluster.bootstrap, kafka.OFFSETS), stages)
