"""One measurement, in a process of its own: `python -m benchmarks.child MODULE:FUNCTION JSON`."""

from __future__ import annotations

import importlib
import json
import logging
import sys

from benchmarks.measure import Job


def main() -> None:
    logging.basicConfig(level=logging.WARNING)
    module, _, function = sys.argv[1].partition(":")
    job = Job(json.loads(sys.argv[2]))
    figures = getattr(importlib.import_module(f"benchmarks.work.{module}"), function)(job)
    job.end(**figures)


if __name__ == "__main__":  # processes that a measurement starts import this
    main()
