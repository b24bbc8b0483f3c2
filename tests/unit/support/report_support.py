"""A report with one call and one open record: what tests of reports share."""

from __future__ import annotations

import attrs

from flux.core.monitoring.report import Call, Open, Paused, Report, StageReport

NOW_MS = 1_700_000_000_000
CALL = Call(partition=3, offset=17, key="ada", attempt=1, seconds=12.5)
OPEN = Open(3, 9, None, 2, "orders-billing-dlq", "kept", 4, 60.0)
STAGE = StageReport(
    task="Billing",
    stage=0,
    topic="orders",
    group="billing",
    partitions="0-3",
    done=10,
    failed=1,
    retried=1,
    dead=0,
    done_rate=2.0,
    failed_rate=0.2,
    waiting=0,
    due_in=None,
    in_flight=1,
    calls=(CALL,),
    on_their_way=1,
    open=(OPEN,),
)
PAUSED = attrs.evolve(STAGE, calls=(), open=(), paused=Paused("ConnectionError", 90.0, 12.5))
REPORT = Report("host-1", 4711, None, "1.0", NOW_MS - 60_000, 5.0, 50_000_000, (STAGE,))
