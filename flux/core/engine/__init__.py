"""One stage of one task as a state machine: facts in, commands out. No I/O, no threads, no clock.

`Engine` is the façade. It routes facts to three parts and asks them for the next turn: `partitions` (what is assigned,
what is done of it and may be committed), `dispatch` (what may run now, and runs; it takes from `work`, which nobody has
begun) and `retries` (what becomes of failures). `common` is what they share. Where one needs another's deed, the façade
gives it a callable: dispatch tells of failures, and retries have runs cut.
"""

from flux.core.engine.common import BATCH
from flux.core.engine.deadlines import BUSY_REST, LEAST_REST, PAUSED_REST, REST
from flux.core.engine.facade import Engine

__all__ = ["BATCH", "BUSY_REST", "LEAST_REST", "PAUSED_REST", "REST", "Engine"]
