"""Ways to break `exactly_once`: what a transaction has in it, what its end means, and who may still commit one."""

from __future__ import annotations

from typing import Any

import attrs

from flux.consuming import procedures
from flux.consuming.coordinator.sealing import Part, Sealing
from flux.consuming.transaction_writer import TransactionWriter
from flux.core.engine import Engine, transactions
from flux.core.engine.forwarding import Forwards
from flux.core.engine.transactions import CallOutputs, Transactions
from flux.core.errors import BrokerError, Fault
from simulation.features import EXACTLY_ONCE
from simulation.mutants import Mutation, mutant

_EXACT = (EXACTLY_ONCE,)


@mutant(features=_EXACT)
def offsets_are_committed_outside_of_transactions() -> Mutation:
    turn = Engine.turn
    return Engine, "turn", lambda self, now: attrs.evolve(turn(self, now), commit=self.commit(now))


@mutant("kick", "freeze", features=_EXACT)
def what_lost_partitions_have_produced_is_written() -> Mutation:
    def all_of_it(self: Transactions) -> list[CallOutputs]:
        taken = list(self._outputs)
        self._outputs.clear()
        return taken

    return Transactions, "_take_outputs", all_of_it


@mutant("transactions", features=_EXACT)
def an_abort_is_taken_as_done() -> Mutation:
    return Sealing, "failed", lambda self, part, error, forwards=None, outputs=(): self.committed(part)


@mutant("transactions", features=_EXACT)
def what_is_in_doubt_is_taken_as_committed() -> Mutation:
    return TransactionWriter, "_find_out", lambda self, parts, step: self._drop()


@mutant("transactions", features=_EXACT)
def what_is_in_doubt_is_taken_as_aborted() -> Mutation:
    def find_out(self: TransactionWriter, parts: Any, step: Any) -> None:
        self._drop()
        raise BrokerError("in doubt", Fault.FENCED)

    return TransactionWriter, "_find_out", find_out


@mutant(features=_EXACT)
def offsets_leave_out_what_calls_produced() -> Mutation:
    return transactions, "_entries", lambda forwards, outputs: (forward.entry for forward in forwards)


@mutant(features=_EXACT)
def offsets_leave_out_what_moves() -> Mutation:
    return transactions, "_entries", lambda forwards, outputs: (entry for each in outputs for entry in each.entries)


class _Blind:
    """A task's part that does not look whether its partitions are gone."""

    def __init__(self, task: Sealing) -> None:
        self._task = task

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def has_lapsed(self, part: Part) -> bool:
        return False


@attrs.frozen
class _Late:
    """A part with the membership of whoever writes it, not that of the seal."""

    part: Part

    def __getattr__(self, name: str) -> Any:
        return getattr(self.part, name)

    @property
    def task(self) -> Any:
        return _Blind(self.part.task)

    @property
    def membership(self) -> Any:
        return self.part.runtime.membership() or self.part.membership


@mutant("kick in a transaction", "freeze in a transaction", features=_EXACT)
def a_former_owner_commits_by_its_present_membership() -> Mutation:
    parts = Sealing.parts
    return Sealing, "parts", lambda self: [_Late(part) for part in parts(self)]


@mutant("rejoin in a transaction", features=_EXACT)
def start_offsets_are_read_while_a_transaction_is_written() -> Mutation:
    return procedures, "await_transaction", lambda engine: iter(())


@mutant("transactions", features=_EXACT)
def what_was_not_committed_is_dropped() -> Mutation:
    def put_back(self: Transactions, sealed: Any, error: Any, now: float, *more: Any, **named: Any) -> None:
        self._sealed = None
        self._common.commits.ended(False, now)

    return Transactions, "put_back", put_back


@mutant("writes refused", features=_EXACT)
def a_refused_forward_waits_for_another_transaction() -> Mutation:
    return Forwards, "retries", lambda self, now: False
