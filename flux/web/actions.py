"""What the buttons do: the bodies of jobs."""

from __future__ import annotations

from collections.abc import Callable

from flux.core.errors import FluxError
from flux.operate.dlq import purge as dlq_purge
from flux.operate.dlq.dead_letters import dead_letter_of
from flux.operate.dlq.exchange import to_line
from flux.operate.dlq.filters import Filter
from flux.operate.dlq.purge import PurgePlan
from flux.operate.dlq.replay import Replay
from flux.operate.dlq.replay_plan import ReplayPlan
from flux.operate.formatting import many
from flux.operate.messages import outcome
from flux.operate.reading import read, spans_of
from flux.web.jobs import Job, Jobs
from flux.web.watched_tasks import WatchedTask

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


def purge(task: WatchedTask, plan: PurgePlan) -> Body:
    """Deletes one partition after the other."""

    def run(job: Job) -> str:
        deleted = 0
        spans = spans_of(task.admin, plan.topic)
        for number, before in plan.before.items():
            if job.should_stop():
                break
            dlq_purge.purge(task.admin, PurgePlan(plan.topic, {number: before}, 0, 0))
            count = max(0, before - spans[number].start)
            deleted += count
            job.on_progress(count)
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
