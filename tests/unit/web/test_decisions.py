"""Dead letters one by one in the pages: chosen, rejected, edited, and who did it."""

from __future__ import annotations

import json
import re
from html import unescape

import pytest

from flux.operate.audit import TopicAudit, actions
from flux.web.redaction import hide
from unit.support.operate_support import DEAD, MAIN, RETRY
from unit.support.web_support import Web, fields_of, text_of

LIST = "/tasks/Billing/dead-letters"
REPLAY, REJECT, HISTORY = f"{LIST}/replay", f"{LIST}/reject", f"{LIST}/history"


@pytest.fixture
def web() -> Web:
    web = Web()
    web.yard.bury({}, {"error": "KeyError"}, {})
    return web


def begin(web: Web, path: str, **fields: str) -> str:
    """Sends a form, lets the job end, and returns what its page says."""
    location: str = web.post(path, fields).headers["location"]
    web.work()
    return text_of(web.get(location))


def document_of(page: str) -> str:
    found = re.search(r"(?s)<textarea[^>]*>\n(.*?)</textarea>", page)
    assert found is not None
    return unescape(found[1])


def test_chosen_ones_are_replayed(web: Web) -> None:
    assert 'name="only" value="0:2"' in web.get(LIST)
    page = web.get(f"{REPLAY}?only=0:0&only=0:2")
    assert "Replay: 2 chosen" in text_of(page)
    assert "done replayed 2 dead letters" in begin(web, REPLAY, **fields_of(page), to="retry")
    assert web.yard.replayed_offsets() == [0, 2]
    assert "1 open, 2 replayed" in text_of(web.get(LIST))


def test_rejected_ones_are_open_no_more(web: Web) -> None:
    page = web.get(f"{REJECT}?only=0:1")
    assert f"done rejected 1 dead letter of {DEAD}" in begin(web, REJECT, **fields_of(page), why="closed")
    assert "2 open, 1 rejected" in text_of(web.get(LIST))
    shown = text_of(web.get(f"{LIST}/0/1"))
    assert "Dead letter 0:1 rejected" in shown
    assert "Reject …" not in shown
    assert "done replayed 2 dead letters" in begin(web, REPLAY)
    assert "done replayed 1 dead letter" in begin(web, REPLAY, rejected="1")


def test_a_cause_is_rejected(web: Web) -> None:
    assert "rejected 2 dead letters" in begin(web, REJECT, error="ValueError")


def test_a_header_is_searched(web: Web) -> None:
    assert "0:1" in text_of(web.get(f"{LIST}?header=own%3Dheader"))
    assert "0:1" not in text_of(web.get(f"{LIST}?header=own%3Dother"))


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_an_edited_copy_is_replayed_whatever_line_ends_the_browser_sends(web: Web, newline: str) -> None:
    web.yard.bury({}, value=b'{"a": "1\\n2", "b": "\xe2\x80\xae"}')
    document = document_of(web.get(f"{LIST}/0/3/edit"))
    edited = {**json.loads(document), "key": "new"}
    text = json.dumps(edited, indent=2).replace("\n", newline)
    assert "done replayed 1 dead letter" in begin(web, f"{LIST}/0/3/edit", document=text, to="retry")
    [copy] = web.yard.copies(RETRY)
    assert (copy.key(), copy.value()) == (b"new", b'{"a": "1\\n2", "b": "\xe2\x80\xae"}')
    assert "although it was replayed before" in text_of(web.get(f"{LIST}/0/3/edit"))
    again = begin(web, f"{LIST}/0/3/edit", document=text.replace("new", "newer"), to="main", again="1")
    assert "done replayed 1 dead letter" in again
    assert [record.key() for record in web.yard.copies(MAIN)] == [b"newer"]


def test_what_cannot_be_edited_is_said(web: Web) -> None:
    document = document_of(web.get(f"{LIST}/0/0/edit"))
    for text, says in ((document, "nothing was changed"), ("{", "not JSON"), ("{}", "expected an object")):
        assert says in text_of(web.post(f"{LIST}/0/0/edit", {"document": text}, 409).text)
    web.get(f"{LIST}/0/9/edit", 409)
    web.yard.bury({}, value=b"x" * 40_000)
    assert "too large to be edited here" in text_of(web.get(f"{LIST}/0/3/edit", 409))
    assert web.context.jobs.all() == []


def test_the_history_names_who_did_what(web: Web) -> None:
    assert "Nothing was done to these dead letters yet." in text_of(web.get(HISTORY))
    begin(web, REJECT, only="0:1", why="closed")
    begin(web, REPLAY, only="0:0")
    begin(web, REPLAY, dry="1")
    page = web.get(f"{LIST}/purge?what=all")
    begin(web, f"{LIST}/purge", **fields_of(page), count="3")
    shown = text_of(web.get(HISTORY))
    assert shown.index("purge before 0:3 deleted 3") < shown.index("replay 1 chosen; 0:0 replayed 1")
    assert "reject 1 chosen; 0:1; why: closed rejected 1 dead letter" in shown
    assert "History 3" in shown
    done = actions(TopicAudit(web.yard.adapter, web.yard.admin, MAIN, system=web.yard.system).read())
    assert [(each.action, each.task, bool(each.by)) for each in done] == [
        ("reject", "Billing", True),
        ("replay", "Billing", True),
        ("purge", "Billing", True),
    ]


def test_redacted_pages_edit_nothing_and_hide_what_was_done() -> None:
    web = Web(redact=hide)
    web.yard.bury({})
    web.get(f"{LIST}/0/0/edit", 403)
    web.post(f"{LIST}/0/0/edit", {"document": "{}"}, 403)
    begin(web, REJECT, key="k")
    assert "key k" not in web.get(HISTORY)
    assert "/edit" not in web.get(f"{LIST}/0/0")


def test_viewers_decide_nothing() -> None:
    web = Web(read_only=True)
    web.yard.bury({})
    assert 'checkbox" form' not in web.get(LIST)
    for path in (REJECT, f"{LIST}/0/0/edit"):
        assert "read-only" in text_of(web.post(path, {"only": "0:0"}, 403).text)
