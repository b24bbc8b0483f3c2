"""Checks of a task's schedules."""

from __future__ import annotations

from collections.abc import Iterator

from flux.operate.doctor.facts import Facts, Finding
from flux.operate.formatting import lasting

OVERDUE = 60.0
"""Seconds after which nobody takes a tick that is due: a worker of another version writes it again after so many."""


def overdue(facts: Facts) -> Iterator[Finding]:
    for each in facts.schedules:
        if each.next_tick is None or not each.when:
            continue
        late = facts.at - each.next_tick / 1000
        if late > OVERDUE:
            yield Finding(
                "schedules",
                f"schedule {each.name}",
                f"its tick has been due for {lasting(late)}, and no worker takes it",
                f"start workers of {facts.topics[1].name}, or see what they do with {facts.flux('status')}",
            )
