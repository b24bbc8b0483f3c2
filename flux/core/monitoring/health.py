"""What a probe is told: whether the process is to be left alone, and whether it works."""

from __future__ import annotations

from collections.abc import Sequence

import attrs


@attrs.frozen
class Pulse:
    """One stage, as it is now. Times in seconds."""

    name: str
    joined: bool
    """Whether the group has given it partitions, or told that there are none for it."""
    left: bool
    still: float
    """Since its poll loop last went on."""
    patience: float
    """After which a poll loop that does not go on is stuck; 0: never."""

    @property
    def stuck(self) -> bool:
        return not self.left and 0 < self.patience <= self.still


@attrs.frozen
class Health:
    """`troubles`: what is stuck. `missing`: what else keeps it from being ready."""

    troubles: Sequence[str] = ()
    missing: Sequence[str] = ()

    @property
    def live(self) -> bool:
        return not self.troubles

    @property
    def ready(self) -> bool:
        return not self.troubles and not self.missing


def judge(pulses: Sequence[Pulse], starting: bool, stopping: bool) -> Health:
    """`starting`: not every task has begun to work. A process that waits for its cluster is live: a restart would not
    bring that back."""
    troubles = [f"{each.name}: its poll loop has stood still for {each.still:.0f} s" for each in pulses if each.stuck]
    missing = ["stopping"] if stopping else ["starting"] if starting else []
    for each in pulses:
        if each.left and not stopping:
            missing.append(f"{each.name} has left its group")
        elif not each.joined and not each.left:
            missing.append(f"{each.name} waits for an assignment")
    return Health(troubles, missing)
