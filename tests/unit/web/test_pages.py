"""What the pages show."""

from __future__ import annotations

import re

import attrs
import pytest

from flux.core import flux_headers
from flux.core.engine.crashes import Mark
from flux.core.engine.offset_tracker import OffsetTracker
from flux.core.errors import BrokerError, Fault
from flux.core.monitoring.report import Call, Limited, Paused, RateSet
from flux.core.ports import CommittedOffset, ProducerRecord, TopicPartition, TransactionSettings
from flux.core.schedules import Schedule, interval
from flux.operate.held_keys import HeldKey, HeldKeys
from flux.web import redaction
from flux.web.dead_letters import PAGE
from flux.web.redaction import RecordPart
from unit.support.operate_support import DEAD, NOW_MS, RETRY
from unit.support.web_support import Web, fields_of, text_of


@pytest.fixture
def web() -> Web:
    return Web()


def main_records(web: Web, count: int) -> None:
    for number in range(count):
        web.yard.kit.write(ProducerRecord(b"value", b"ada-%d" % number, [], 0, NOW_MS), topic="orders")


# -- overview and task


def test_the_task_page_shows_which_keys_are_held_and_by_what(web: Web) -> None:
    web.take_sample()
    [watch] = web.context.watches.values()
    assert watch.sample is not None
    now = watch.sample.now_ms
    first = [HeldKey(b"ada", 0, 17, 3, now - 60_000, True, 14), HeldKey(b"bob", 1, 2, 2, now + 60_000, False, 3)]
    watch.sample = attrs.evolve(watch.sample, held_keys=HeldKeys(3, 1, 20, first))
    page = web.get("/tasks/Billing")
    assert "ada 0:17 the dead letters: replay or reject it for 1.0 minute 14" in text_of(page)
    assert "bob 1:2 stage 2 due in 1.0 minute 3" in text_of(page)
    assert "2 of 3: those that wait for dead letters first" in text_of(page)
    assert 'href="/tasks/Billing/trace?origin=0:17"' in page


def test_before_the_first_sample_it_says_so(web: Web) -> None:
    assert "loading" in text_of(web.get("/"))
    assert "loading" in text_of(web.get("/tasks/Billing"))


def test_the_overview_shows_each_task_and_all_together(web: Web) -> None:
    main_records(web, 3)
    web.yard.bury({}, {})
    web.take_sample()
    assert "Billing orders no workers 3" in text_of(web.get("/"))
    web.yard.system.time += 60
    web.take_sample()
    page = web.get("/")
    assert "Billing orders blocked 3" in text_of(page)
    assert '<a href="/tasks/Billing/dead-letters" class="dead">2</a>' in page
    assert 'aria-label="Lag over' in page


def test_the_overview_names_some_blockers_and_counts_the_others() -> None:
    web = Web(partitions=12)
    for number in range(12):
        web.yard.kit.write(ProducerRecord(b"value", b"ada", [], number, NOW_MS), topic="orders")
    web.take_sample()
    web.yard.system.time += 60
    web.take_sample()
    page = text_of(web.get("/"))
    assert page.count("has no members") == 10
    assert "and 2 more" in page


def test_each_stage_has_its_own_lines(web: Web) -> None:
    main_records(web, 3)
    waiting_in(web, -5, 0)
    web.take_sample()
    history = web.context.watches["Billing"].history
    assert [history.of(f"lag:{number}")[-1].value for number in (0, 1, 2)] == [3, 1, 0]
    for path, charts in (("/", 2), ("/tasks/Billing", 3)):
        stages = web.get(path).partition('<section id="stages"')[2].partition("</section>")[0]
        assert stages.count('aria-label="Lag over') == charts
        assert stages.count('aria-label="Done per second over') == charts


def test_rates_are_those_that_workers_report(web: Web) -> None:
    web.report()
    web.take_sample()
    assert "12.3" in text_of(web.get("/"))


