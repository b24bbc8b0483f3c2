"""What each record is to go through, as a function of its number: so the books can be checked without the worker."""

from __future__ import annotations

from typing import Literal

RETRIES = 2
DEAD = RETRIES + 1
WAITS = (0.5, 1.0)
"""Seconds before the stages 1 and 2."""
AGAIN = 0.3
"""Seconds that a call of the step "again" asks for instead."""
KEYS = 400

Step = Literal["done", "fail", "reject", "again"]
Headers = list[tuple[str, str | bytes | None]]


def way(number: int) -> tuple[Step, ...]:
    """What the call in each stage does, one after the other."""
    if number % 200 == 3:
        return ("fail", "fail", "fail")
    if number % 200 == 4:
        return ("reject",)
    if number % 200 == 6:
        return ("fail", "reject")
    if number % 200 == 8:
        return ("again", "done")
    if number % 50 == 2:
        return ("fail", "fail", "done")
    if number % 20 == 1:
        return ("fail", "done")
    return ("done",)


def step(number: int, stage: int) -> Step:
    """A record comes to a stage beyond its way when what a call has produced was not delivered: it is tried again."""
    steps = way(number)
    return steps[min(stage, len(steps) - 1)]


def next_stage(number: int, stage: int) -> int | None:
    """Where a call sends the record; None: nowhere, it is done."""
    match step(number, stage):
        case "done":
            return None
        case "reject":
            return DEAD
        case _:
            return stage + 1


def after(number: int, stage: int) -> float:
    """Seconds that the record waits in its next stage, should it go to one."""
    if step(number, stage) == "again":
        return AGAIN
    return WAITS[stage] if stage < RETRIES else 0.0


def dies(number: int) -> bool:
    """Whether it ends as a dead letter."""
    return way(number)[-1] != "done"


def echoes(number: int) -> bool:
    """Whether its last call produces a record of its own."""
    return number % 7 == 0 and not dies(number)


def outputs(number: int, stage: int) -> bool:
    return echoes(number) and step(number, stage) == "done"


def seconds(number: int) -> float:
    """How long each of its calls takes."""
    chance = number * 2654435761 % 1000
    return 0.0 if chance < 850 else 0.003 if chance < 990 else 0.05


def key(number: int) -> bytes | None:
    return None if number % 13 == 5 else b"k%d" % (number * 7919 % KEYS)


def value(number: int) -> bytes:
    return b"%d %s" % (number, b"x" * (number % 90))


def number_of(value: bytes | None) -> int:
    assert value is not None
    return int(value.split()[0])


def headers(number: int) -> Headers:
    if number % 3:
        return []
    return [("number", b"%d" % number), ("twice", b"1"), ("none", None), ("twice", b"2"), ("empty", b"")]
