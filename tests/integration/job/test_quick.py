"""Tries in place, and work that is too old to be tried."""

from __future__ import annotations

import time
from collections import Counter, defaultdict

import flux
from integration.job.support import Lab, flux_headers
from integration.job.ways import OPPOSITES, Way, at_once


@at_once(*OPPOSITES)
def test_tries_in_place_keep_the_order_of_a_key_and_are_counted_as_attempts(lab: Lab, way: Way) -> None:
    ended: dict[bytes | None, list[int]] = defaultdict(list)
    attempts: Counter[bytes] = Counter()

    def call(message: flux.Message) -> None:
        attempts[message.value] += 1
        assert message.attempt == attempts[message.value]
        if message.value == b"never" or (int(message.value) % 7 == 0 and message.attempt < 3):
            raise ConnectionError("away for a moment")
        ended[message.key].append(int(message.value))

    task = lab.task(way.handler(call), partitions=2, retries=1, in_place_retries=3, in_place_wait=0.05)
    values = [b"%d" % n for n in range(200)]
    lab.write(task.topic, (b"never", b"key-0"), *((value, b"key-%d" % (int(value) % 9)) for value in values))
    with lab.running(task, adapter=way.adapter(lab.bootstrap)):
        lab.settle(task)
    assert {key: sorted(found) for key, found in ended.items()} == ended
    assert sorted(value for found in ended.values() for value in found) == list(range(200))
    expected = {value: 3 if int(value) % 7 == 0 else 1 for value in values}
    assert attempts == Counter(expected) + Counter({b"never": 8})
    [waited] = lab.read(lab.stage(task, 1).topic)
    assert (waited.value(), flux_headers(waited)["flux-attempts"]) == (b"never", b"4")
    [dead] = lab.dead(task)
    assert (dead.value(), flux_headers(dead)["flux-attempts"], flux_headers(dead)["flux-reason"]) == (
        b"never",
        b"8",
        b"exhausted",
    )


@at_once(*OPPOSITES)
def test_work_that_is_too_old_becomes_a_dead_letter_without_a_call(lab: Lab, way: Way) -> None:
    calls: list[tuple[bytes, int]] = []

    def call(message: flux.Message) -> None:
        calls.append((message.value, message.stage))
        if message.value == b"failing":
            raise ValueError("wrong")

    task = lab.task(way.handler(call), retries=2, wait=[0.2, 3600], give_up_after=60)
    now = int(time.time() * 1000)
    lab.write_at(task.topic, now - 61_000, b"old")
    lab.write_at(task.topic, now - 30_000, b"failing")
    lab.write_at(task.topic, now, b"new")
    with lab.running(task, adapter=way.adapter(lab.bootstrap)):
        lab.settle(task)
    assert Counter(calls) == Counter([(b"failing", 0), (b"failing", 1), (b"new", 0)])
    old, failing = sorted(lab.dead(task), key=lambda message: str(message.value()), reverse=True)
    assert (old.value(), failing.value()) == (b"old", b"failing")
    headers = flux_headers(old)
    assert (headers["flux-reason"], headers["flux-attempts"]) == (b"expired", b"0")
    assert headers["flux-error-type"].endswith(b"Expired")
    assert headers["flux-origin-timestamp"] == b"%d" % (now - 61_000)
    headers = flux_headers(failing)  # the hour to come would have been too long
    assert (headers["flux-reason"], headers["flux-attempts"]) == (b"expired", b"2")
    assert headers["flux-error-type"] == b"ValueError"
