"""For workers under libfaketime, which cannot do the absolute sleep by the monotonic clock that CPython uses."""

import select
import time


def _sleep(seconds: float) -> None:
    select.select([], [], [], seconds)


time.sleep = _sleep  # type: ignore[assignment]
