"""Callables among the adapter's options, which librdkafka calls inside `consume`, `poll` or `flush`: an exception that
leaves one there loses the records of that call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from confluent_kafka import KafkaError

from flux.adapters.confluent.log import ClientLog, logger
from flux.core.errors import BrokerError
from flux.system import forks
from flux.system.tracebacks import text_of

_NAMES = ("error_cb", "stats_cb", "throttle_cb")


def guarded(options: Mapping[str, Any], log: ClientLog) -> dict[str, Any]:
    """The options with callables that raise no Exception: it is logged, once a minute. `oauth_cb` is not one of them:
    see `TokenSource`."""
    callbacks: dict[str, Any] = {
        name: UserCallback(name, options[name], log) for name in _NAMES if callable(options.get(name))
    }
    users = options.get("logger")
    if users is not None:
        callbacks["logger"] = SimpleNamespace(log=UserCallback("logger", lambda *given: users.log(*given), log))
    return {**options, **callbacks}


class UserCallback:
    def __init__(self, name: str, function: Callable[..., object], log: ClientLog) -> None:
        self._name = name
        self._function = function
        self._log = log

    def __call__(self, *given: Any) -> None:
        try:
            forks.calling(self._function, *given)
        except Exception as error:
            self._log.warn(("callback", self._name), f"the adapter's {self._name} failed\n{text_of(error)}")


class ErrorCallback:
    """librdkafka's `error_cb`: logs the error, then calls the user's callback. `refused` is called with a final refusal
    of the login; `failed` with what a callback raises (None: exceptions are logged)."""

    def __init__(
        self,
        log: ClientLog,
        doing: str,
        properties: Mapping[str, Any],
        refused: Callable[[BrokerError], None],
        failed: Callable[[BaseException], None] | None = None,
    ) -> None:
        self._log = log
        self._doing = doing
        self._users: Callable[[KafkaError], object] | None = properties.get("error_cb")
        self._refused = refused
        self._failed = failed

    def __call__(self, error: KafkaError) -> None:
        try:
            refusal = self._log.refusal(error, self._doing)
            if refusal is not None:
                self._refused(refusal)
            if self._users is not None:
                self._users(error)
        except BaseException as failure:
            if self._failed is not None:
                self._failed(failure)
            elif isinstance(failure, Exception):
                logger.exception("an error callback failed")
            else:
                raise
