"""What `Task.enqueue` writes, and what it refuses before anything is written."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

import flux
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


def test_without_a_retry_topic_there_is_nowhere_to_wait(flux_kit: Kit) -> None:
    class Once(Mailing):
        retries = 0

    with pytest.raises(flux.ConfigurationError, match="set retries to 1 or more"):
        Once.enqueue("a", delay=1)