def test_a_task_shows_what_blocks_it_and_where(web: Web) -> None:
    main_records(web, 4)
    web.yard.broker.set_committed_offset(
        "billing", TopicPartition("orders", 0), CommittedOffset(0, OffsetTracker(0, [(1, 3)]).metadata())
    )
    web.report(Call(0, 0, "ada-0", 1, 300.0))
    web.take_sample()
    page = text_of(web.get("/tasks/Billing"))
    assert "orders[0]@0 ada-0 1 its call is running on host pid 7 (process 0) 5.0 minutes 1" in page
    assert "group billing has no members" in page
    assert "blocked" in text_of(web.get("/"))


def test_a_stage_without_a_topic_is_named(web: Web) -> None:
    web.yard.admin.delete_topics([RETRY], 1)
    web.take_sample()
    assert "the topic is missing: see the doctor" in text_of(web.get("/tasks/Billing"))


def test_an_unavailable_cluster_is_shown_and_the_last_sample_stays(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    main_records(web, 3)
    web.take_sample()
    away = BrokerError("no broker answers", Fault.UNAVAILABLE)

    def refuse(*args: object) -> object:
        raise away

    monkeypatch.setattr(type(web.yard.admin), "topic_names", refuse)
    web.yard.system.time += 60
    web.take_sample()
    page = text_of(web.get("/tasks/Billing"))
    assert "No new status for 1.0 minute. no broker answers" in page
    assert "updated 1.0 minute ago" in page
    assert "Billing has no new status" in text_of(web.get("/"))
    assert "no broker answers" in text_of(web.get("/tasks/Billing/waiting", 502))
    monkeypatch.undo()
    web.take_sample()
    assert "Not seen" not in text_of(web.get("/tasks/Billing"))


def test_a_cluster_that_neither_answers_nor_refuses_is_not_called_well(web: Web) -> None:
    web.take_sample()
    assert "Billing orders up to date" in text_of(web.get("/"))
    web.yard.system.time += 120
    assert "Billing orders unavailable" in text_of(web.get("/"))


def test_only_the_partitions_that_are_furthest_behind_are_listed() -> None:
    web = Web(partitions=250)
    web.yard.kit.write(ProducerRecord(b"v", b"k", [], 249), topic="orders")
    web.take_sample()
    page = text_of(web.get("/tasks/Billing"))
    assert "200 of 250: those with the largest lag" in page
    assert re.search(r"\b249 — 1 1\b", page)


# -- workers


def test_workers_are_shown_with_their_running_calls(web: Web) -> None:
    web.take_sample()
    assert "No worker reports. Start workers with flux process --report" in text_of(web.get("/workers"))
    web.report(Call(0, 17, "ada", 2, 65.0), host="alpha")
    web.take_sample()
    page = text_of(web.get("/workers"))
    assert "alpha pid 7, process 0 · flux 1.2" in page
    assert "80 MB" in page
    assert "1.1 minutes Billing orders[0]@17 ada 2 alpha pid 7" in page


def test_workers_are_shown_with_the_calls_of_these_tasks_alone_and_without_those_that_have_ended(web: Web) -> None:
    foreign = attrs.evolve(web.report_of(Call(0, 18, "eve", 1, 9.0)).stages[0], task="Other", topic="invoices")
    mine = web.report_of(Call(0, 0, "ada", 1, 65.0), Call(0, 1, "bea", 1, 70.0), done_rate=3.0)
    web.publish(attrs.evolve(mine, stages=(*mine.stages, foreign)))
    web.publish(attrs.evolve(mine, host="elsewhere", stages=(foreign,)))
    main_records(web, 2)
    web.yard.broker.set_committed_offset("billing", TopicPartition("orders", 0), CommittedOffset(1))
    web.take_sample()
    page = text_of(web.get("/workers"))
    assert "Processes 1 " in page
    assert "Other" not in page
    assert "eve" not in page
    assert "ada" not in page, "the group is past that record"
    assert "1.2 minutes Billing orders[0]@1 bea" in page
    assert " 3.0 0.5 1 1.2 minutes " in page, "of these tasks: rates, calls in flight, the longest"


def test_an_open_transaction_that_holds_records_back_is_named_with_what_to_do(web: Web) -> None:
    foreign = web.yard.adapter.transactions(TransactionSettings("foreign", timeout=1000.0))
    foreign.start(5)
    foreign.begin()
    foreign.write("orders", [ProducerRecord(b"v", partition=0)])
    foreign.flush(5)
    web.yard.system.time += 60
    web.take_sample()
    for path in ("/", "/tasks/Billing"):
        page = text_of(web.get(path))
        assert "held back" in page
        assert "orders[0] : an open transaction holds back all records from offset 0 on, for 1.1 minutes:" in page
        assert "describe-producers --topic orders --partition 0" in page


def test_a_task_that_is_paused_is_named_with_its_reason(web: Web) -> None:
    web.report(paused=Paused("ConnectionError", 90.0, 7.0))
    web.take_sample()
    for path, name in (("/", "Billing is paused"), ("/tasks/Billing", "Paused")):
        page = text_of(web.get(path))
        assert f"{name} for 1.5 minutes by ConnectionError on host pid 7 (process 0)" in page
        assert "Next try in 7 seconds." in page


def test_a_rate_that_somebody_has_set_is_named(web: Web) -> None:
    web.report(rate_set=RateSet(50.0, "ada<", None))
    web.take_sample()
    for path, name in (("/", "Billing: Rate limit"), ("/tasks/Billing", "Rate limit")):
        assert f"{name} : at most 50 calls a second, set by ada<, in 1 process" in text_of(web.get(path))


def test_a_host_whose_calls_are_paused_is_named_with_how_many_failed(web: Web) -> None:
    why = "9 of the last 9 calls failed"
    web.report(paused_names=(Paused("TooManyFailures", 90.0, 7.0, why=why, name="acme<"),))
    web.take_sample()
    page = text_of(web.get("/tasks/Billing"))
    shown = (
        "for 1.5 minutes by TooManyFailures on host pid 7 (process 0), calls for acme<: 9 of the last 9 calls failed."
    )
    assert shown in page


def test_a_partition_whose_processes_vanished_is_named(web: Web) -> None:
    stored = CommittedOffset(0, OffsetTracker(0).metadata(Mark(2, 7, 9)))
    web.yard.broker.set_committed_offset("billing", TopicPartition("orders", 0), stored)
    web.take_sample()
    for path, name in (("/", "Billing: orders[0]"), ("/tasks/Billing", "orders[0]")):
        page = text_of(web.get(path))
        assert f"{name} : 2 crashes: records below offset 9 are called alone; the record at offset 7" in page


def test_what_limits_hold_back_is_named_and_redacted_as_keys_are(web: Web) -> None:
    limited = (Limited("rate_limit_key", "acme<", 1800), Limited("pause_when", "down.example", 2))
    web.report(limited=limited, limited_records=1802)
    web.take_sample()
    page = text_of(web.get("/tasks/Billing"))
    assert "1,800 records of acme< (rate_limit_key), 2 records of down.example (pause_when)." in page
    hidden = Web(redact=redaction.hide)
    hidden.report(limited=limited, paused_names=(Paused("TooManyFailures", 90.0, 7.0, name="down.example"),))
    hidden.take_sample()
    page = text_of(hidden.get("/tasks/Billing"))
    assert ("acme" in page, "down.example" in page) == (False, False)
    assert "1,800 records of (hidden) (rate_limit_key)" in page


# -- waiting


def waiting_in(web: Web, seconds: float, offset: int, key: bytes = b"k") -> None:
    headers: list[tuple[str, bytes | None]] = [
        (flux_headers.DUE, str(NOW_MS + int(seconds * 1000)).encode()),
        (flux_headers.ATTEMPTS, b"1"),
        (flux_headers.ORIGIN_TOPIC, b"orders"),
        (flux_headers.ORIGIN_PARTITION, b"0"),
        (flux_headers.ORIGIN_OFFSET, str(offset).encode()),
        (flux_headers.ERROR_TYPE, b"Timeout"),
        (flux_headers.ERROR_MESSAGE, b"no answer"),
    ]
    web.yard.kit.write(ProducerRecord(b"v", key, headers, 0, NOW_MS), topic=RETRY)


def test_what_waits_is_listed_by_when_it_is_due(web: Web) -> None:
    for seconds, offset in ((5000, 3), (30, 1), (-5, 0), (300, 2), (40, 4)):
        waiting_in(web, seconds, offset)
    web.take_sample()
    page = text_of(web.get("/tasks/Billing/waiting"))
    assert "due now 1 within a minute 2 within 10 minutes 1 within an hour 0 within a day 1 later 0" in page
    order = re.findall(
        r"(now|in [\d.]+ \w+) 2\d{3}-[\d-]+ ([\d:]+)Z ([\d.]+ \w+) retry 1 k 2 Timeout: no answer 0:\d trace 0:(\d)",
        page,
    )
    assert [(due, wait, int(offset)) for due, _, wait, offset in order] == [
        ("now", "0 seconds", 0),
        ("in 30 seconds", "30 seconds", 1),
        ("in 40 seconds", "40 seconds", 4),
        ("in 5.0 minutes", "5.0 minutes", 2),
        ("in 1.4 hours", "1.4 hours", 3),
    ]
    moments = [int(at[-2:]) for _, at, _, _ in order]
    assert (moments[1] - moments[0]) % 60 == 35, "each with its own time"


def test_delayed_work_is_listed_with_its_id_and_without_what_it_replaced(web: Web) -> None:
    for name, kind in ((b"r-1", "flux-id"), (b"r-1", "flux-id"), (b"r-2", "flux-id"), (b"r-2", "flux-cancelled")):
        headers = [(flux_headers.ATTEMPTS, b"0"), (flux_headers.DUE, str(NOW_MS + 30_000).encode()), (kind, name)]
        web.yard.kit.write(ProducerRecord(b"v", b"k", headers, 0, NOW_MS), topic=RETRY)
    web.take_sample()
    page = text_of(web.get("/tasks/Billing/waiting"))
    assert "within a minute 1" in page
    assert "k id r-1 Cancel it 1" in page
    assert "r-2" not in page


def test_what_is_done_does_not_wait(web: Web) -> None:
    for offset in range(3):
        waiting_in(web, 30, offset)
    position = CommittedOffset(1, OffsetTracker(1, [(2, 3)]).metadata())
    web.yard.broker.set_committed_offset("billing-1", TopicPartition(RETRY, 0), position)
    web.take_sample()
    assert "within a minute 1" in text_of(web.get("/tasks/Billing/waiting"))


def test_waiting_records_are_read_once_for_all_visitors(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting_in(web, 30, 0)
    web.get("/tasks/Billing/waiting")

    def refuse(*args: object) -> object:
        raise AssertionError("read again")

    monkeypatch.setattr("flux.web.page_context.summarize", refuse)
    web.get("/tasks/Billing/waiting")
    web.yard.system.time += 6
    web.get("/tasks/Billing/waiting", 500)


# -- dead letters


def test_causes_come_first_the_most_frequent_on_top(web: Web) -> None:
    web.yard.bury({"text": "no customer 17"}, {"error": "KeyError", "text": "'x'"}, {"text": "no customer 4711"})
    page = text_of(web.get("/tasks/Billing/dead-letters"))
    assert "Causes 2 3 open" in page
    assert page.index("ValueError no customer #") < page.index("KeyError #")


def test_dead_letters_are_filtered(web: Web) -> None:
    web.yard.bury({"text": "a"}, {"error": "KeyError"}, {"reason": "rejected"})
    web.yard.bury({}, key=b"eve")
    for query, places in (
        ("key=eve", ["0:3"]),
        ("error=key*", ["0:1"]),
        ("reason=rejected", ["0:2"]),
        ("since=7d", ["0:0", "0:1", "0:2", "0:3"]),
        ("since_ms=99999999999999", []),
        ("cause=ffffffff", []),
    ):
        page = web.get(f"/tasks/Billing/dead-letters?{query}")
        assert sorted(set(re.findall(r"/dead-letters/0/\d\">(0:\d)<", page))) == places, query
    for query in ("cause=x", "since=soon", "before=x", "since_ms=x"):
        web.get(f"/tasks/Billing/dead-letters?{query}", 409)


def test_pages_of_dead_letters_have_each_of_them_once_the_newest_first() -> None:
    web = Web(partitions=3)
    web.yard.bury(*({"at": number % 3} for number in range(2 * PAGE + 10)))
    found, path = [], "/tasks/Billing/dead-letters"
    while path:
        page = web.get(path)
        found += re.findall(r">(\d:\d+)</a></th>", page)
        older = re.search(r'href="([^"]*)">Older', page)
        path = older[1].replace("&amp;", "&") if older else ""
    assert len(found) == len(set(found)) == 2 * PAGE + 10
    assert found[:3] == ["1:36", "0:36", "2:35"]


def test_a_dead_letter_shows_all_of_it(web: Web) -> None:
    web.yard.bury({}, value=b'{"amount": 7}', key=b"ada")
    page = text_of(web.get("/tasks/Billing/dead-letters/0/0"))
    for part in ("ValueError no customer 17", 'billing.py", line 17, in call', '"amount": 7', "ada", "orders[0]@1000"):
        assert part in page
    assert "own header" in page, "headers of the record's own"
    assert "flux-origin" not in page


def test_a_task_that_never_had_dead_letters_says_so(web: Web) -> None:
    web.yard.admin.delete_topics([DEAD], 1)
    assert f"There is no topic {DEAD}" in text_of(web.get("/tasks/Billing/dead-letters"))


def test_a_form_to_replay_carries_its_filter(web: Web) -> None:
    web.yard.bury({}, {"error": "KeyError"})
    page = web.get("/tasks/Billing/dead-letters/replay?error=Key*&since=7d")
    fields = fields_of(page)
    assert fields["error"] == "Key*"
    assert int(fields["since_ms"]) == NOW_MS - 7 * 86_400_000
    assert "no earlier replay found" in text_of(page)


# -- records


def test_a_record_is_shown_with_what_its_group_has_made_of_it(web: Web) -> None:
    main_records(web, 3)
    web.yard.broker.set_committed_offset("billing", TopicPartition("orders", 0), CommittedOffset(1))
    assert "main orders[0]@0 passed" in text_of(web.get("/tasks/Billing/records/0/0/0"))
    page = web.get("/tasks/Billing/records/0/0/1")
    assert "main orders[0]@1 not done" in text_of(page)
    assert all(part in text_of(page) for part in ("ada-1", "value", "Offsets of its partition 0 to 2"))
    assert "/records/0/0/0" in page
    assert "/records/0/0/2" in page
    waiting_in(web, 30, 7)
    page = text_of(web.get("/tasks/Billing/records/1/0/0"))
    assert "retry 1 orders-billing-try-1[0]@0 due in 30 seconds" in page
    assert "Timeout no answer" in page
    assert "orders[0]@7" in page
    assert "Wait 30 seconds" in page
    assert "there is no record at 0:3 of orders" in text_of(web.get("/tasks/Billing/records/0/0/3", 409))
    for path in ("/tasks/Billing/records/3/0/0", "/tasks/Billing/records/9/0/0", "/tasks/Billing/records/x/0/0"):
        web.get(path, 404)


# -- trace and doctor


def test_a_trace_by_origin_leads_to_the_dead_letter(web: Web) -> None:
    main_records(web, 1)
    web.yard.broker.set_committed_offset("billing", TopicPartition("orders", 0), CommittedOffset(1))
    headers = [(name, value) for name, value in _headers() if name != flux_headers.ORIGIN_OFFSET]
    web.yard.kit.write(
        ProducerRecord(b"v", b"ada-0", [*headers, (flux_headers.ORIGIN_OFFSET, b"0")], 0, NOW_MS), topic=DEAD
    )
    page = web.get("/tasks/Billing/trace?origin=0:0")
    assert "Now: a dead letter at 0:0 since" in text_of(page)
    assert "/tasks/Billing/dead-letters/0/0" in page
    assert "Now: a dead letter" in text_of(web.get("/tasks/Billing/trace?key=ada-0&since=30d"))
    assert "Nothing found in" in text_of(web.get("/tasks/Billing/trace?key=nobody"))
    assert "does not have 0:5" in text_of(web.get("/tasks/Billing/trace?origin=0:5"))
    assert "is not PARTITION:OFFSET" in text_of(web.get("/tasks/Billing/trace?origin=x"))


def _headers() -> list[tuple[str, bytes | None]]:
    from unit.support.operate_support import headers_of

    return headers_of()


def test_the_doctor_names_what_is_wrong_and_what_was_not_checked(web: Web) -> None:
    web.yard.admin.delete_topics([RETRY], 1)
    page = text_of(web.get("/tasks/Billing/doctor"))
    assert f"topics {RETRY}" in page
    assert "the clocks' difference" in page


# -- redaction


def test_a_redaction_function_decides_about_every_part_that_came_from_a_record() -> None:
    seen: set[tuple[str, str]] = set()

    def redact(part: RecordPart) -> bytes | str | None:
        seen.add((part.what, part.name))
        return "***" if part.what == "value" else None

    web = Web(redact=redact)
    secret = "SECRET"
    web.yard.bury(
        {"text": secret, "trace": f'  File "{secret}.py", line 1, in x\n'}, key=secret.encode(), value=b"SECRET"
    )
    waiting_in(web, 30, 0, key=b"SECRET")
    web.yard.kit.write(ProducerRecord(b"SECRET", b"SECRET", [], 0, NOW_MS), topic="orders")
    web.report(Call(0, 0, secret, 1, 60.0))
    web.take_sample()
    pages = ["/", "/workers", "/tasks/Billing", "/tasks/Billing/waiting", "/tasks/Billing/dead-letters"]
    pages += ["/tasks/Billing/dead-letters/0/0", "/tasks/Billing/trace?origin=0:0", "/tasks/Billing/records/0/0/0"]
    for path in pages:
        page = web.get(path)
        assert secret not in page.replace("SECRET.py in x", ""), path
    assert "***" in text_of(web.get("/tasks/Billing/dead-letters/0/0"))
    assert {("value", ""), ("key", ""), ("error", ""), ("header", "own")} <= seen
    assert "redacted" in text_of(web.get("/"))


def test_a_redaction_function_that_fails_hides() -> None:
    def fail(part: RecordPart) -> str:
        raise ZeroDivisionError

    web = Web(redact=fail)
    web.yard.bury({}, value=b"SECRET")
    assert "SECRET" not in web.get("/tasks/Billing/dead-letters/0/0")


def test_what_is_redacted_is_not_exported() -> None:
    web = Web(redact=redaction.hide)
    web.yard.bury({})
    assert "/export" not in web.get("/tasks/Billing/dead-letters")
    web.post("/tasks/Billing/dead-letters/export", code=403)


# -- schedules


def test_a_task_shows_its_schedules() -> None:
    web = Web()
    schedule = Schedule("hourly", "every 3600 s", interval(3_600_000))
    [watch] = web.context.watches.values()
    watch.task = attrs.evolve(watch.task, schedules=[schedule])
    tick = (NOW_MS // 3_600_000 + 1) * 3_600_000
    headers = [(flux_headers.ATTEMPTS, b"0"), (flux_headers.DUE, b"%d" % tick), (flux_headers.TICK, b"%d" % tick)]
    headers += [(flux_headers.LAST_TICK, b"%d %d" % (tick - 3 * 3_600_000, tick - 3_600_000 - 1))]
    headers += [(flux_headers.SCHEDULE, schedule.title.encode())]
    web.yard.kit.write(ProducerRecord(b"v", b"k", headers, 0, NOW_MS), topic=RETRY)
    web.take_sample()
    page = text_of(web.get("/tasks/Billing"))
    assert "Schedule When Next tick Last tick Missed hourly every 3600 s in" in page
    assert "2.0 hours late 1 missed" in page
    web.yard.system.time += 7200
    web.take_sample()
    assert "hourly every 3600 s due for" in text_of(web.get("/tasks/Billing"))
