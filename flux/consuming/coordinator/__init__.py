"""What the drivers of one task share: its engines behind one lock, and the facts that callers and clients report.

The lock is never held during an effect, a write or a call. Drivers differ in who polls and who calls, and in nothing
else: they take runs here, and report here how they end. A method that needs the lock has a name that ends with
`_locked`; no other expects it to be held.
"""

from flux.consuming.coordinator.coordinator import Coordinator
from flux.consuming.coordinator.procedures import Done
from flux.consuming.coordinator.stage_runtime import StageRuntime

__all__ = ["Coordinator", "Done", "StageRuntime"]
