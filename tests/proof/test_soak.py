"""The soak's judgement: a planted leak is found, noise is not; totals add up over pieces."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from proof.report import written
from proof.soak.drift import LEAST, drift, slope
from proof.soak.marks import Marks
from proof.soak.part import Found, Sample
from proof.soak.stage import judge
from proof.soak.totals import Piece, extend, total
from proof.stage import Curve, Outcome

SECONDS = 600
TESTS = Path(__file__).parents[1]


def samples(change: Callable[[Sample, random.Random], Sample], seed: int = 1, seconds: int = SECONDS) -> Found:
    """A sound worker beside rebalances: memory goes up and down, outages make latencies leap. `change` is the fault."""
    chance = random.Random(seed)
    found = Found("a part")
    memory = 90.0
    for second in range(seconds):
        memory += chance.gauss(0, 0.3) - (memory - 90) * 0.1
        outage = second % 60 < 4
        sound = Sample(
            at=float(second),
            memory=memory + 15 * (0.5 ** (second / 20)) * -1,  # it fills at first
            threads=20 + chance.choice([0, 0, 0, 1]),
            descriptors=40 + chance.choice([0, 0, 2]),
            lag=0,
            calls=second * 1000,
            failures=0,
            moves=second,
            p50=(3000.0 if outage else 8.0) * chance.uniform(0.7, 1.5),
            p99=(3500.0 if outage else 200.0) * chance.uniform(0.4, 2.5),
            guest_in_use=24 + chance.gauss(0, 0.1),
            guest_memory=80 + chance.gauss(0, 2),
            guest_threads=chance.randint(3, 30),
            guest_descriptors=chance.randint(10, 60),
        )
        found.samples.append(change(sound, chance))
    return found


@pytest.mark.parametrize("seed", range(20))
def test_noise_is_no_drift(seed: int) -> None:
    assert judge(samples(lambda sample, chance: sample, seed))[0] == []


LEAKS: dict[str, Callable[[Sample, random.Random], Sample]] = {
    "memory": lambda each, chance: attrs.evolve(each, memory=each.memory + each.at * 0.01),
    "threads": lambda each, chance: attrs.evolve(each, threads=each.threads + int(each.at / 120)),
    "descriptors": lambda each, chance: attrs.evolve(each, descriptors=each.descriptors + int(each.at / 60)),
    "median": lambda each, chance: attrs.evolve(each, p50=(each.p50 or 0) + each.at * 0.02),
    "99th": lambda each, chance: attrs.evolve(each, p99=(each.p99 or 0) * (1 + each.at / 150)),
    "leaves: memory in use": lambda each, chance: attrs.evolve(
        each, guest_in_use=24 + each.at * 0.001 + chance.gauss(0, 0.1)
    ),
}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("what", LEAKS)
def test_a_leak_is_found_and_named(what: str, seed: int) -> None:
    [problem] = judge(samples(LEAKS[what], seed))[0]
    assert what in problem
    assert "grows by" in problem


def test_a_step_that_stays_is_no_leak() -> None:
    """As when a cache fills, or an outage has made a buffer larger."""
    stepped = samples(lambda each, chance: attrs.evolve(each, memory=each.memory + (12 if each.at > 150 else 0)))
    assert judge(stepped)[0] == []


def test_free_memory_that_the_allocator_keeps_is_no_leak() -> None:
    kept = samples(lambda each, chance: attrs.evolve(each, guest_memory=60 + each.at * 0.02))
    assert judge(kept)[0] == []


def test_memory_in_use_grows_by_what_is_kept_and_not_by_garbage() -> None:
    """In a process of its own: beside other threads, and after other tests, more is made and freed meanwhile."""
    program = """
from proof.soak.memory import in_use
in_use()
before = in_use()
for _ in range(100):
    cycle = [bytes(100_000)]
    cycle.append(cycle)
del cycle
print(in_use() - before)
kept = bytes(5_000_000)
print(in_use() - before)
"""
    command = [sys.executable, "-c", program]
    printed = subprocess.run(command, cwd=TESTS, check=True, capture_output=True, text=True, timeout=60).stdout
    garbage, kept = map(float, printed.split())
    assert abs(garbage) < 1
    assert 4.5 < kept < 5.5


def test_too_much_is_a_problem_in_the_shortest_piece() -> None:
    [problem] = judge(samples(lambda each, chance: attrs.evolve(each, descriptors=301), seconds=15))[0]
    assert "301" in problem


@pytest.mark.parametrize(("seconds", "problems"), [(7, 0), (60, 2)])
def test_latencies_are_judged_once_the_worker_has_caught_up(seconds: int, problems: int) -> None:
    late = samples(lambda each, chance: attrs.evolve(each, p50=6000.0, p99=6000.0), seconds=seconds)
    assert len(judge(late)[0]) == problems


def test_a_short_piece_decides_no_slope_and_says_so() -> None:
    problems, rows = judge(samples(LEAKS["memory"], seconds=60))
    assert problems == []
    assert {row[-1] for row in rows} == {"too short"}
    assert drift([(float(at), float(at)) for at in range(LEAST - 1)], 0, 0) is None


def test_outliers_do_not_move_the_slope() -> None:
    points = [(float(at), 5.0 + 2.0 * at + (10_000 if at % 10 == 3 else 0)) for at in range(240)]
    found = slope(points)
    assert found.low <= found.middle <= found.high
    assert found.middle == pytest.approx(2.0, rel=0.01)


def test_totals_add_up_over_pieces_and_leave_out_those_with_problems(tmp_path: Path) -> None:
    file = tmp_path / "proof" / "soak.json"
    extend(file, Piece("2026-01-01", 1800, 1_000, 80_000_000))
    extend(file, Piece("2026-01-02", 1800, 500, 50_000_000, problems=1))
    totals = extend(file, Piece("2026-01-03", 1800, 1_000, 80_000_000))
    assert (totals.pieces, totals.failed, totals.rebalances, totals.records) == (2, 1, 2_000, 160_000_000)
    assert totals.needed == 8
    assert not totals.complete
    assert total([Piece("2026-01-04", 1, 10_000, 200_000_000)]).complete
    assert total([]).needed is None


def test_marks_are_shared_and_find_what_is_missing(tmp_path: Path) -> None:
    feeder = Marks(tmp_path / "marks", 10)
    worker = Marks(tmp_path / "marks")
    feeder.fed = 4
    worker.succeeded(0)
    worker.succeeded(2)
    worker.succeeded(2)
    worker.refused(3)
    assert (feeder.untouched(), feeder.missing(), feeder.repeated()) == (1, [1, 3], 1)
    worker.succeeded(3)
    assert feeder.missing() == [1]
    assert feeder.was_refused(3)


def test_the_report_draws_curves_and_reads_them_back(tmp_path: Path) -> None:
    curve = Curve("memory <of it>", "MB", [(0.0, 50.0), (10.0, 100.0)])
    written(tmp_path, {"soak": Outcome([], {}, curves=[curve])}, {}, 1)
    page = written(tmp_path, {}, {}, 1).read_text()
    assert '<polyline points="0.0,45.0 800.0,0.0"/>' in page
    assert "memory &lt;of it&gt;: 50 to 100 MB in 10 s" in page
