"""A producer's process: numbered records at a steady rate, and what becomes of each as a line of a file.

NETWORK is what it is to be, as JSON: `topic`, `books` (the file), `rate` (records a second), `delivery_timeout`.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import flux

NETWORK = json.loads(os.environ["NETWORK"])
_books = os.open(NETWORK["books"], os.O_WRONLY | os.O_APPEND)


def note(*words: object) -> None:
    """One write, so lines of several threads do not mix."""
    os.write(_books, (" ".join(map(str, words)) + "\n").encode())


class Numbers(flux.Producer):
    topic = NETWORK["topic"]

    @staticmethod
    def on_error(error: flux.DeliveryError) -> None:
        note_failed(error)


def note_failed(error: flux.DeliveryError) -> None:
    for failed in error.failed:
        note("failed", int(failed.value or b"-1"), failed.error)


def ended(number: int) -> Callable[[Future[Any]], None]:
    def look(delivery: Future[Any]) -> None:
        error = delivery.exception()
        if error is None:
            note("acknowledged", number, delivery.result().partition)
        else:
            note("failed", number, error)

    return look


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    flux.configure(producer=flux.ProducerOptions(delivery_timeout=NETWORK["delivery_timeout"]))
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    for number in itertools.count():
        if stop.wait(1 / NETWORK["rate"]):
            break
        value, key = b"%d" % number, b"k%d" % (number // 2)
        try:
            if number % 2:
                note("given", number)
                Numbers.produce(value, key=key)
            else:
                note("sent", number)
                Numbers.send(value, key=key).add_done_callback(ended(number))
        except flux.DeliveryError as error:
            note_failed(error)
    try:
        Numbers.close()
    except flux.DeliveryError as error:
        note_failed(error)
    note("ended")


if __name__ == "__main__":
    main()
