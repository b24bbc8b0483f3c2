"""The page of waiting records, and the button that cancels delayed work."""

from __future__ import annotations

import re
from typing import Any

import pytest

from flux.core import flux_headers
from flux.core.errors import BrokerError, Fault
from flux.core.ports import ProducerRecord
from flux.operate.audit import TOPIC, actions
from flux.web.users import read_tokens
from unit.support.operate_support import NOW_MS, RETRY
from unit.support.web_support import TOKEN, Web, text_of

PAGE = "/tasks/Billing/waiting"
CANCEL = f"{PAGE}/cancel"


def waiting(web: Web, *ids: bytes) -> Web:
    for name in ids:
        due = (flux_headers.DUE, str(NOW_MS + 30_000).encode())
        headers = [(flux_headers.ATTEMPTS, b"0"), due, (flux_headers.ID, name)]
        web.yard.kit.write(ProducerRecord(b"v", b"k", headers, 0, NOW_MS), topic=RETRY)
    web.take_sample()
    return web


def test_it_cancels_what_waits_and_the_history_says_who_did() -> None:
    web = waiting(Web(), b"r-1", b"r-2")
    assert web.get(PAGE).count(CANCEL) == 2
    answer = web.post(CANCEL, {"partition": "0", "offset": "1"})
    assert answer.headers["location"] == PAGE
    page = text_of(web.get(PAGE))
    assert "id r-1" in page
    assert "r-2" not in page
    [record] = actions(web.context.tasks[0].audit.read())
    assert (record.by, record.action, record.result) == ("local", "cancel", "cancelled")
    assert (record.places, record.details) == (("0:1",), {"id": "r-2"})
    assert "cancel" in text_of(web.get("/tasks/Billing/dead-letters/history"))


def test_it_says_which_records_follow_an_earlier_one_of_their_key() -> None:
    web = Web()
    due = (flux_headers.DUE, str(NOW_MS + 30_000).encode())
    headers = [(flux_headers.ATTEMPTS, b"0"), due, (flux_headers.ORDER, b"7")]
    web.yard.kit.write(ProducerRecord(b"v", b"k", headers, 0, NOW_MS), topic=RETRY)
    web.take_sample()
    assert "behind an earlier record of its key" in text_of(web.get(PAGE))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"partition": "0", "offset": "7"}, "does not wait any more"),
        ({}, "does not wait any more"),
        ({"partition": "x", "offset": "0"}, "give a whole number"),
    ],
)
def test_what_does_not_wait_is_not_cancelled(fields: dict[str, str], told: str) -> None:
    web = waiting(Web(), b"r-1")
    assert told in text_of(web.post(CANCEL, fields, 409).text)
    assert len(web.yard.broker.records(RETRY)) == 1


def test_viewers_see_no_button_and_may_cancel_nothing() -> None:
    web = waiting(Web(tokens=read_tokens(f"viewer vera {TOKEN}")), b"r-1")
    web.post("/login", {"token": TOKEN})
    assert CANCEL not in web.get(PAGE)
    web.post(CANCEL, {"partition": "0", "offset": "0"}, 403)
    assert len(web.yard.broker.records(RETRY)) == 1


def test_a_form_of_another_site_cancels_nothing() -> None:
    web = waiting(Web(), b"r-1")
    answer = web.client.post(CANCEL, data={"partition": "0", "offset": "0"}, headers={"origin": "http://evil.example"})
    assert answer.status_code == 403
    assert len(web.yard.broker.records(RETRY)) == 1


def test_a_redacted_page_cancels_an_id_that_it_does_not_show() -> None:
    web = waiting(Web(redact=lambda part: None), b"SECRET")
    page = web.get(PAGE)
    assert "SECRET" not in page
    assert re.search(r'name="offset" value="0"', page)
    web.post(CANCEL, {"partition": "0", "offset": "0"})
    assert "No record waits" in text_of(web.get(PAGE))


def test_what_cannot_be_written_down_is_done_and_said() -> None:
    web = waiting(Web(), b"r-1")

    def refuse(topic: str, partition: int, record: Any) -> BrokerError | None:
        return BrokerError("no", Fault.DENIED) if topic == TOPIC else None

    web.yard.broker.fail_writes(refuse)
    page = text_of(web.post(CANCEL, {"partition": "0", "offset": "0"}, 200).text)
    assert "this cancel is not written down in flux-audit" in page
    assert "No record waits" in page
