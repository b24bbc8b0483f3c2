"""What the drivers of one task share: its engines behind one lock, and the facts that callers and clients report.

The lock is never held during an effect, a write or a call. Drivers differ only in who polls and who calls: they take
runs here and report their ends here. A method whose name ends with `_locked` needs the lock; no other does.
"""

from flux.consuming.coordinator.common import StageRuntime
from flux.consuming.coordinator.coordinator import Coordinator
from flux.consuming.coordinator.procedures import Done

__all__ = ["Coordinator", "Done", "StageRuntime"]
