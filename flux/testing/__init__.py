"""Tools for tests of tasks and producers, and contract checks for adapters.

with flux.testing.kit() as kit: ...     # or the pytest fixture `flux_kit`: see docs/how-to/testing.md
"""

from flux.testing.clock import Clock
from flux.testing.kit import Kit, kit
from flux.testing.machine import Stuck
from flux.testing.records import Records, StoredRecord
from flux.testing.waiting import WaitingRecord
from flux.testing.working import HandlerFailure, ProcessVanished, Summary

__all__ = [
    "Clock",
    "HandlerFailure",
    "Kit",
    "ProcessVanished",
    "Records",
    "StoredRecord",
    "Stuck",
    "Summary",
    "WaitingRecord",
    "kit",
]
