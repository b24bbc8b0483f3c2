"""Retry stages that join their groups when their topics have a record: see `flux/core/late_join.py`."""

from __future__ import annotations

from collections.abc import Iterable

from flux.consuming.coordinator.common import Shared, StageRuntime
from flux.consuming.coordinator.membership import Ending
from flux.consuming.topic_setup import REQUEST_TIMEOUT
from flux.core.engine.forwarding import Forward
from flux.core.errors import BrokerError
from flux.core.late_join import interval, is_empty
from flux.core.ports import AdminPort


class LateJoins:
    def __init__(self, common: Shared, ending: Ending) -> None:
        self._common = common
        self._ending = ending
        self._changed = common.system.condition()
        self._dormant: dict[str, StageRuntime] = {}
        """By topic."""

    def choose(self, admin: AdminPort) -> None:
        """Before the start: chooses the stages that need not join yet. Blocks."""
        for runtime in self._common.runtimes:
            try:
                if interval(self._common.policy, runtime.engine.stage) is not None:
                    runtime.dormant = _has_no_records(admin, runtime)
            except BrokerError:
                pass  # its consumer tries again, or says what is missing
        self._dormant = {str(runtime): runtime for runtime in self._common.runtimes if runtime.dormant}

    def start(self, admin: AdminPort) -> None:
        """Looks for records of these stages, in a thread of its own."""
        if self._dormant:
            self._ending.spawn(f"flux-late-{self._common.runtimes[0]}", lambda: self._look(admin))

    def needed_locked(self, forwards: Iterable[Forward]) -> None:
        """These were written: their stages join at once, as they may be due soon."""
        if self._dormant:
            for topic in {forward.forwarded_copy.target.topic for forward in forwards} & self._dormant.keys():
                self._join_locked(self._dormant[topic])

    def stop(self) -> None:
        """The task ends: nothing joins any more."""
        with self._common.lock:
            dormant, self._dormant = list(self._dormant.values()), {}
            for runtime in dormant:
                runtime.dormant, runtime.left = False, True
        for runtime in dormant:
            self._ending.has_left(runtime)
        with self._changed:
            self._changed.notify_all()

    def _join_locked(self, runtime: StageRuntime) -> None:
        runtime.dormant = False
        del self._dormant[str(runtime)]
        runtime.began_at = runtime.stepped_at = runtime.received_at = self._common.system.monotonic()
        self._common.driver.join_locked(runtime)

    def _look(self, admin: AdminPort) -> None:
        clock = self._common.system.monotonic
        intervals = {each: interval(self._common.policy, each.engine.stage) or 0.0 for each in self._common.runtimes}
        next_at = {runtime: clock() + seconds for runtime, seconds in intervals.items()}
        while True:
            dormant = [runtime for runtime in self._common.runtimes if runtime.dormant]
            if not dormant:
                return
            with self._changed:
                pause = min(next_at[runtime] for runtime in dormant) - clock()
                if pause > 0 and any(runtime.dormant for runtime in dormant):
                    self._changed.wait(pause)
            for runtime in dormant:
                if runtime.dormant and clock() >= next_at[runtime]:
                    next_at[runtime] = clock() + intervals[runtime]
                    self._look_at(admin, runtime)

    def _look_at(self, admin: AdminPort, runtime: StageRuntime) -> None:
        try:
            if _has_no_records(admin, runtime):
                return
        except BrokerError as error:
            if error.retriable:
                return
        with self._common.lock:
            if runtime.dormant:
                self._join_locked(runtime)


def _has_no_records(admin: AdminPort, runtime: StageRuntime) -> bool:
    return is_empty(admin.watermarks(runtime.engine.stage.topic, REQUEST_TIMEOUT))
