# Generated from flux/runtime/awaited/calls.py by `make generate`: change that, not this.
"""All that a job needs to have calls made in this form."""

from flux.runtime.blocking.batch_steps import prepared_batch
from flux.runtime.blocking.executor import work, work_batch
from flux.runtime.blocking.hook_calls import noting, telling
from flux.runtime.blocking.meter import measured

__all__ = ["measured", "noting", "prepared_batch", "telling", "work", "work_batch"]
