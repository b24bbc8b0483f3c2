# Generated from flux/consuming/awaited/calls.py by `make generate`: change that, not this.
"""Everything that makes calls in this form."""

from flux.consuming.blocking.batch_steps import prepared_batch
from flux.consuming.blocking.executor import work, work_batch
from flux.consuming.blocking.hook_calls import noting, telling
from flux.consuming.blocking.meter import measured

__all__ = ["measured", "noting", "prepared_batch", "telling", "work", "work_batch"]
