"""The benchmarks run, and their tables have figures. How fast anything is belongs to no test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from brokers import KafkaNode

_ROOT = Path(__file__).parents[2]
_CASES = {"consume": "flux, defaults", "produce": "flux, produce", "help": "flux --help"}


def test_a_short_benchmark_fills_tables_and_plot(broker: KafkaNode, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--rounds", "1", "--scale", "0.002", "--bootstrap", broker.bootstrap]
    command += ["--cases", ",".join(_CASES), "--contestants", "^flux, (defaults|produce)$|^raw.*tuned$|help"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], cwd=_ROOT, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "performance.md").read_text()
    for case, contestant in _CASES.items():
        table = page.partition(f"<!-- {case} -->")[2].partition(f"<!-- /{case} -->")[0]
        [row] = [line for line in table.splitlines() if line.startswith(f"| {contestant} |")]
        figures = [cell.strip().replace(",", "") for cell in row.strip("|").split("|")[1:]]
        assert figures
        assert all(float(figure) > 0 for figure in figures if figure), row
    assert "flux, defaults" in (tmp_path / "performance.svg").read_text()
