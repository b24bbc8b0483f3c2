"""What all pieces add up to: a JSON file that each piece extends. Pure but for the file."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import attrs

REBALANCES = 10_000
RECORDS = 200_000_000


@attrs.frozen
class Piece:
    """One run of the stage. `problems`: how many it found."""

    date: str
    seconds: float
    rebalances: int
    records: int
    problems: int = 0


@attrs.frozen
class Totals:
    """Of the pieces without a problem."""

    pieces: int
    failed: int
    seconds: float
    rebalances: int
    records: int

    @property
    def complete(self) -> bool:
        return self.rebalances >= REBALANCES and self.records >= RECORDS

    @property
    def needed(self) -> int | None:
        """How many more pieces as those before reach the goal; None: no piece has passed yet."""
        if not (self.pieces and self.rebalances and self.records):
            return None
        left = max((REBALANCES - self.rebalances) / self.rebalances, (RECORDS - self.records) / self.records, 0.0)
        return math.ceil(left * self.pieces)


def extend(file: Path, piece: Piece) -> Totals:
    """Adds a piece to the file, and returns the new totals."""
    pieces = [*read(file), piece]
    file.parent.mkdir(parents=True, exist_ok=True)
    half = file.with_suffix(".half")
    half.write_text(json.dumps([attrs.asdict(each) for each in pieces], indent=1))
    half.replace(file)
    return total(pieces)


def read(file: Path) -> list[Piece]:
    return [Piece(**each) for each in json.loads(file.read_text())] if file.exists() else []


def total(pieces: Sequence[Piece]) -> Totals:
    sound = [piece for piece in pieces if not piece.problems]
    return Totals(
        len(sound),
        len(pieces) - len(sound),
        sum(piece.seconds for piece in sound),
        sum(piece.rebalances for piece in sound),
        sum(piece.records for piece in sound),
    )
