"""Replays, purges and exports from the pages: confirmed, one at a time, with their progress and their end."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from flux.core.errors import BrokerError, Fault
from flux.core.ports import ConsumerSettings, TopicPartition
from flux.system import SYSTEM
from flux.web.jobs import MAX_KEPT, Job, Jobs
from flux.web.live import Broadcast
from unit.support.operate_support import DEAD, RETRY
from unit.support.web_support import ORIGIN, Web, fields_of, text_of

REPLAY, PURGE, EXPORT = (f"/tasks/Billing/dead-letters/{kind}" for kind in ("replay", "purge", "export"))


@pytest.fixture
def web() -> Web:
    web = Web()
    web.yard.bury({}, {"error": "KeyError"}, {})
    return web


def begin(web: Web, path: str, **fields: str) -> str:
    """Sends a form, lets the job end, and returns its page's address."""
    location: str = web.post(path, fields).headers["location"]
    web.work()
    return location


def test_a_replay_of_a_cause_takes_its_dead_letters_and_marks_them(web: Web) -> None:
    page = web.get(f"{REPLAY}?error=KeyError")
    location = begin(web, REPLAY, **fields_of(page), to="retry")
    assert "done replayed 1 dead letter to orders-billing-try-1; 2 did not match" in text_of(web.get(location))
    assert web.yard.replayed_offsets() == [1]
    dead_letters = text_of(web.get("/tasks/Billing/dead-letters"))
    assert "2 open, 1 replayed" in dead_letters
    assert "KeyError" not in dead_letters
    assert "replayed" in text_of(web.get("/tasks/Billing/dead-letters/0/1"))
    assert "0:1" in text_of(web.get("/tasks/Billing/dead-letters?replayed=1"))


def test_a_trial_only_counts(web: Web) -> None:
    location = begin(web, REPLAY, dry="1")
    assert "would replay 3 dead letters" in text_of(web.get(location))
    assert web.yard.copies() == []


@pytest.mark.parametrize(("to", "topic"), [("retry", RETRY), ("main", "orders")])
def test_a_replay_goes_to_the_chosen_topic(web: Web, to: str, topic: str) -> None:
    begin(web, REPLAY, to=to, limit="2")
    assert len(web.yard.copies(topic)) == 2


def test_a_number_that_is_none_begins_nothing(web: Web) -> None:
    for fields in ({"limit": "-1"}, {"rate": "x"}, {"max_replays": "0"}, {"limit": "٣"}):
        web.post(REPLAY, fields, 409)
    assert web.context.jobs.all() == []


def test_a_replay_is_refused_while_workers_consume_the_dead_letters_unless_it_is_forced(web: Web) -> None:
    class Listener:
        def assigned(self, partitions: object) -> dict[TopicPartition, int]:
            return {TopicPartition(DEAD, 0): 0}

        def revoked(self, partitions: object) -> None: ...
        def lost(self, partitions: object) -> None: ...

    consumer = web.yard.adapter.consumer(ConsumerSettings(DEAD, "billing-3"), Listener())
    consumer.poll(1, 0.1)
    assert "consuming the dead letters" in text_of(web.post(REPLAY, {}, 409).text)
    begin(web, REPLAY, force="1")
    assert len(web.yard.copies()) == 3


def test_what_a_visitor_started_is_one_line_of_the_log(web: Web, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="flux.web"):
        begin(web, REPLAY, key="k\nflux.web: Replay of all: done\x1b[31m")
    lines = [record.getMessage() for record in caplog.records if record.name == "flux.web"]
    assert len(lines) == 2
    assert not any(mark in line for line in lines for mark in "\n\x1b")


def test_a_failure_is_one_line(web: Web) -> None:
    web.yard.broker.fail_writes(lambda topic, partition, record: BrokerError("refused", Fault.DENIED))
    location = begin(web, REPLAY)
    page = text_of(web.get(location))
    assert "failed replayed 0 dead letters" in page
    assert "refused" in page


def test_one_job_at_a_time_for_a_task(web: Web) -> None:
    location = web.post(REPLAY).headers["location"]
    assert "is running: wait for it" in text_of(web.post(EXPORT, {}, 409).text)
    assert "is running: one job at a time" in text_of(web.get(REPLAY))
    web.work()
    assert web.context.jobs.of("Billing") is None
    web.post(EXPORT)
    assert "done" in text_of(web.get(location))


def test_a_job_can_be_cancelled_and_leaves_what_it_did_not_come_to(web: Web) -> None:
    location = web.post(REPLAY).headers["location"]
    web.post(f"{location}/cancel")
    web.work()
    assert "cancelled replayed 0 dead letters" in text_of(web.get(location))
    begin(web, REPLAY)
    assert len(web.yard.copies()) == 3


def test_progress_is_shown_while_it_runs(web: Web) -> None:
    location = web.post(REPLAY).headers["location"]
    page = web.get(location)
    assert 'data-live="sample"' in page
    assert "0 of 3 processed" in text_of(page)
    before = web.context.broadcast.number
    web.work()
    assert web.context.broadcast.number > before, "browsers hear of it"
    done = web.get(location)
    assert 'data-live=""' in done
    assert "3 of 3 processed" in text_of(done)


