"""Publishes a worker's status every 5 s, as a record in a compacted topic of each of its clusters.

It has its own thread and clients, and nothing waits for it: a failure is logged once and tried again, and the tasks
continue.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Sequence
from pathlib import Path

import attrs

from flux._version import __version__
from flux.consuming.coordinator import StageRuntime
from flux.consuming.task_runtime import TaskRuntime
from flux.consuming.topic_setup import REQUEST_TIMEOUT, missing_like
from flux.core.errors import BrokerError, ConfigurationError
from flux.core.monitoring.duties import Duty
from flux.core.monitoring.report import EVERY, TOPIC, Report, ScheduleReport, StageReport
from flux.core.monitoring.snapshot import Snapshot
from flux.core.ports import AdminPort, Cluster, NewTopic, ProducerPort, ProducerRecord, ProducerSettings, Record, System
from flux.core.stage import check_topic
from flux.core.validation import plain, shown
from flux.processes.control import WorkerControl

logger = logging.getLogger("flux.report")

ENVIRONMENT = "FLUX_REPORT_TOPIC"
_LAST = 3.0  # seconds that the last record may take
_LONGEST = 60.0
_SETTINGS = ProducerSettings(acks="1", delivery_timeout=10.0)
TOPIC_CONFIG = {
    # Each process has a key of its own: records of ended ones are deleted after a day.
    "cleanup.policy": "compact,delete",
    "retention.ms": str(24 * 3600 * 1000),
    "segment.ms": str(10 * 60 * 1000),
    "delete.retention.ms": str(10 * 60 * 1000),
    # The brokers' clock, since readers find recent reports by it: a worker's own clock may be wrong.
    "message.timestamp.type": "LogAppendTime",
}


def report_topic(choice: bool | str | None) -> str | None:
    """The topic of reports: `choice` if it is a name, for True the one in the environment or the default; None: there
    are no reports. Raises ConfigurationError for a name that Kafka refuses."""
    choice = plain(choice)
    if choice is None or choice is False:
        return None
    if choice is not True and not isinstance(choice, str):
        raise ConfigurationError(f"report = {shown(choice)}: give True, or the name of the topic")
    topic = choice if isinstance(choice, str) else os.environ.get(ENVIRONMENT) or TOPIC
    check_topic(topic)
    return topic


class Reporter:
    """For one process. `process`: its number with --processes; `control`: the commands that it takes."""

    def __init__(
        self,
        jobs: Sequence[TaskRuntime],
        topic: str,
        process: int | None,
        system: System,
        control: WorkerControl | None = None,
    ) -> None:
        self._started = int(system.now() * 1000) if control is None else control.started
        self._control = control
        self._process = process
        self._system = system
        by_cluster: dict[str, list[TaskRuntime]] = {}
        for job in jobs:
            by_cluster.setdefault(job.adapter.cluster, []).append(job)
        self._channels = {
            cluster: (their, Channel(their[0].adapter, topic, their[0].policy.stages.topic))
            for cluster, their in by_cluster.items()
        }
        self._snapshots: dict[StageRuntime, Snapshot] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flux-report", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Deletes this process's report, as it ends regularly. Waits for that up to 5 s."""
        self._ended.set()
        self._thread.join(_LAST + 2.0)

    def report(self, jobs: Sequence[TaskRuntime]) -> Report:
        return Report(
            host=socket.gethostname(),
            pid=os.getpid(),
            process=self._process,
            version=__version__,
            started=self._started,
            every=EVERY,
            memory=memory(),
            stages=tuple(stage for job in jobs for stage in self._stages(job)),
            control=self._control is not None,
        )

    def _stages(self, job: TaskRuntime) -> list[StageReport]:
        coordinator = job.coordinator
        if coordinator is None:
            return []

        def look(runtime: StageRuntime, now: float) -> StageReport:
            snapshot = self._snapshots.get(runtime)
            if snapshot is None:
                snapshot = self._snapshots[runtime] = Snapshot(job.name, runtime.engine)
            return snapshot.look(now)

        stages = coordinator.inspection.read(look)
        if job.ticks is None or not job.ticks.log.entries:
            return stages
        schedules = tuple(
            ScheduleReport(title, each.tick, each.started, each.called, each.missed, each.not_called)
            for title, each in list(job.ticks.log.entries.items())
        )
        return [attrs.evolve(each, schedules=schedules) if each.stage == 1 else each for each in stages]

    def publish(self) -> None:
        """Writes one report to each cluster."""
        for jobs, channel in self._channels.values():
            report = self.report(jobs)
            channel.write(report.key, report.to_json(), self._system.monotonic())

    def _run(self) -> None:
        duty = Duty("the reports of the worker")
        self._system.watch(duty)
        try:
            while True:
                duty.step(threading.get_ident())
                self.publish()
                duty.rest()
                if self._ended.wait(EVERY):
                    break
        except Exception:  # a bug of ours: reports end, tasks continue
            logger.exception("reports have ended")
        duty.end()
        for jobs, channel in self._channels.values():
            channel.end(self.report(jobs).key)


class Channel:
    """Reports to one cluster. Used by one thread. `like`: a topic whose replication factor the reports' topic gets."""

    def __init__(self, adapter: Cluster, topic: str, like: str) -> None:
        self._adapter = adapter
        self._topic = topic
        self._like = like
        self._client: ProducerPort | None = None
        self._topic_exists = False
        self._written = False
        self._failure: Exception | None = None
        self._logged: set[str] = set()
        self._pause = EVERY
        self._again = 0.0

    def write(self, key: bytes, value: bytes, now: float) -> None:
        """Never raises, and does not wait for the acknowledgement: a failed one is handled at the next call."""
        if now < self._again:
            return
        try:
            if not self._topic_exists:
                self._require_topic()
            self._client = self._client or self._adapter.producer(_SETTINGS)
            if self._failure is None and not self._client.write(self._topic, [ProducerRecord(value, key)], self._ended):
                self._failure = BrokerError("the client's queue has no room")
            self._client.flush(0)
            self._written = True
        except Exception as error:
            self._failure = error
        failure, self._failure = self._failure, None
        if failure is None:
            self._pause = EVERY
            return
        self._topic_exists = False  # it may have been deleted
        self._again = now + self._pause
        self._pause = min(2 * self._pause, _LONGEST)
        if str(failure) not in self._logged:
            self._logged.add(str(failure))
            logger.warning("reports cannot be written to %s: %s; trying again, tasks continue", self._topic, failure)

    def end(self, key: bytes) -> None:
        """Writes a tombstone, if possible, and closes the client."""
        try:
            if self._client is not None:
                if self._written:
                    self._client.write(self._topic, [ProducerRecord(None, key)], self._ended)
                self._client.close(_LAST)
        except Exception:
            logger.debug("the last report could not be written", exc_info=True)

    def _ended(self, error: BrokerError | None, record: Record) -> None:
        self._failure = error or self._failure

    def _require_topic(self) -> None:
        admin = self._adapter.admin()
        try:
            missing = missing_like(admin, {self._topic: TOPIC_CONFIG}, self._like)
            if missing:
                _create(admin, missing)
            self._topic_exists = True
        finally:
            admin.close()


def _create(admin: AdminPort, missing: Sequence[NewTopic]) -> None:
    try:
        admin.create_topics(missing, REQUEST_TIMEOUT)
    except BrokerError as error:
        raise BrokerError(
            f"{error}: create it, with cleanup.policy={TOPIC_CONFIG['cleanup.policy']}", error.fault
        ) from None


def memory() -> int | None:
    """Resident bytes of this process; None where there is no /proc."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None
