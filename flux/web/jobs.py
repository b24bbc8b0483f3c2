"""Long operations that buttons start: one at a time for each task, on its own thread, until it is done or cancelled."""

from __future__ import annotations

import logging
import secrets
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from flux.core.error_text import error_name
from flux.core.errors import FluxError
from flux.core.ports import System, Thread
from flux.core.text import one_line
from flux.operate.audit import AuditRecord
from flux.operate.audit import audited as audit_context
from flux.operate.dlq import purge as dlq_purge
from flux.operate.dlq import reject as dlq_reject
from flux.operate.dlq.dead_letters import dead_letter_of
from flux.operate.dlq.exchange import to_line
from flux.operate.dlq.filters import ALL, Filter
from flux.operate.dlq.purge import PurgePlan
from flux.operate.dlq.replay import Replay
from flux.operate.dlq.replay_plan import ReplayPlan
from flux.operate.formatting import many
from flux.operate.messages import outcome, rejection
from flux.operate.reading import read, spans_of
from flux.system import Lock
from flux.system.tracebacks import text_of
from flux.web.live import Broadcast
from flux.web.watched_tasks import WatchedTask

logger = logging.getLogger("flux.web")

MAX_KEPT = 50
_NOTIFY_EVERY = 0.25
_TIMEOUT = 10.0


class Busy(FluxError):
    """Another job is running for the same task."""


class Job:
    """`by`: who started it. `total` and `done` count records; `state`: running, done, failed or cancelled;
    `result`: the outcome, or why it failed. Times in seconds since the epoch."""

    def __init__(
        self, task: str, kind: str, title: str, total: int, broadcast: Broadcast, system: System, by: str = ""
    ) -> None:
        self.id = secrets.token_hex(8)
        self.task = task
        self.kind = kind
        self.by = by
        self.title = one_line(title)
        self.total = total
        self.done = 0
        self.state = "running"
        self.result = ""
        self.started = system.now()
        self.ended: float | None = None
        self.path: Path | None = None
        """A file to download."""
        self._system = system
        self._broadcast = broadcast
        self._notified_at = 0.0
        self._cancelled = threading.Event()
        self._thread: Thread | None = None

    @property
    def running(self) -> bool:
        return self.state == "running"

    @property
    def percent(self) -> int:
        return 100 if not self.running else min(99, 100 * self.done // max(1, self.total))

    def cancel(self) -> None:
        """It stops at the next record."""
        self._cancelled.set()

    def should_stop(self) -> bool:
        return self._cancelled.is_set()

    def on_progress(self, count: int) -> None:
        self.done += count
        now = self._system.now()
        if not 0 <= now - self._notified_at < _NOTIFY_EVERY:
            self._notified_at = now
            self._broadcast.notify()

    def start(self, body: Callable[[Job], str]) -> None:
        self._thread = self._system.spawn(f"flux-web-{self.kind}", lambda: self._run(body))

    def join(self, timeout: float) -> None:
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self, body: Callable[[Job], str]) -> None:
        try:
            result = body(self)
            state = "cancelled" if self.should_stop() else "done"
        except FluxError as error:
            state, result = "failed", str(error)
        except BaseException as error:  # else it would stay in the state running
            logger.error("%s of %s failed\n%s", self.kind, self.task, text_of(error))
            state, result = "failed", f"{error_name(type(error))}: see the log"
        self.result, self.ended, self.state = one_line(result), self._system.now(), state
        logger.info("%s: %s: %s", self.title, state, self.result)
        self._broadcast.notify()


