"""One stage of one task as a state machine: facts in, commands out. No I/O, no threads, no clock.

`Engine` is the façade. It passes facts to three parts and gets the next turn from them: `partitions` (assignments, what
is done and may be committed), `dispatch` (which records may run now, and runs; it takes them from `queued_work`) and
`retries` (what happens to failed records). `common` is what they share. Where one part needs another, the façade gives
it a callable: dispatch reports failures, and retries cut runs.
"""

from flux.core.engine.common import BATCH
from flux.core.engine.deadlines import BUSY_REST, IDLE_REST, LEAST_REST, PAUSED_REST, REST
from flux.core.engine.facade import Engine

__all__ = ["BATCH", "BUSY_REST", "IDLE_REST", "LEAST_REST", "PAUSED_REST", "REST", "Engine"]
