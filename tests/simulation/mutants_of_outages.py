"""Ways to break what holds calls back or surrounds them: outages, rates, names, time limits, middleware."""

from __future__ import annotations

from typing import Any

import flux.consuming.handlers as job
from flux.consuming import call_chain as pipeline
from flux.core.engine import Engine
from flux.core.engine.dispatch import Dispatch
from flux.core.engine.held_back import HeldByName
from flux.core.engine.verdicts import NEXT, Move, Rules
from flux.core.limits import rate_limit
from flux.core.limits.breakers import BreakersByName
from flux.core.limits.call_limits import CallLimits
from flux.core.limits.circuit_breaker import CircuitBreaker
from flux.core.limits.concurrency import ConcurrencyByName
from flux.core.limits.rate_limit import UNBOUNDED, RateLimit
from flux.core.message import Message
from simulation.features import NAMES
from simulation.mutants import Mutation, mutant

# ---- pauses


@mutant(features=("pauses",))
def a_pause_moves_its_record() -> Mutation:
    verdict = Rules.verdict

    def blaming(self: Rules, error: BaseException) -> Any:
        found = verdict(self, error)
        return NEXT if found.move is Move.PAUSE else found

    return Rules, "verdict", blaming


@mutant(features=("pauses",))
def a_pause_loses_the_record_that_found_it() -> Mutation:
    def hold_back(self: Dispatch, run: Any, index: int, message: Any) -> None:
        entry = self.part(run, index, message)
        if entry.assignment.offset_tracker is not None:
            entry.assignment.offset_tracker.done(entry.offset, entry.end)

    return Dispatch, "hold_back", hold_back


@mutant(features=("pauses",))
def a_pause_counts_an_attempt() -> Mutation:
    hold_back = Dispatch.hold_back

    def counting(self: Dispatch, run: Any, index: int, message: Message) -> None:
        message.place(message.again(0).flux_headers)
        hold_back(self, run, index, message)

    return Dispatch, "hold_back", counting


@mutant(features=("pauses",))
def a_pause_holds_nothing_back() -> Mutation:
    return CircuitBreaker, "most", lambda self, now: UNBOUNDED


@mutant(features=("pauses",))
def many_records_probe() -> Mutation:
    def most(self: CircuitBreaker, now: float) -> int:
        return 0 if self.since is not None and self._left(now) > 0 else UNBOUNDED

    return CircuitBreaker, "most", most


@mutant(features=("pauses",))
def pauses_do_not_grow() -> Mutation:
    pause = CircuitBreaker.pause

    def steady(self: CircuitBreaker, *arguments: Any) -> bool:
        self._pause = 0.5
        return pause(self, *arguments)

    return CircuitBreaker, "pause", steady


@mutant(features=("pauses",))
def a_pause_never_ends() -> Mutation:
    return CircuitBreaker, "ended", lambda self, run, called: False


@mutant(features=("pauses", "expiry"))
def a_record_that_was_not_called_ends_a_pause() -> Mutation:
    ended = CircuitBreaker.ended
    return CircuitBreaker, "ended", lambda self, run, called: ended(self, run, True)


@mutant(features=("pauses",))
def each_stage_has_limits_of_its_own() -> Mutation:
    init = Engine.__init__

    def alone(self: Engine, policy: Any, stage: Any, topic_limits: Any = None, shared: Any = None) -> None:
        init(self, policy, stage, topic_limits, CallLimits(policy.rate_limit))

    return Engine, "__init__", alone


@mutant("stop", features=("pauses",))
def a_stop_waits_for_the_end_of_a_pause() -> Mutation:
    quiet = Engine.quiet
    return Engine, "quiet", property(lambda self: quiet.fget(self) and not self.call_limits.breaker.paused)  # type: ignore[attr-defined]


# ---- rate


@mutant(features=("rate",))
def calls_have_no_rate() -> Mutation:
    return RateLimit, "most", lambda self, now: UNBOUNDED


@mutant(features=("rate",))
def a_rate_allows_bursts() -> Mutation:
    return rate_limit, "_LATENESS", 2.0


@mutant(features=("rate",))
def each_record_of_a_run_is_free_but_the_first() -> Mutation:
    started = RateLimit.started
    return RateLimit, "started", lambda self, calls, now: started(self, 0, now)


# ---- names


@mutant(features=(NAMES,))
def a_name_has_as_many_calls_as_it_likes() -> Mutation:
    return ConcurrencyByName, "opens_at", lambda self, name, now: now


@mutant(features=(NAMES,))
def a_call_that_has_ended_goes_on_counting_for_its_name() -> Mutation:
    return HeldByName, "ended", lambda self, entry, called=True: None


@mutant(features=(NAMES,))
def calls_for_a_name_go_on_through_its_outage() -> Mutation:
    return BreakersByName, "opens_at", lambda self, name, now: now


@mutant(features=(NAMES,))
def an_outage_of_one_name_is_one_of_all() -> Mutation:
    return HeldByName, "names", lambda self, entry: ["all"] * len(self._limits)


@mutant(features=(NAMES,))
def what_a_name_holds_back_is_forgotten() -> Mutation:
    return HeldByName, "_wait", lambda self, key, entry, first, opens_at: None


@mutant(features=(NAMES,))
def a_probe_of_a_name_that_fails_lets_the_rest_go_on() -> Mutation:
    pause = BreakersByName.pause

    def forgiving(self: Any, name: str, call: object, *given: Any) -> Any:
        if name in self.paused and self.paused[name].is_probe(call):
            self.ended(name, call, True)
            return None
        return pause(self, name, call, *given)

    return BreakersByName, "pause", forgiving


# ---- time limit, middleware


@mutant(features=("timeouts",))
def a_call_may_take_any_time() -> Mutation:
    return job, "limited", lambda handler, timeout: handler


@mutant(features=("middleware",))
def middleware_is_called_from_the_inside_out() -> Mutation:
    surrounded = pipeline.surrounded
    return job, "surrounded", lambda handler, middleware: surrounded(handler, list(reversed(middleware)))
