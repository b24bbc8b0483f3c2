"""What tests of flux, of tasks and of adapters are made of.

with flux.testing.kit() as kit: ...     # or the pytest fixture `flux_kit`: see docs/how-to/testing.md
"""

from flux.testing.kit import Clock, Kit, Waiting, kit
from flux.testing.machine import Stuck
from flux.testing.records import Record, Records
from flux.testing.working import Failure, Summary

__all__ = ["Clock", "Failure", "Kit", "Record", "Records", "Stuck", "Summary", "Waiting", "kit"]
