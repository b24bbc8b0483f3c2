"""Notifies hooks of events. Only overridden methods are called. A task without hooks pays nothing: its handler is
wrapped once, at the start, and only if a hook wants calls."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Literal

from flux.core.engine.verdicts import Move, Pause, Rules
from flux.core.error_text import brief, error_name, guarded, traceback_of
from flux.core.hooks import Hooks, StageInfo
from flux.core.message import Message
from flux.core.ports import TopicPartition
from flux.core.stage import Stage
from flux.system import forks
from flux.system.return_values import check_returned, own_failures
from flux.system.tracebacks import text_of

logger = logging.getLogger("flux.worker")

_Entered = AbstractContextManager[object]
_PROCESS = (KeyboardInterrupt, SystemExit, GeneratorExit)
Event = Literal[
    "on_start",
    "on_success",
    "on_failure",
    "on_batch",
    "on_calls",
    "on_retry",
    "on_dead_letter",
    "on_pause",
    "on_resume",
    "on_pause_name",
    "on_resume_name",
    "on_commit",
    "on_assigned",
    "on_revoked",
    "on_lost",
]

_OF_CALLS = frozenset({"around", "on_start", "on_success", "on_failure"})
_OF_BATCHES = _OF_CALLS | {"around_batch", "on_batch"}


class AroundCalls(Hooks):
    """A hook of flux itself around each call, with methods that cost less than a context manager per call."""

    def around(self, where: StageInfo, message: Message) -> AbstractContextManager[object]:
        return _Around(self, where, message)

    def enter(self, place: Callable[[int], StageInfo], message: Message) -> Any:
        """`place`: the StageInfo of a stage by its number. The result is passed once to one of the `leave` methods."""
        raise NotImplementedError

    def leave(self, entered: Any) -> None:
        """The call has returned."""
        raise NotImplementedError

    def leave_failed(self, entered: Any, error: BaseException) -> None:
        """The call has raised, or found an outage, which is a Pause."""
        raise NotImplementedError


class _Around:
    """A call as a context, for `AroundCalls`."""

    __slots__ = ("_entered", "_hook", "_message", "_where")

    def __init__(self, hook: AroundCalls, where: StageInfo, message: Message) -> None:
        self._hook = hook
        self._where = where
        self._message = message

    def __enter__(self) -> None:
        self._entered = self._hook.enter(lambda stage: self._where, self._message)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            self._hook.leave(self._entered)
        else:
            self._hook.leave_failed(self._entered, error)


class HookDispatch:
    """The hooks of one task, by event. Thread-safe; hooks are called without a lock. `rules`: decides which exceptions
    are failures of a record."""

    def __init__(
        self, task: str, hooks: Sequence[Hooks] = (), stages: Sequence[Stage] = (), rules: Rules | None = None
    ) -> None:
        self.task = task
        self._rules = rules or Rules()
        self.places = {stage.number: StageInfo(task, stage.number, stage.topic, stage.group) for stage in stages}
        self._methods: dict[str, list[Callable[..., Any]]] = {}
        for name in (name for name in vars(Hooks) if name.startswith(("on_", "around"))):
            overriding = [each for each in hooks if _overrides(each, name)]
            if overriding:
                self._methods[name] = [getattr(each, name) for each in overriding]
        singly = [each for each in hooks if _overrides(each, "around") and not _overrides(each, "around_batch")]
        self._around_each = [each.around for each in singly]
        """The `around` methods for each message of a batch."""
        self._told: set[tuple[str, str, str]] = set()
        self.moves = bool(self._methods.keys() & {"on_retry", "on_dead_letter"})
        """Whether any hook wants forwarded copies."""

    def of(self, stage: int) -> StageInfo:
        """The StageInfo of a stage by its number."""
        return self.places.get(stage) or StageInfo(self.task, stage, "", "")

    def wants(self, event: Event) -> bool:
        return event in self._methods

    def notify(self, event: Event, where: StageInfo, *facts: Any) -> None:
        self._notify(event, where, *facts)

    def notify_task(self, event: Event, *facts: Any) -> None:
        """Notifies of an event that concerns all stages."""
        self._notify(event, self.task, *facts)

    def _notify(self, event: Event, *facts: Any) -> None:
        for method in self._methods.get(event, ()):
            try:
                returned = forks.calling(method, *facts)
                if returned is not None:
                    check_returned(event, returned)
            except _PROCESS:
                raise
            except BaseException as error:
                self._complain(event, method, error)

    def sees_calls(self, batched: bool) -> bool:
        """Whether any hook wants each call. `batched`: of a batch task."""
        return bool(self._methods.keys() & (_OF_BATCHES if batched else _OF_CALLS))

    def alone(self) -> AroundCalls | None:
        """The only hook that wants calls, if it is an `AroundCalls`."""
        if _OF_CALLS & self._methods.keys() != {"around"}:
            return None
        hook, *others = (getattr(method, "__self__", None) for method in self._methods["around"])
        # a hook that overrides `around` replaces these methods
        return hook if not others and getattr(type(hook), "around", None) is AroundCalls.around else None

    def went_wrong(self, hook: AroundCalls, error: BaseException) -> None:
        """The hook itself raised. Raises the error again if it ends the process."""
        if issubclass(type(error), _PROCESS):
            raise error
        self._complain("around", hook, error)

    def call_failed(
        self, where: StageInfo, message: Message, error: BaseException, seconds: float, entered: Sequence[_Entered]
    ) -> Move:
        """A call raised. `entered`: the context managers to leave."""
        move = self._rules.verdict(error).move
        if move in (Move.NEXT, Move.DEAD):
            self.notify("on_failure", where, message, error, seconds)
        if entered:
            self.leave(entered, _as_pause(error) if move is Move.PAUSE else error)
        return move

    def leave_failed(self, hook: AroundCalls, entered: Any, error: BaseException) -> None:
        """A call raised, and only `hook` is notified."""
        try:
            paused = self._rules.verdict(error).move is Move.PAUSE
            hook.leave_failed(entered, _as_pause(error) if paused else error)
        except BaseException as raised:
            self.went_wrong(hook, raised)

    def entering(self) -> Callable[[StageInfo, object], Sequence[_Entered]] | None:
        """Returns a function that enters the context managers of a call; None: there are none."""
        around = self._methods.get("around", ())
        if len(around) != 1:
            return partial(self._entered, around) if around else None
        [method] = around

        def enter(where: StageInfo, what: object) -> Sequence[_Entered]:
            try:
                manager = forks.calling(method, where, what)
                forks.calling(manager.__enter__)
                return (manager,)
            except _PROCESS:
                raise
            except BaseException as error:
                self._complain("around", method, error)
                return ()

        return enter

    def _entered(self, around: Sequence[Callable[..., Any]], where: StageInfo, what: object) -> list[_Entered]:
        """`what`: a message, or the messages of a batch."""
        entered: list[_Entered] = []
        for method in around:
            try:
                manager = forks.calling(method, where, what)
                forks.calling(manager.__enter__)
                entered.append(manager)
            except _PROCESS:
                raise
            except BaseException as error:
                self._complain("around", method, error)
        return entered

    def leave(self, entered: Sequence[_Entered], error: BaseException | None) -> None:
        kind = trace = None
        if error is not None:
            kind, trace = type(error), traceback_of(error)
        for manager in entered if len(entered) == 1 else reversed(entered):
            try:
                # its result does not matter: it cannot suppress the exception
                forks.calling(manager.__exit__, kind, error, trace)
            except BaseException as raised:
                if raised is error:
                    continue
                if issubclass(type(raised), _PROCESS):
                    raise
                self._complain("around", manager, raised)

    def _complain(self, event: str, whose: object, error: BaseException) -> None:
        bound = guarded(lambda: whose.__self__)  # type: ignore[attr-defined]
        owner = guarded(lambda: type(whose if bound is None else bound).__qualname__) or "a hook"
        kind = (owner, event, error_name(type(error)))
        if kind not in self._told:
            self._told.add(kind)
            trace = text_of(error)
            logger.error(
                "%s: %s.%s raised %s: further errors of this kind are not logged\n%s",
                self.task,
                owner,
                event,
                brief(error),
                trace,
                extra={"task": self.task, "error": error_name(type(error)), "exception": trace},
            )


def _overrides(hook: Hooks, name: str) -> bool:
    return getattr(type(hook), name) is not getattr(Hooks, name)


class BatchCall:
    """Notifies of a call with many messages: once for the call, and once for each message."""

    def __init__(self, hook_dispatch: HookDispatch, messages: Sequence[Message]) -> None:
        self._hook_dispatch = hook_dispatch
        self._messages = messages
        self._where = where = hook_dispatch.of(messages[0].stage)
        self._whole = hook_dispatch._entered(hook_dispatch._methods.get("around_batch", ()), where, messages)
        each = hook_dispatch._around_each
        self._entered = [hook_dispatch._entered(each, where, message) if each else () for message in messages]
        self._began = time.perf_counter()
        if hook_dispatch.wants("on_start"):
            for message in messages:
                hook_dispatch.notify("on_start", where, message)

    def ended(self, error: BaseException | None) -> None:
        """`error`: the call's exception; None: it returned."""
        hook_dispatch, where, seconds = self._hook_dispatch, self._where, time.perf_counter() - self._began
        failures = {} if error is None else own_failures(self._messages, error)
        moves: set[Move | None] = set()
        for message, entered in zip(self._messages, self._entered, strict=True):
            own = failures.get(message)
            if own is not None:
                moves.add(hook_dispatch.call_failed(where, message, own, seconds, entered))
                continue
            moves.add(None)
            hook_dispatch.notify("on_success", where, message, seconds)
            hook_dispatch.leave(entered, None)
        if error is not None and moves == {Move.PAUSE}:
            error = _as_pause(next(iter(failures.values())))
        elif Move.STOP not in moves:
            hook_dispatch.notify("on_batch", where, self._messages, seconds)
        hook_dispatch.leave(self._whole, error)


def _as_pause(error: BaseException) -> BaseException:
    """The `flux.Pause` for a context manager, which does not know the task's `pause_on`; the exception is its cause."""
    if issubclass(type(error), Pause):
        return error
    pause = Pause()
    pause.__cause__, pause.__traceback__ = error, traceback_of(error)
    return pause


def log_fields(where: StageInfo, about: Message | TopicPartition | None = None) -> dict[str, Any]:
    """The `extra` fields of a log line."""
    fields: dict[str, Any] = {"task": where.task, "stage": where.stage, "topic": where.topic, "group": where.group}
    if about is not None:
        fields["partition"] = about.partition
    if isinstance(about, Message):
        fields |= {"offset": about.offset, "attempt": about.attempt}
    return fields
