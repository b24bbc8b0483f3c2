"""A task of 5 ms that writes down which records it is called with."""

from __future__ import annotations

import os
import time

import flux

_CALLS = os.open(os.environ["BENCHMARK_CALLS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


class Killed(flux.Task):
    topic = os.environ["BENCHMARK_TOPIC"]
    group_id = os.environ["BENCHMARK_GROUP"]
    retries = 0

    def call(self, message: flux.Message) -> None:
        os.write(_CALLS, b"%d %d\n" % (message.partition, message.offset))
        time.sleep(0.005)
