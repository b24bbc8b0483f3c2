"""The stage `model`: sequences of steps, drawn and played by several processes at once, as each mostly waits."""

from __future__ import annotations

import json
import math
import secrets
import subprocess
import sys
from collections import Counter
from pathlib import Path

from brokers import running

from proof.model.freedoms import FREEDOMS
from proof.stage import Outcome, Stage, Table

SEQUENCES, LEAST = 2000, 50
_PROCESSES = 4
_PLAYER = [sys.executable, "-X", "faulthandler", "-m", "proof.model.run"]
_LIMIT = 60.0  # seconds a sequence, far above what one takes


def _run(scale: float, directory: Path) -> Outcome:
    count = math.ceil(max(LEAST, SEQUENCES * scale) / _PROCESSES)
    first = secrets.randbelow(2**31)
    problems: list[str] = []
    steps: Counter[str] = Counter()
    played = 0
    with running() as broker:
        children = []
        for number in range(_PROCESSES):
            log = (directory / f"{number}.log").open("wb")
            command = [*_PLAYER, broker.bootstrap, str(count), str(first + number)]
            children.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True))
        for number, child in enumerate(children):
            try:
                said, _ = child.communicate(timeout=_LIMIT * count)
                found = json.loads(said)
            except (subprocess.TimeoutExpired, ValueError) as error:
                child.kill()
                problems.append(f"process {number} (return code {child.wait()}): {error!r}; see {directory}")
                continue
            played += found["sequences"]
            steps.update(found["steps"])
            if found["problem"]:
                problems.append(found["problem"])
    return Outcome(
        problems,
        {"sequences": played, "steps": sum(steps.values()), "first seed": first},
        [
            Table("Steps", ("step", "times"), sorted(steps.items())),
            Table("What may differ", ("freedom", "reason"), list(FREEDOMS.items())),
        ],
    )


MODEL = Stage(
    "model",
    "The same steps on the in-memory broker and on a real Kafka, through both adapters: the ports return the same.",
    _run,
)
