"""Tells hooks what happens. What nobody overrides is not called, and a task that nobody hears of pays nothing: its
handler is wrapped once, at the start, and only if somebody wants to see calls."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

from flux.core.hooks import Hooks, Where
from flux.core.message import Message
from flux.core.ports import TopicPartition
from flux.core.stage import Stage

logger = logging.getLogger("flux.worker")

Handler = Callable[[Message], Any]
_Entered = AbstractContextManager[object]
Event = Literal[
    "on_start",
    "on_success",
    "on_failure",
    "on_retry",
    "on_dead_letter",
    "on_commit",
    "on_assigned",
    "on_revoked",
    "on_lost",
]


class Heard:
    """The hooks of one task, by what they hear. Thread-safe; methods are called with no lock held."""

    def __init__(self, task: str, hooks: Sequence[Hooks] = (), stages: Sequence[Stage] = ()) -> None:
        self._task = task
        self._places = {stage.number: Where(task, stage.number, stage.topic, stage.group) for stage in stages}
        self._methods: dict[str, list[Callable[..., Any]]] = {}
        for name in (name for name in vars(Hooks) if name.startswith("on_") or name == "around"):
            overriding = [each for each in hooks if getattr(type(each), name) is not getattr(Hooks, name)]
            if overriding:
                self._methods[name] = [getattr(each, name) for each in overriding]
        self._told: set[tuple[str, str, type]] = set()
        self.moves = bool(self._methods.keys() & {"on_retry", "on_dead_letter"})
        """Whether anybody hears of hops."""

    def of(self, stage: int) -> Where:
        """The stage of that number."""
        return self._places.get(stage) or Where(self._task, stage, "", "")

    def hears(self, event: Event) -> bool:
        return event in self._methods

    def tell(self, event: Event, where: Where, *facts: Any) -> None:
        for method in self._methods.get(event, ()):
            try:
                method(where, *facts)
            except Exception as error:
                self._complain(event, method, error)

    def wrap(self, handler: Handler, awaited: bool) -> Handler:
        """`handler`, with those who want to see calls told of each; as it is, when nobody does."""
        if not self._methods.keys() & {"around", "on_start", "on_success", "on_failure"}:
            return handler
        return self._calling_async(handler) if awaited else self._calling(handler)

    def _calling(self, handler: Handler) -> Handler:
        of, tell, clock, around = self.of, self.tell, time.perf_counter, "around" in self._methods

        def call(message: Message) -> Any:
            where = of(message.stage)
            entered = self._entered(where, message) if around else ()
            began = clock()
            tell("on_start", where, message)
            try:
                result = handler(message)
                tell("on_success", where, message, clock() - began)
            except BaseException as error:
                self._failed(where, message, error, clock() - began, entered)
                raise
            if entered:
                self._leave(entered, None)
            return result

        return call

    def _calling_async(self, handler: Callable[[Message], Awaitable[Any]]) -> Handler:
        of, tell, clock, around = self.of, self.tell, time.perf_counter, "around" in self._methods

        async def call(message: Message) -> Any:
            where = of(message.stage)
            entered = self._entered(where, message) if around else ()
            began = clock()
            tell("on_start", where, message)
            try:
                result = await handler(message)
                tell("on_success", where, message, clock() - began)
            except BaseException as error:
                self._failed(where, message, error, clock() - began, entered)
                raise
            if entered:
                self._leave(entered, None)
            return result

        return call

    def _failed(
        self, where: Where, message: Message, error: BaseException, seconds: float, entered: Sequence[_Entered]
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, MemoryError):
            self.tell("on_failure", where, message, error, seconds)
        self._leave(entered, error)

    def _entered(self, where: Where, message: Message) -> list[_Entered]:
        entered: list[_Entered] = []
        for method in self._methods.get("around", ()):
            try:
                manager = method(where, message)
                manager.__enter__()
                entered.append(manager)
            except Exception as error:
                self._complain("around", method, error)
        return entered

    def _leave(self, entered: Sequence[_Entered], error: BaseException | None) -> None:
        trace = None if error is None else error.__traceback__
        for manager in reversed(entered):
            try:
                # what it returns does not count: a call that failed has failed
                manager.__exit__(None if error is None else type(error), error, trace)
            except Exception as raised:
                if raised is not error:
                    self._complain("around", manager, raised)

    def _complain(self, event: str, whose: object, error: Exception) -> None:
        owner = type(getattr(whose, "__self__", whose)).__qualname__
        kind = (owner, event, type(error))
        if kind not in self._told:
            self._told.add(kind)
            logger.error(
                "%s: %s.%s raised %s: it is not told again of this kind",
                self._task,
                owner,
                event,
                error,
                exc_info=error,
            )


def log_fields(where: Where, about: Message | TopicPartition | None = None) -> dict[str, Any]:
    """What a line in the log is about, as `extra`."""
    fields: dict[str, Any] = {"task": where.task, "stage": where.stage, "topic": where.topic, "group": where.group}
    if about is not None:
        fields["partition"] = about.partition
    if isinstance(about, Message):
        fields |= {"offset": about.offset, "attempt": about.attempt}
    return fields
