"""Faults on a real cluster of three brokers: whatever dies, stalls or comes back, each record is accounted for.

`pytest tests/chaos` runs a short form, `make chaos` all scenarios. docs/reliability.md has the figures.
"""
