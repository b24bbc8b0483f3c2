"""The stage `machine`: CI plays the first cases, a night plays all."""

from __future__ import annotations

import math
import time
from pathlib import Path

from brokers import running

from proof.machine.bench import Absent, Bench
from proof.machine.cases import CASES
from proof.stage import Cell, Outcome, Stage, Table

_FEW = 2


def _run(scale: float, directory: Path) -> Outcome:
    problems: list[str] = []
    rows: list[list[Cell]] = []
    absent: list[str] = []
    cases = CASES if scale >= 1 else CASES[: max(_FEW, math.ceil(len(CASES) * scale))]
    with running() as broker:
        for case in cases:
            own = directory / case.name.replace(" ", "-")
            own.mkdir()
            began = time.monotonic()
            try:
                found = case.run(Bench(broker.bootstrap, own, case.records))
            except Absent as reason:
                absent.append(f"{case.name} was left out: {reason}")
                continue
            except AssertionError as error:
                found = [str(error)]
            problems += [f"{case.name}: {each}" for each in found]
            rows.append([case.name, case.does, "; ".join(found) or "all done", round(time.monotonic() - began)])
    return Outcome(
        problems,
        {"cases": len(rows), "left out": len(absent)},
        [Table("Cases", ("case", "what happens", "result", "s"), rows)],
        absent,
    )


MACHINE = Stage("machine", "Worker processes on a hostile machine: every record is done, and nothing hangs.", _run)