class Jobs:
    """The last `MAX_KEPT` jobs. Their files are deleted with them."""

    def __init__(self, broadcast: Broadcast, system: System) -> None:
        self._broadcast = broadcast
        self._system = system
        self._jobs: dict[str, Job] = {}
        self._lock = Lock()
        self._directory: Path | None = None

    def all(self) -> list[Job]:
        """The newest first."""
        with self._lock:
            return list(reversed(self._jobs.values()))

    def get(self, id: str) -> Job | None:
        return self._jobs.get(id)

    def of(self, task: str) -> Job | None:
        """The running job of a task."""
        return next((job for job in self.all() if job.task == task and job.running), None)

    def start(self, task: str, kind: str, title: str, total: int, body: Callable[[Job], str], by: str = "") -> Job:
        """Raises Busy."""
        job = Job(task, kind, title, total, self._broadcast, self._system, by)
        with self._lock:
            busy = next((each for each in self._jobs.values() if each.task == task and each.running), None)
            if busy is not None:
                raise Busy(f"{busy.title} is running: wait for it, or cancel it")
            self._jobs[job.id] = job
            self._forget()
        logger.info("%s: started by %s", job.title, one_line(by))
        job.start(body)
        return job

    def file(self, job: Job, name: str) -> Path:
        """A new file for a job, in a directory that only this user can read."""
        with self._lock:
            if self._directory is None:
                self._directory = Path(tempfile.mkdtemp(prefix="flux-web-"))
        job.path = self._directory / f"{job.id}-{name}"
        return job.path

    def close(self) -> None:
        """Cancels running jobs, waits for them, and deletes all files."""
        for job in self.all():
            job.cancel()
        until = self._system.monotonic() + _TIMEOUT
        for job in self.all():
            job.join(max(0.0, until - self._system.monotonic()))
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    def _forget(self) -> None:
        over = len(self._jobs) - MAX_KEPT
        for job in [each for each in self._jobs.values() if not each.running][: max(0, over)]:
            del self._jobs[job.id]
            if job.path is not None:
                job.path.unlink(missing_ok=True)


MAX_EXPORTED = 1_000_000
"""Records in a file on this machine's disk."""

Body = Callable[[Job], str]


def replay(task: WatchedTask, plan: ReplayPlan) -> Body:
    def run(job: Job) -> str:
        result = Replay(
            plan,
            task.adapter,
            task.admin,
            should_stop=job.should_stop,
            on_progress=job.on_progress,
            system=task.system,
        ).run()
        text = outcome(plan, result)
        if result.failed:
            raise FluxError(f"{text}; {result.stopped}")
        return f"{text}; {result.stopped}" if result.stopped and not result.interrupted else text

    return run


def reject(task: WatchedTask, criteria: Filter) -> Body:
    def run(job: Job) -> str:
        result = dlq_reject.reject(
            task.adapter,
            task.admin,
            task.policy,
            criteria,
            should_stop=job.should_stop,
            on_progress=job.on_progress,
            system=task.system,
        )
        return rejection(result)

    return run


def audited(
    task: WatchedTask,
    body: Body,
    by: str,
    action: str,
    details: Mapping[str, str],
    criteria: Filter = ALL,
) -> Body:
    """`body`, written down before and after."""

    def run(job: Job) -> str:
        topic, unwritten = task.dead.topic, dict[str, None]()
        record = AuditRecord(
            at=task.now_ms,
            by=by,
            action=action,
            task=task.name,
            topic=topic,
            places=criteria.places,
            details=details,
        )
        with audit_context(task.audit, record, lambda text: unwritten.setdefault(text, None)) as end:
            result = body(job)
            end(result, ())
        return "; ".join([result, *unwritten])

    return run


def purge(task: WatchedTask, plan: PurgePlan) -> Body:
    """Deletes one partition after the other."""

    def run(job: Job) -> str:
        deleted = 0
        for number, before in plan.before.items():
            if job.should_stop():
                break
            dlq_purge.purge(task.admin, PurgePlan(plan.topic, {number: before}, {}, 0))
            deleted += plan.counts[number]
            job.on_progress(plan.counts[number])
        return f"deleted {many(deleted, 'dead letter')} of {plan.topic}"

    return run


def export(task: WatchedTask, criteria: Filter, jobs: Jobs) -> Body:
    def run(job: Job) -> str:
        topic, count, unreadable = task.dead.topic, 0, 0
        spans = spans_of(task.admin, topic, criteria.since_ms)
        with jobs.file(job, f"{topic}.jsonl").open("w", encoding="utf-8") as file:
            for batch in read(task.adapter, topic, spans, should_stop=job.should_stop, system=task.system):
                for record in batch.records:
                    dead_letter = dead_letter_of(record, task.policy, task.now_ms)
                    if criteria.matches(dead_letter) and count < MAX_EXPORTED:
                        file.write(to_line(dead_letter.message) + "\n")
                        count += 1
                        unreadable += not dead_letter.message.headers_readable
                job.on_progress(len(batch.records))
                if count >= MAX_EXPORTED:
                    break
        full = f"; at most {MAX_EXPORTED:,}: for more see flux dlq export" if count >= MAX_EXPORTED else ""
        lost = f"; {unreadable:,} without headers, which cannot be read" if unreadable else ""
        return f"{many(count, 'dead letter')} exported from {topic}{full}{lost}"

    return run
