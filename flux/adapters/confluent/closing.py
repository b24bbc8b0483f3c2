"""The end of a client, which librdkafka gives no limit."""

from __future__ import annotations

import threading
from collections.abc import Callable


def closed_within(seconds: float, close: Callable[[], object]) -> bool:
    """Whether `close` has ended in time. Else it goes on beside, on a thread that nobody waits for, not even at the end
    of the process. What it raises is raised here."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            close()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="flux-close", daemon=True)
    thread.start()
    thread.join(seconds)
    if failures:
        raise failures[0]
    return not thread.is_alive()
