"""Everything that makes calls in this form."""

from flux.consuming.awaited.batch_steps import prepared_batch
from flux.consuming.awaited.executor import work, work_batch
from flux.consuming.awaited.hook_calls import noting, telling
from flux.consuming.awaited.meter import measured

__all__ = ["measured", "noting", "prepared_batch", "telling", "work", "work_batch"]
