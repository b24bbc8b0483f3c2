"""Runs measurements, each in a fresh process, interleaved over rounds; a process that hangs is given up."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import attrs

from benchmarks.case import FIGURES, TOPICS, Case, Contestant
from benchmarks.cluster import Cluster, scaled
from benchmarks.measure import MARK

ROOT = Path(__file__).parent.parent
_ODD = 0.15  # of the seconds at least, however small the scale

_COMPILING = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""Else each process would compile what it imports, as no user's does."""

Results = dict[str, dict[str, list[dict[str, float]]]]
"""case -> contestant -> one set of figures per round."""


@attrs.define
class Runner:
    cluster: Cluster
    pythons: Sequence[str]
    """Interpreters, the first one that has what a contestant needs is taken."""
    scale: float
    say: Callable[[str], object]
    left_out: dict[str, str] = attrs.field(factory=dict)
    """What is not measured, and why."""
    _found: dict[str, str | None] = attrs.field(factory=dict)

    def run(self, cases: Iterable[Case], rounds: int, chosen: Callable[[Contestant], bool]) -> Results:
        work = [
            (case, each)
            for _ in range(rounds)
            for case in cases
            for each in case.contestants
            if chosen(each) and self._python(each)
        ]
        results: Results = {}
        for done, (case, each) in enumerate(work, 1):
            began = time.monotonic()
            figures = self._measure(case, each)
            if figures is not None:
                results.setdefault(case.name, {}).setdefault(each.name, []).append(figures)
                told = ", ".join(f"{figures[name]:,.5g} {FIGURES[name]}" for name in case.figures)
            else:
                told = self.left_out[f"{case.name}: {each.name}"]
            self.say(f"[{done}/{len(work)}] {case.name}: {each.name}: {told} ({time.monotonic() - began:.1f} s)")
        return results

    def _python(self, contestant: Contestant) -> str | None:
        needs = contestant.needs
        if needs not in self._found:
            self._found[needs] = next((each for each in self.pythons if _has(each, needs)), None)
            if self._found[needs] is None:
                self.left_out[needs] = "not installed here"
                self.say(f"{needs} is not installed here: left out")
        return self._found[needs]

    def _measure(self, case: Case, contestant: Contestant) -> dict[str, float] | None:
        name = contestant.topic or case.topic
        spec = TOPICS[name]
        if spec.records:
            topic = self.cluster.filled(name, spec.partitions, spec.records)
        else:
            topic = self.cluster.new(spec.partitions)
        python = self._python(contestant)
        assert python is not None
        with tempfile.TemporaryDirectory(prefix="flux-bench-") as directory:
            given = {
                "bootstrap": self.cluster.bootstrap,
                "topic": topic,
                "group": f"bench-{secrets.token_hex(4)}",
                "count": scaled(contestant.count or case.count, self.scale),
                "seconds": case.seconds * max(min(self.scale, 1.0), _ODD),
                "born": 0.0,
                "options": {**contestant.options, **_shorter(contestant.options, self.scale)},
                "directory": directory,
            }
            if "every" in contestant.options:  # paced by a clock: a thousand records take 5 s
                given["count"] = max(int(case.count * min(self.scale, 1.0)), 100)
            figures, failure = _child([python, "-m", "benchmarks.child", contestant.does], given, case.limit)
        self.cluster.clear()
        if figures is None:
            self.left_out[f"{case.name}: {contestant.name}"] = failure
        return figures


def _shorter(options: dict[str, float], scale: float) -> dict[str, float]:
    return {"over": max(options["over"] * min(scale, 1.0), 1.0)} if "over" in options else {}


def _has(python: str, module: str) -> bool:
    command = [python, "-c", f"import importlib.util as u, sys; sys.exit(u.find_spec({module!r}) is None)"]
    return Path(python).exists() and subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def _child(command: list[str], given: dict[str, object], limit: float) -> tuple[dict[str, float] | None, str]:
    given["born"] = time.time()
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [*command, json.dumps(given)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=errors,
            start_new_session=True,
            env=_COMPILING,
        )
        try:
            process.wait(limit)
            late = False
        except subprocess.TimeoutExpired:
            late = True
        finally:
            _end(process)
        said.seek(0)
        for line in said.read().decode(errors="replace").splitlines():
            if line.startswith(MARK):
                return json.loads(line.removeprefix(MARK)), ""
        errors.seek(0)
        tail = errors.read().decode(errors="replace").strip()[-300:]
        return None, f"no end after {limit:.0f} s: {tail}" if late else f"failed: {tail}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """It and what it has started: they are a session of their own."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
