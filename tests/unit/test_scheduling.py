"""What `Task.enqueue` writes, and what it refuses before anything is written."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

import flux
import flux.testing
from flux.core import flux_headers
from flux.testing import Kit


class Mailing(flux.Task):
    topic = "mails"
    group_id = "post"
    retries = 1

    def serializer(value: Any) -> bytes:  # noqa: N805 - a plain function
        return json.dumps(value).encode()

    def call(self, message: flux.Message) -> None: ...


@pytest.mark.parametrize("task", [Mailing, Mailing()], ids=["class", "instance"])
def test_a_serializer_makes_the_bytes(flux_kit: Kit, task: Any) -> None:
    task.enqueue({"to": "ada"})
    task.enqueue({"to": "bob"}, delay=60)
    assert [record.value for record in flux_kit.topic("mails")] == [b'{"to": "ada"}']
    assert [record.value for record in flux_kit.topic("mails-post-try-1")] == [b'{"to": "bob"}']


def test_an_instance_writes_to_its_own_cluster(flux_kit: Kit) -> None:
    own = Mailing()
    own.adapter = "memory://mails-elsewhere"
    own.enqueue("a")
    assert len(flux_kit.topic("mails", adapter="memory://mails-elsewhere")) == 1
    Mailing.enqueue("b")
    assert len(flux_kit.topic("mails")) == 1


def test_later_work_has_its_due_time_and_no_attempt_yet(flux_kit: Kit) -> None:
    Mailing.enqueue("a", key="k", headers={"trace": "1"}, delay=90)
    (record,) = flux_kit.topic("mails-post-try-1")
    due = str(int((flux_kit.clock.now() + 90) * 1000)).encode()
    assert record.key == b"k"
    assert dict(record.headers) == {
        "trace": b"1",
        flux_headers.STAGE: b"1",
        flux_headers.ATTEMPTS: b"0",
        flux_headers.DUE: due,
        flux_headers.GROUP: b"post",
        flux_headers.ORIGIN_TIMESTAMP: due,
    }


def test_a_time_that_is_past_is_now(flux_kit: Kit) -> None:
    Mailing.enqueue("a", at=datetime(2020, 1, 1, tzinfo=UTC))
    assert flux_kit.run(Mailing).done == 1


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"delay": -1}, "give seconds, 0 or more"),
        ({"delay": float("nan")}, "give seconds, 0 or more"),
        ({"delay": 31 * 86_400}, "longer than max_delay"),
        ({"at": datetime(2030, 1, 1)}, "give a datetime with a time zone"),
        ({"at": "2030-01-01T00:00Z"}, "give a datetime with a time zone"),
        ({"at": 1893456000}, "give a datetime with a time zone"),
        ({"at": datetime(9999, 1, 1, tzinfo=UTC)}, "longer than max_delay"),
        ({"delay": 1, "at": datetime.now(UTC)}, "give delay or at, not both"),
        ({"delay": 1, "headers": {"flux-due": "0"}}, "flux's own"),
    ],
)
def test_what_cannot_be_scheduled_is_refused(flux_kit: Kit, given: dict[str, Any], told: str) -> None:
    with pytest.raises(flux.ConfigurationError, match=told):
        Mailing.enqueue("a", **given)
    assert len(flux_kit.topic("mails-post-try-1")) == 0


class Reminding(flux.Task):
    topic = "reminders"
    group_id = "reminding"
    retries = 1

    def __init__(self) -> None:
        self.seen: list[bytes] = []

    def call(self, message: flux.Message) -> None:
        self.seen.append(message.value)


def test_an_id_is_enqueued_again_and_the_last_one_is_called(flux_kit: Kit) -> None:
    task = Reminding()
    task.enqueue(b"later", delay=60, id="42")
    task.enqueue(b"sooner", delay=30, id="42", key="k")
    task.enqueue(b"other", delay=40, id="43")
    assert [each.record.value for each in flux_kit.waiting(task)] == [b"sooner", b"other"]
    assert flux_kit.run_to_the_end(task).done == 2
    assert task.seen == [b"sooner", b"other"]


def test_cancelled_work_is_not_called_and_may_be_enqueued_again(flux_kit: Kit) -> None:
    task = Reminding()
    task.enqueue(b"cancelled", delay=60, id="42")
    task.cancel("42")
    assert flux_kit.waiting(task) == []
    assert flux_kit.run_to_the_end(task).done == 0
    task.enqueue(b"again", delay=60, id="42")
    assert flux_kit.run_to_the_end(task).done == 1
    assert task.seen == [b"again"]


def test_flux_cancel_is_the_same(flux_kit: Kit) -> None:
    task = Reminding()
    for name in ("42", "größer"):
        task.enqueue(b"cancelled", delay=60, id=name)
    flux.cancel(Reminding, "42")
    flux.cancel(task, "größer")
    assert flux_kit.waiting(task) == []


@pytest.mark.parametrize("task", ["Reminding", None, flux.Producer, 42])
def test_flux_cancel_needs_a_task(task: Any) -> None:
    with pytest.raises(flux.ConfigurationError, match="give the task's class, then the id"):
        flux.cancel(task, "42")


def test_what_has_started_is_not_cancelled(flux_kit: Kit) -> None:
    class Failing(Reminding):
        retries = 2
        wait = 10

        def call(self, message: flux.Message) -> None:
            super().call(message)
            if message.attempt == 1:
                raise ValueError("bad")

    task = Failing()
    task.enqueue(b"a", delay=60, id="42")
    flux_kit.clock.advance(60)
    flux_kit.run(task)
    task.cancel("42")
    flux_kit.run_to_the_end(task)
    assert task.seen == [b"a", b"a"]


def test_records_of_an_id_are_in_one_partition() -> None:
    with flux.testing.kit(partitions=8) as kit:
        for key in ("a", "b", "c", None):
            Reminding.enqueue(b"v", delay=60, id="42", key=key)
        Reminding.cancel("42")
        records = kit.topic("reminders-reminding-try-1")
    assert len({record.partition for record in records}) == 1
    assert [record.key for record in records] == [b"a", b"b", b"c", None, None]


@pytest.mark.parametrize("id", ["", "x" * 251, "a\nb", 42, b"x"])
def test_an_id_that_is_none_is_refused(flux_kit: Kit, id: Any) -> None:
    with pytest.raises(flux.ConfigurationError, match="give a text of 1 to 250 characters"):
        Reminding.enqueue(b"a", delay=1, id=id)
    with pytest.raises(flux.ConfigurationError, match="give a text of 1 to 250 characters"):
        Reminding.cancel(id)


def test_work_for_now_has_no_id(flux_kit: Kit) -> None:
    with pytest.raises(flux.ConfigurationError, match="needs delay or at"):
        Reminding.enqueue(b"a", id="42")


def test_without_a_retry_topic_there_is_nowhere_to_wait(flux_kit: Kit) -> None:
    class Once(Mailing):
        retries = 0

    with pytest.raises(flux.ConfigurationError, match="set retries to 1 or more"):
        Once.enqueue("a", delay=1)
    with pytest.raises(flux.ConfigurationError, match="set retries to 1 or more"):
        Once.cancel("42")
