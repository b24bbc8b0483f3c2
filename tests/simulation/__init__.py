"""flux over a simulated cluster, clock and schedule: see docs/reliability.md.

`make simulate SEEDS=10000`, or `PYTHONPATH=tests python -m simulation SEED` for one run.
"""
