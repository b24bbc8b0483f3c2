"""Checks of what every adapter must do, against a real cluster, for authors of adapters. They need no test framework.

    from flux.testing.contract import Bench, CHECKS, check_adapter

    check_adapter(MyAdapter("host:9092"))                     # all of them, one by one

    @pytest.mark.parametrize("name", CHECKS)                  # or each as a test
    def test_contract(name):
        with Bench(MyAdapter("host:9092")) as bench:
            CHECKS[name](bench)

An adapter with `async_consumer` has the same checks: its consumers run in one event loop.
"""

from __future__ import annotations

from typing import Any

from flux.testing.contract import (
    absent,
    admin,
    committed_offsets,
    groups,
    producing,
    reading,
    records,
    transactional_offsets,
    transactional_producers,
    transactions,
)
from flux.testing.contract.bench import Bench, Check, Contract

__all__ = ["CHECKS", "Bench", "Check", "Contract", "check_adapter"]

_PARTS = (
    records,
    committed_offsets,
    groups,
    producing,
    admin,
    reading,
    absent,
    transactions,
    transactional_offsets,
    transactional_producers,
)

CHECKS: dict[str, Check] = {name: check for part in _PARTS for name, check in part.CONTRACT.items()}
"""Every check by its name, which says what must hold. A check raises AssertionError."""


def check_adapter(adapter: Any, **options: Any) -> None:
    """Runs all of `CHECKS`, each on its own topics and groups; `options` are `Bench`'s. Raises AssertionError that
    names each failed check, after all have run. Takes about a minute on a local broker."""
    failures: list[tuple[str, Exception]] = []
    for name, check in CHECKS.items():
        try:
            with Bench(adapter, **options) as bench:
                check(bench)
        except Exception as error:
            failures.append((name, error))
    if failures:
        lines = "\n".join(f"  {name}: {type(error).__name__}: {error}" for name, error in failures)
        raise AssertionError(f"{len(failures)} of {len(CHECKS)} checks failed:\n{lines}") from failures[0][1]
