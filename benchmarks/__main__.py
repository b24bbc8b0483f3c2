"""`python -m benchmarks`: see `make bench`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.cases import CASES
from benchmarks.cluster import Cluster, broker
from benchmarks.plot import svg
from benchmarks.report import table, written
from benchmarks.runner import ROOT, Results, Runner

_PAGE, _PLOT = ROOT / "docs" / "performance.md", ROOT / "docs" / "performance.svg"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measures flux and its peers.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="of the sizes; other than 1 is not published")
    parser.add_argument(
        "--cases",
        default="",
        help="comma-separated; a name stands for NAME-… too; all of: " + ",".join(case.name for case in CASES),
    )
    parser.add_argument("--contestants", default="", help="a regular expression")
    parser.add_argument("--bootstrap", help="a broker; by default one is started")
    parser.add_argument("--python", action="append", default=[], help="a further environment with peers")
    parser.add_argument("--out", type=Path, help="a folder for the page, the plot and the figures, instead of docs/")
    given = parser.parse_args()
    names = [name for name in given.cases.split(",") if name]
    unknown = {name for name in names if not any(_named(case.name, name) for case in CASES)}
    if unknown:
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    cases = [case for case in CASES if not names or any(_named(case.name, name) for name in names)]
    wanted = re.compile(given.contestants)

    began = time.monotonic()
    with broker(given.bootstrap) as bootstrap:
        cluster = Cluster(bootstrap, given.scale)
        runner = Runner(cluster, [sys.executable, *given.python], given.scale, lambda line: print(line, flush=True))
        try:
            results = runner.run(cases, given.rounds, lambda each: bool(wanted.search(each.name)))
        finally:
            cluster.clear(keep=False)
    for case in cases:
        print(f"\n{case.title}\n\n{table(case, results)}")
    print(f"\n{time.monotonic() - began:.0f} s")

    out = given.out or (None if given.scale == 1 else ROOT / ".bench" / "scaled")
    about = _about(given.rounds, given.scale)
    _publish(out, results, about, runner.left_out)
    missing = [f"{case.name}: no figures" for case in cases if not results.get(case.name)]
    if missing:
        sys.exit("; ".join(missing))


def _named(case: str, name: str) -> bool:
    """`exactly-once` stands for all that begin with it."""
    return case == name or case.startswith(f"{name}-")


def _publish(out: Path | None, results: Results, about: str, left_out: dict[str, str]) -> None:
    """Figures of other cases stay: a run may be of some."""
    kept = (out or ROOT / ".bench") / "results.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    known: Results = json.loads(kept.read_text()) if kept.exists() else {}
    merged = {**known, **results}
    kept.write_text(json.dumps(merged, indent=1))
    page = _PAGE if out is None else out / _PAGE.name
    plot = _PLOT if out is None else out / _PLOT.name
    page.write_text(written(_PAGE.read_text(), merged, about, left_out))
    plot.write_text(svg(merged))
    print(f"written: {page}, {plot}")


def _about(rounds: int, scale: float) -> str:
    clients = ", ".join(f"{name} {_version(name)}" for name in ("confluent-kafka", "aiokafka"))
    lines = [
        f"- {time.strftime('%Y-%m-%d')}, {rounds} rounds" + ("" if scale == 1 else f", at {scale:g} of the size"),
        f"- {os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}",
        f"- {clients}; one broker of Apache Kafka on the same machine",
    ]
    return "\n".join(lines)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


main()
