"""What can be left out of a scenario: a failing one is made shorter by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from simulation.features import WITHOUT
from simulation.scenario import Scenario

SIMPLER: dict[str, Callable[[Scenario], Scenario]] = {
    **WITHOUT,
    "threads": lambda s: attrs.evolve(s, tasks=tuple(attrs.evolve(t, mode="threads") for t in s.tasks)),
    "latency": lambda s: attrs.evolve(s, latency=0.0),
    "duplicates": lambda s: attrs.evolve(s, duplicates=0.0),
    "slow-commits": lambda s: attrs.evolve(s, slow_commits=0.0),
    "limits": lambda s: attrs.evolve(s, constants={}),
    "skew": lambda s: attrs.evolve(s, workers=tuple(attrs.evolve(w, skew=0.0) for w in s.workers)),
    "late-workers": lambda s: attrs.evolve(s, workers=tuple(attrs.evolve(w, at=0.0) for w in s.workers)),
    "lengths": lambda s: _outcomes(s, length=0.0),
    "products": lambda s: _outcomes(s, products=0),
    "failures": lambda s: _outcomes(s, kind="done", after=None),
    "process-failures": lambda s: _outcomes(s, crash=False),
    "headers": lambda s: attrs.evolve(
        s, records=tuple(attrs.evolve(record, headers=(), padding=0) for record in s.records)
    ),
}
"""What a run can do without, by name: tried when a failing one is made shorter."""


def _outcomes(scenario: Scenario, **changes: Any) -> Scenario:
    return attrs.evolve(
        scenario,
        records=tuple(
            attrs.evolve(record, outcomes=tuple(attrs.evolve(outcome, **changes) for outcome in record.outcomes))
            for record in scenario.records
        ),
    )


@attrs.frozen
class Cut:
    """What of a scenario is left out. None: nothing."""

    events: tuple[int, ...] | None = None
    records: tuple[int, ...] | None = None
    workers: int | None = None
    without: tuple[str, ...] = ()

    def of(self, scenario: Scenario) -> Scenario:
        if self.events is not None:
            kept = tuple(event for number, event in enumerate(scenario.events) if number in self.events)
            scenario = attrs.evolve(scenario, events=kept)
        if self.records is not None:
            scenario = attrs.evolve(
                scenario, records=tuple(record for record in scenario.records if record.number in self.records)
            )
        if self.workers is not None:
            scenario = attrs.evolve(scenario, workers=scenario.workers[: self.workers])
        for name in self.without:
            scenario = SIMPLER[name](scenario)
        return scenario

    def arguments(self) -> str:
        words = []
        if self.events is not None:
            words.append(f"--events {','.join(map(str, self.events)) or '-'}")
        if self.records is not None:
            words.append(f"--records {','.join(map(str, self.records)) or '-'}")
        if self.workers is not None:
            words.append(f"--workers {self.workers}")
        if self.without:
            words.append(f"--without {','.join(self.without)}")
        return " ".join(words)
