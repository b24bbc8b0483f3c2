"""Every metric of flux, by Prometheus' conventions: base units, `_total` for counters. No label takes its values from
records except `error`, which is bounded."""

from __future__ import annotations

from typing import Literal

import attrs


@attrs.frozen
class Metric:
    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()

    @property
    def series(self) -> tuple[str, ...]:
        """Its names in queries."""
        if self.kind == "histogram":
            return tuple(self.name + suffix for suffix in ("_bucket", "_count", "_sum"))
        return (self.name,)


_STAGE = ("task", "stage")
_TOPIC = ("task", "stage", "topic")

CALLS = Metric(
    "flux_calls_total",
    "counter",
    (*_STAGE, "result"),
    "Ended calls, by result: done or failed; for a BatchTask, records.",
)
FAILURES = Metric(
    "flux_failures_total",
    "counter",
    (*_STAGE, "error"),
    "Failed calls, by the type of their error: the first 50 types of a stage, then other.",
)
DURATION = Metric(
    "flux_call_duration_seconds",
    "histogram",
    _STAGE,
    "Duration of calls, including deserialization; for a BatchTask, each with all of its records.",
    (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
BATCH = Metric(
    "flux_batch_records",
    "histogram",
    _STAGE,
    "Records per call of a BatchTask.",
    (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000),
)
LATENESS = Metric(
    "flux_lateness_seconds",
    "histogram",
    _STAGE,
    "Start of a call minus the due time of its record; for the main stage, minus the record's timestamp.",
    (0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 1800, 7200, 86400),
)
TRANSFERS = Metric(
    "flux_transfers_total", "counter", (*_STAGE, "target"), "Records forwarded to the next stage: retry or dlq."
)
DEAD = Metric(
    "flux_dead_letters_total",
    "counter",
    (*_STAGE, "reason"),
    "Records that became dead letters, by reason: exhausted, rejected, undecodable, tombstone, expired, crashed or"
    " skipped.",
)
LATE = Metric(
    "flux_late_records_total", "counter", _STAGE, "Records that were read a second or more after their due time."
)
REPLACED = Metric(
    "flux_replaced_records_total",
    "counter",
    _STAGE,
    "Delayed records that another one with their id replaced or cancelled before their call.",
)
COMMITS = Metric("flux_commits_total", "counter", (*_STAGE, "result"), "Commits of offsets: done or failed.")
REBALANCES = Metric(
    "flux_rebalances_total", "counter", (*_STAGE, "event"), "Rebalances: assigned, revoked or lost partitions."
)
LAG = Metric(
    "flux_lag_records", "gauge", _TOPIC, "Lag of the assigned partitions: offsets from the committed offset to the end."
)
DUE = Metric("flux_due_records", "gauge", _TOPIC, "The part of the lag that is due.")
WAITING = Metric("flux_waiting_records", "gauge", _STAGE, "Records in memory that are not due yet.")
IN_PLACE = Metric("flux_in_place_records", "gauge", _STAGE, "Records that wait for a retry in place: in_place_retries.")
PAUSED = Metric(
    "flux_paused",
    "gauge",
    ("task",),
    "1 while the task is paused: a dependency is unavailable, or somebody has paused a stage.",
)
PAUSES = Metric("flux_pauses_total", "counter", ("task",), "Pauses that were started.")
PAUSED_NAMES = Metric(
    "flux_paused_names", "gauge", ("task",), "Hosts or tenants whose calls alone are paused: pause_when by name."
)
LIMITED = Metric(
    "flux_limited_records", "gauge", _STAGE, "Records in memory that wait for a limit, or the end of a pause, by name."
)
PAUSED_SECONDS = Metric("flux_paused_seconds_total", "counter", ("task",), "Total time for which the task was paused.")
IN_FLIGHT = Metric("flux_calls_in_flight", "gauge", _STAGE, "Running calls.")
LIMIT = Metric("flux_concurrency_limit", "gauge", ("task",), "Calls that may run at once in this process.")
RATE_LIMIT = Metric(
    "flux_rate_limit",
    "gauge",
    ("task",),
    "Calls a second that may start in this process: rate_limit, or what flux set-rate has set.",
)
OPEN = Metric(
    "flux_open_transfers",
    "gauge",
    _STAGE,
    "Records being forwarded to the next stage, including those that it refuses.",
)
PARTITIONS = Metric("flux_assigned_partitions", "gauge", _TOPIC, "Partitions assigned to this process.")
CRASH_SUSPECTS = Metric(
    "flux_crash_suspects",
    "gauge",
    _STAGE,
    "Assigned partitions whose processes vanished, so that their records are called in windows or alone: max_crashes.",
)
POLL_AGE = Metric("flux_poll_age_seconds", "gauge", _STAGE, "Time since the last step of the stage's poll loop.")
BUFFERED = Metric(
    "flux_producer_buffered_records",
    "gauge",
    ("topic",),
    "Records in producers' buffers, not yet passed to the client.",
)
READY = Metric("flux_ready", "gauge", (), "1 when all stages have joined their groups and poll.")
LIVE = Metric("flux_live", "gauge", (), "1 unless a poll loop is stuck.")
BUILD = Metric("flux_build_info", "gauge", ("version",), "1.")
UP = Metric("flux_process_up", "gauge", ("process",), "With --processes: 1 if that process answers.")
OUTBOX_ROWS = Metric("flux_outbox_rows", "gauge", (), "Rows in the outbox; 100000 stands for that many or more.")
OUTBOX_OLDEST = Metric("flux_outbox_oldest_seconds", "gauge", (), "Age of the oldest row; 0 without rows.")
OUTBOX_REFUSED = Metric(
    "flux_outbox_refused_rows", "gauge", (), "Rows that Kafka has refused and that are still in the outbox."
)
OUTBOX_RELAYED = Metric("flux_outbox_relayed_total", "counter", ("topic",), "Rows that Kafka has acknowledged.")
OUTBOX_REFUSALS = Metric("flux_outbox_refusals_total", "counter", ("topic",), "Writes of rows that Kafka has refused.")

ALL = (
    CALLS,
    FAILURES,
    DURATION,
    BATCH,
    LATENESS,
    TRANSFERS,
    DEAD,
    LATE,
    REPLACED,
    COMMITS,
    REBALANCES,
    LAG,
    DUE,
    WAITING,
    IN_PLACE,
    LIMITED,
    PAUSED,
    PAUSES,
    PAUSED_NAMES,
    PAUSED_SECONDS,
    IN_FLIGHT,
    LIMIT,
    RATE_LIMIT,
    OPEN,
    PARTITIONS,
    CRASH_SUSPECTS,
    POLL_AGE,
    BUFFERED,
    READY,
    LIVE,
    BUILD,
    UP,
)
"""Those of a worker."""
OUTBOX = (OUTBOX_ROWS, OUTBOX_OLDEST, OUTBOX_REFUSED, OUTBOX_RELAYED, OUTBOX_REFUSALS)
"""Those of a relay, which has READY and LIVE too."""
