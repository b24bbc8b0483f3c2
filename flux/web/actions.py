"""What the buttons do: bodies of jobs."""

from __future__ import annotations

from collections.abc import Callable

from flux.core.errors import FluxError
from flux.operate.dlq import purge as purging
from flux.operate.dlq.dead_letters import letter_of
from flux.operate.dlq.exchange import to_line
from flux.operate.dlq.filters import Filter
from flux.operate.dlq.purge import Purge
from flux.operate.dlq.replay import Replay
from flux.operate.dlq.replay_plan import ReplayPlan
from flux.operate.formatting import many
from flux.operate.messages import outcome
from flux.operate.reading import read, spans_of
from flux.web.jobs import Job, Jobs
from flux.web.watched_tasks import Subject

MOST_EXPORTED = 1_000_000
"""Records in a file, which lies on this machine's disk."""

Body = Callable[[Job], str]


def replay(subject: Subject, plan: ReplayPlan) -> Body:
    def run(job: Job) -> str:
        receipt = Replay(
            plan,
            subject.adapter,
            subject.admin,
            stopping=job.stopping,
            progressed=job.progressed,
            system=subject.system,
        ).run()
        told = outcome(plan, receipt)
        if receipt.failed:
            raise FluxError(f"{told}; {receipt.stopped}")
        return f"{told}; {receipt.stopped}" if receipt.stopped and not receipt.interrupted else told

    return run


def purge(subject: Subject, plan: Purge) -> Body:
    """A partition after the other."""

    def run(job: Job) -> str:
        deleted = 0
        spans = spans_of(subject.admin, plan.topic)
        for number, before in plan.before.items():
            if job.stopping():
                break
            purging.purge(subject.admin, Purge(plan.topic, {number: before}, 0, 0))
            count = max(0, before - spans[number].start)
            deleted += count
            job.progressed(count)
        return f"deleted {many(deleted, 'dead letter')} of {plan.topic}"

    return run


def export(subject: Subject, which: Filter, jobs: Jobs) -> Body:
    def run(job: Job) -> str:
        topic, count, unreadable = subject.dead.topic, 0, 0
        spans = spans_of(subject.admin, topic, which.since_ms)
        with jobs.file(job, f"{topic}.jsonl").open("w", encoding="utf-8") as file:
            for piece in read(subject.adapter, topic, spans, stopping=job.stopping, system=subject.system):
                for record in piece.records:
                    letter = letter_of(record, subject.policy, subject.now_ms)
                    if which.matches(letter) and count < MOST_EXPORTED:
                        file.write(to_line(letter.message) + "\n")
                        count += 1
                        unreadable += not letter.message.headers_readable
                job.progressed(len(piece.records))
                if count >= MOST_EXPORTED:
                    break
        full = f"; no more than {MOST_EXPORTED:,}: see flux dlq export" if count >= MOST_EXPORTED else ""
        lost = f"; {unreadable:,} without their headers, which cannot be read" if unreadable else ""
        return f"{many(count, 'dead letter')} exported from {topic}{full}{lost}"

    return run
