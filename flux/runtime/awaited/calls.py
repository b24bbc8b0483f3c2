"""All that a job needs to have calls made in this form."""

from flux.runtime.awaited.batch_steps import prepared_batch
from flux.runtime.awaited.executor import work, work_batch
from flux.runtime.awaited.hook_calls import noting, telling
from flux.runtime.awaited.meter import measured

__all__ = ["measured", "noting", "prepared_batch", "telling", "work", "work_batch"]
