"""Messages of confluent-kafka: consumed ones, taken apart into batches of records and errors, and headers to write."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

from confluent_kafka import KafkaError, Message

from flux.core.ports import Batch, Headers, TopicPartition

OUT_OF_RANGE = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._NO_OFFSET}
"""Errors of a partition without a valid fetch position."""

_MOST_CHECKED = 1000
_checked_names: set[str] = set()
"""Header names that are valid: programs use few."""

# Applied by `map`: a loop over the records would cost more than consuming them.
_error = Message.error
_partition: Callable[[Any], int] = Message.partition  # type: ignore[assignment]


def split_errors(messages: list[Any]) -> tuple[list[Any], list[Any]]:
    """The messages that are records, and those that are errors."""
    if not any(map(_error, messages)):
        return messages, []
    return [each for each in messages if each.error() is None], [each for each in messages if each.error() is not None]


def batches_of(messages: list[Any], name: Callable[[int], TopicPartition]) -> list[Batch]:
    """Records of one topic as batches of one partition each. `name`: the partition of a number."""
    if not messages:
        return []
    numbers = list(map(_partition, messages))
    first = numbers[0]
    if numbers.count(first) == len(numbers):
        return [Batch(name(first), messages)]
    batches, start = [], 0
    for number, group in groupby(numbers):
        end = start + len(list(group))
        batches.append(Batch(name(number), messages[start:end]))
        start = end
    return batches


def client_headers(headers: Headers) -> list[Any]:
    """Raises ValueError: librdkafka takes names as C strings, and would cut one at a NUL, and crash on one that cannot
    be UTF-8."""
    for name, _ in headers:
        if name not in _checked_names:
            if "\0" in name:
                raise ValueError("a header's name has a NUL in it")
            name.encode()
            if len(_checked_names) < _MOST_CHECKED:
                _checked_names.add(name)
    return list(headers)