# -- purge


@pytest.mark.parametrize(
    ("query", "count"), [("what=all", 3), ("what=replayed", 0), ("what=older&days=1", 0), ("what=older&days=36500", 0)]
)
def test_a_purge_says_first_what_would_go(web: Web, query: str, count: int) -> None:
    page = text_of(web.get(f"{PURGE}?{query}"))
    assert (f"Delete {count} dead letters for good?" in page) == bool(count)
    assert ("There is nothing to delete" in page) == (not count)


def test_a_purge_deletes_what_was_confirmed_and_nothing_that_came_since(web: Web) -> None:
    page = web.get(f"{PURGE}?what=all")
    assert "3 of them are open" in text_of(page)
    web.yard.bury({})
    location = begin(web, PURGE, **fields_of(page), count="3")
    assert f"done deleted 3 dead letters of {DEAD}" in text_of(web.get(location))
    assert [record.offset() for record in web.yard.broker.records(DEAD)] == [3]
    assert "Causes 1 1 open" in text_of(web.get("/tasks/Billing/dead-letters"))


@pytest.mark.parametrize(
    "fields",
    [{}, {"before": "0:3"}, {"before": "0:3", "count": "2"}, {"count": "3"}, {"before": "x", "count": "3"}],
)
def test_a_purge_without_its_confirmation_deletes_nothing(web: Web, fields: dict[str, str]) -> None:
    web.post(PURGE, fields, 409)
    assert web.context.jobs.all() == []
    assert len(web.yard.broker.records(DEAD)) == 3


def test_a_purge_beyond_the_end_is_refused(web: Web) -> None:
    web.post(PURGE, {"before": "0:99", "count": "99"}, 409)
    for query in ("what=x", "what=older&days=0", "what=older&days="):
        web.get(f"{PURGE}?{query}", 409)


# -- export


def test_an_export_is_a_file_of_lines(web: Web) -> None:
    location = begin(web, EXPORT, error="ValueError")
    assert "2 dead letters exported" in text_of(web.get(location))
    answer = web.client.get(f"{location}/file")
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [(line["offset"], line["key"]) for line in lines] == [(0, "k"), (2, "k")]
    assert f'filename="{DEAD}.jsonl"' in answer.headers["content-disposition"]


def test_files_are_nobody_elses_and_go_with_the_pages(web: Web) -> None:
    begin(web, EXPORT)
    [job] = web.context.jobs.all()
    path = job.path
    assert path is not None
    assert path.parent.stat().st_mode & 0o077 == 0
    web.context.jobs.close()
    assert not path.parent.exists()


def test_only_the_last_jobs_are_kept_and_their_files(web: Web) -> None:
    paths: list[Path] = []
    for _ in range(MAX_KEPT + 3):
        begin(web, EXPORT)
        path = web.context.jobs.all()[0].path
        assert path is not None
        paths.append(path)
    assert len(web.context.jobs.all()) == MAX_KEPT
    assert [path.exists() for path in paths] == [False] * 3 + [True] * MAX_KEPT
    web.context.jobs.close()


def test_jobs_are_listed_the_newest_first(web: Web) -> None:
    begin(web, EXPORT)
    begin(web, REPLAY)
    page = text_of(web.get("/jobs"))
    assert page.index("Replay of Billing: all") < page.index("Export of Billing: all")
    web.get("/jobs/unknown", 404)
    web.get(f"/jobs/{web.context.jobs.all()[0].id}/file", 404)


def test_what_runs_when_the_pages_end_is_cancelled_and_waited_for() -> None:
    broadcast = Broadcast()
    jobs = Jobs(broadcast, SYSTEM)

    def body(job: Job) -> str:
        began.set()
        while not job.should_stop():
            time.sleep(0.001)
        return "as far as it came"

    began = threading.Event()
    job = jobs.start("Billing", "replay", "Replay of Billing", 1, body)
    assert began.wait(60)
    jobs.close()
    assert (job.state, job.result) == ("cancelled", "as far as it came")


def test_the_end_of_the_pages_ends_their_jobs(web: Web) -> None:
    with TestClient(web.app, base_url=ORIGIN):
        job = web.context.jobs.start("Billing", "replay", "Replay of Billing", 1, lambda job: "")
    assert job.should_stop()


@pytest.mark.parametrize("end", [SystemExit, GeneratorExit, type("Panic", (BaseException,), {})])
def test_a_job_that_ends_with_anything_frees_its_task(end: type[BaseException]) -> None:
    jobs = Jobs(Broadcast(), SYSTEM)

    def body(job: Job) -> str:
        raise end

    job = jobs.start("Billing", "replay", "a replay", 1, body)
    job.join(60)
    assert (job.state, jobs.of("Billing")) == ("failed", None)
    assert job.result.endswith(f"{end.__name__}: see the log")
