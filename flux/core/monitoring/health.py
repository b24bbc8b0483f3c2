"""What liveness and readiness probes report."""

from __future__ import annotations

from collections.abc import Sequence

import attrs


@attrs.frozen
class Pulse:
    """The state of one stage. Times in seconds."""

    name: str
    joined: bool
    """Whether its first rebalance is complete, with or without partitions."""
    left: bool
    waited: float
    """Time since its start, for its first assignment."""
    still: float
    """Time since its poll loop last progressed."""
    patience: float
    """A poll loop without progress for as long is stuck; 0: never."""

    @property
    def stuck(self) -> bool:
        return not self.left and 0 < self.patience <= self.still


@attrs.frozen
class Health:
    """`troubles`: what is stuck, or has failed. `missing`: what else prevents readiness."""

    troubles: Sequence[str] = ()
    missing: Sequence[str] = ()

    @property
    def live(self) -> bool:
        return not self.troubles

    @property
    def ready(self) -> bool:
        return not self.troubles and not self.missing


def judge(pulses: Sequence[Pulse], starting: str | None, stopping: bool, failure: str | None = None) -> Health:
    """`starting`: what the start waits for; None: every task has started. `failure`: why the worker has ended, if it
    was not stopped. Waiting for a cluster is live too: a restart would not help."""
    stuck = [each for each in pulses if each.stuck]
    troubles = [f"{each.name}: its poll loop has made no progress for {each.still:.0f} s" for each in stuck]
    if failure is not None:
        troubles.append(f"the worker has failed: {failure}")
    missing = ["stopping"] if stopping else [f"starting: {starting}"] if starting is not None else []
    for each in pulses:
        if each.left and not stopping:
            missing.append(f"{each.name} has left its group")
        elif not each.joined and not each.left and starting is None:
            missing.append(f"{each.name} has waited for an assignment by its group for {each.waited:.0f} s")
    return Health(troubles, missing)
