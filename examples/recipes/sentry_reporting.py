"""Reports failed calls to Sentry, with the record's id and without its contents."""

from collections.abc import Callable
from typing import Any

import sentry_sdk

import flux


class Reporting:
    """Middleware of a task. `expected`: exceptions that are not reported, such as those in `pause_on`."""

    def __init__(self, *expected: type[Exception]) -> None:
        self._expected = (flux.Retry, flux.Pause, *expected)

    def __call__(self, message: flux.Message, call_next: Callable[[flux.Message], Any]) -> None:
        with sentry_sdk.isolation_scope() as scope:
            scope.set_tag("topic", message.topic)
            scope.set_tag("attempt", message.attempt)
            scope.set_context("record", {"id": message.id, "stage": message.stage})
            try:
                call_next(message)
            except Exception as error:
                if not isinstance(error, self._expected):
                    sentry_sdk.capture_exception(error)
                raise
