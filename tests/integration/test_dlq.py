"""`flux dlq` on a real Kafka, with either client: as processes, the way somebody on call runs it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
from confluent_kafka import Producer

from flux.adapters.confluent import ConfluentAdapter
from flux.core.ports import CommittedOffset, ConsumerSettings, TopicPartition
from integration import shop as shops
from integration.shop import SCHEMES, SECONDS

MEASURED = """
import sys
from flux.cli.main import main

try:
    main()
finally:
    try:
        with open("/proc/self/status") as status:  # not getrusage: that counts the parent's memory too
            peak = next(line.split()[1] for line in status if line.startswith("VmHWM"))
    except OSError:
        peak = 0
    print("peak kB", peak, file=sys.stderr)
"""

TASK = """
import os
import flux

class Billing(flux.Task):
    topic, group_id = "{topic}", "{group}"
    retries, wait, offset_commit_interval = 1, 0.1, 0.2

    def call(self, message):
        number = int(message.value)
        with open("{calls}", "a") as calls:
            calls.write(f"{{number}} {{message.stage}} {{message.attempt}} {{message.delivery_id}}\\n")
        if os.path.exists("{mended}"):
            return
        if number % 3:
            raise ValueError(f"no customer {{number}}")
        raise flux.Reject(f"order {{number}} is closed")
"""


@attrs.define
class Ended:
    code: int
    stdout: str
    stderr: str
    peak_mb: float
    """The most memory that the process held; 0 where that cannot be told."""


@attrs.define
class Shop(shops.Shop):
    partitions: int

    def __attrs_post_init__(self) -> None:
        self.open(TASK)

    def __call__(self, name: str, *args: str) -> Ended:
        """`flux dlq NAME ARGS`, to its end."""
        process = subprocess.run(
            [sys.executable, "-c", MEASURED, "dlq", name, *self.options, *args],
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        stderr, _, peak = process.stderr.rpartition("peak kB ")
        return Ended(process.returncode, process.stdout, stderr, int(peak or 0) / 1024)

    def work(self) -> None:
        """Until there is nothing left to do."""
        done = self.start("process", *self.options, "--exit-when-idle", "1", "--create-topics", "Billing")
        out, err = done.communicate(timeout=SECONDS)
        assert done.returncode == 0, out + err

    def produce(self, count: int) -> None:
        self.write(self.topic, [(b"%d" % number, b"key-%d" % number, []) for number in range(count)])

    def write(self, topic: str, records: Sequence[tuple[bytes, bytes, Any]]) -> None:
        producer = Producer({"bootstrap.servers": self.bootstrap, "queue.buffering.max.messages": 500_000})
        for number, (value, key, headers) in enumerate(records):
            producer.produce(topic, value, key, number % self.partitions, headers=headers)
        assert producer.flush(SECONDS) == 0

    def held(self, topic: str) -> int:
        marks = ConfluentAdapter(self.bootstrap).admin().watermarks(topic, SECONDS)
        return sum(mark.high - mark.low for mark in marks.values())

    def positions(self) -> dict[int, CommittedOffset]:
        return ConfluentAdapter(self.bootstrap).admin().committed_offsets(f"{self.group}-replay", self.dead, SECONDS)


@pytest.fixture(params=SCHEMES)
def shop(
    request: pytest.FixtureRequest, bootstrap: str, group: str, make_topic: Callable[..., str], tmp_path: Path
) -> Shop:
    return Shop(bootstrap, request.param, make_topic(2), group[:9], tmp_path, 2)


def test_from_the_first_look_to_the_last_letter_done(shop: Shop) -> None:
    shop.produce(30)
    shop.work()
    told = shop("causes", "--json", "Billing")
    assert told.code == 0, told.stderr
    causes = [json.loads(line) for line in told.stdout.splitlines()]
    assert [(row["count"], row["error_type"], row["message"]) for row in causes] == [
        (20, "ValueError", "no customer #"),
        (10, "flux.Reject", "order # is closed"),
    ]
    assert "billing.py in call" in causes[0]["place"]

    listed = [
        json.loads(line) for line in shop("list", "--json", "--limit", "0", "--reason", "rejected").stdout.splitlines()
    ]
    assert len(listed) == 10
    assert {(row["reason"], row["attempts"]) for row in listed} == {("rejected", 1)}
    place = f"{listed[0]['partition']}:{listed[0]['offset']}"
    shown = shop("show", "Billing", place).stdout
    assert listed[0]["id"].replace("/", "[", 1).replace("/", "]@", 1) in shown
    assert "flux.Reject: order " in shown

    shop.mended.touch()
    shop.calls.write_text("")
    first = shop("replay", "--cause", causes[0]["cause"])
    assert (first.code, first.stdout) == (0, f"replayed 20 dead letters to {shop.retry}; 10 did not match\n"), (
        first.stderr
    )
    rest = shop("replay", "Billing")
    assert (rest.code, rest.stdout) == (0, f"replayed 10 dead letters to {shop.retry}; 20 replayed before\n")
    assert shop("replay").stdout == f"replayed 0 dead letters to {shop.retry}\n"

    shop.work()
    calls = [line.split() for line in shop.calls.read_text().splitlines()]
    assert Counter(int(number) for number, *_ in calls) == Counter(range(30))
    assert {(stage, attempt) for _, stage, attempt, _ in calls} == {("1", "1")}
    assert all(re.fullmatch(rf"{shop.topic}/[01]/\d+/1/1", forward) for *_, forward in calls), calls
    assert shop.held(shop.dead) == 30

    purged = shop("purge", "--replayed", "--yes")
    assert (purged.code, purged.stdout) == (0, f"deleted 30 dead letters of {shop.dead}\n")
    assert shop("list").stdout == f"no dead letters in {shop.dead}\n"


def test_dead_letters_are_decided_one_by_one(shop: Shop, read_all: Callable[..., list[Any]]) -> None:
    shop.produce(8)
    shop.work()

    def listed() -> list[dict[str, Any]]:
        rows = [json.loads(line) for line in shop("list", "--json").stdout.splitlines()]
        return sorted(rows, key=lambda row: (row["partition"], row["offset"]))

    places = [f"{row['partition']}:{row['offset']}" for row in listed()]
    first, edited, rejected, last, *rest = places

    chosen = shop("replay", "--only", first, "--only", last)
    assert (chosen.code, chosen.stdout) == (0, f"replayed 2 dead letters to {shop.retry}\n"), chosen.stderr
    (shop.directory / "value").write_bytes(b"6")
    done = shop("edit", "Billing", edited, "--key", "other", "--value", "value", "--header", "a=1", "--by", "ada")
    assert (done.code, done.stdout) == (0, f"replayed 1 dead letter to {shop.retry}\n"), done.stderr
    assert shop("reject", "--only", rejected, "--why", "closed").stdout == f"rejected 1 dead letter of {shop.dead}\n"
    assert shop("replay", "--only", first).stdout.endswith("; 1 replayed before\n")
    states = [row["state"] for row in listed()]
    assert states == ["replayed", "replayed", "rejected", "replayed"] + ["open"] * len(rest)
    [copy] = [record for record in read_all(shop.retry) if record.key() == b"other"]
    assert (copy.value(), dict(copy.headers())["a"]) == (b"6", b"1")

    assert shop("replay").stdout == f"replayed 4 dead letters to {shop.retry}; 3 replayed before; 1 rejected\n"
    history = [json.loads(line) for line in shop("history", "--json").stdout.splitlines()]
    assert [(row["action"], row["places"]) for row in history] == [
        ("replay", [first, last]),
        ("edit", [edited]),
        ("reject", [rejected]),
        ("replay", [first]),
        ("replay", []),
    ]
    assert history[1]["by"] == "ada"
    refused = shop("purge", "--all", "--count", "7")
    assert (refused.code, "there are 8 dead letters" in refused.stderr) == (1, True)
    assert shop("purge", "--all", "--count", "8").code == 0


def test_what_fails_again_is_dead_again_and_stops_the_third_replay(shop: Shop) -> None:
    shop.produce(4)
    shop.work()
    for replayed in range(2):
        assert shop("replay", "--max-replays", "2").code == 0
        shop.work()
        rows = [json.loads(line) for line in shop("list", "--json").stdout.splitlines()]
        assert len(rows) == 4 * (replayed + 2)
        assert Counter(row["id"] for row in rows) == Counter({row["id"]: replayed + 2 for row in rows})
    last = shop("replay", "--max-replays", "2")
    assert (last.code, last.stdout) == (1, f"replayed 0 dead letters to {shop.retry}\n")
    assert "was replayed 2 times and failed again" in last.stderr


def test_replay_to_main_is_new_work_for_every_group(shop: Shop, read_all: Callable[..., list[Any]]) -> None:
    shop.produce(6)
    shop.work()
    assert shop("replay", "--to", "main").code == 0
    before, after = read_all(shop.topic)[:3], read_all(shop.topic)[3:6]
    assert [(m.partition(), m.key()) for m in before] == [(m.partition(), m.key()) for m in after]
    assert [m.headers() for m in after] == [None] * 3


def test_members_of_the_dead_letters_own_stage_are_in_the_way(shop: Shop) -> None:
    shop.produce(2)
    shop.work()

    class Listener:
        owned = 0

        def assigned(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
            self.owned += len(partitions)
            return dict.fromkeys(partitions, 0)

        def revoked(self, partitions: object) -> None: ...
        def lost(self, partitions: object) -> None: ...

    listener = Listener()
    member = ConfluentAdapter(shop.bootstrap).consumer(ConsumerSettings(shop.dead, f"{shop.group}-2"), listener)
    until = time.monotonic() + SECONDS
    while not listener.owned:
        member.poll(1, 0.2)
        assert time.monotonic() < until
    refused = shop("replay")
    assert (refused.code, "add --force" in refused.stderr) == (1, True)
    assert shop.held(shop.retry) == 0 or "replayed" not in refused.stdout
    assert shop("replay", "--force").code == 0
    member.close()


def test_export_and_import_keep_every_byte(shop: Shop, read_all: Callable[..., list[Any]]) -> None:
    shop.work()
    raw = bytes(range(256))
    shop.write(shop.dead, [(raw, b"\xff\x00", [("a", b"\xfe"), ("a", None), ("ä", b"")]), (b"", b"", [])])
    before = [(m.partition(), m.key(), m.value(), m.headers(), m.timestamp()) for m in read_all(shop.dead)]
    assert shop("export", "--output", "out.jsonl").code == 0
    assert shop("purge", "--all", "--yes").code == 0
    done = shop("import", "Billing", "out.jsonl")
    assert (done.code, done.stdout) == (0, f"2 imported to {shop.dead}\n"), done.stderr
    after = [(m.partition(), m.key(), m.value(), m.headers(), m.timestamp()) for m in read_all(shop.dead)]
    assert after == before


MANY = 100_000
FEW = 1_000
ROOM_MB = 60
"""What reading ahead may take: far less than `MANY` letters."""


def letters(count: int, group: str) -> list[tuple[bytes, bytes, Any]]:
    """As flux writes them, of three causes, about 1 KB each."""
    trace = b'  File "/srv/app/billing.py", line 17, in call\n    charge(message)\n' * 6
    now = int(time.time() * 1000)
    made = []
    for number in range(count):
        kind = number % 10
        error, text = (
            ("ValueError", f"no customer {number}")
            if kind < 7
            else ("TimeoutError", f"no answer from 10.0.0.{number % 256}:{number % 60000}")
            if kind < 9
            else ("KeyError", f"'order-{number}'")
        )
        headers = {
            "flux-stage": "2",
            "flux-attempts": "2",
            "flux-group": group,
            "flux-origin-topic": "orders",
            "flux-origin-partition": "0",
            "flux-origin-offset": str(number),
            "flux-first-failed-at": str(now),
            "flux-failed-at": str(now),
            "flux-reason": "exhausted",
            "flux-error-type": error,
            "flux-error-message": text,
        }
        pairs = [(name, value.encode()) for name, value in headers.items()]
        made.append((b"%d" % number, b"key-%d" % (number % 1000), [*pairs, ("flux-error-trace", trace)]))
    return made


@pytest.mark.timeout(300)
def test_a_hundred_thousand_are_read_grouped_and_replayed_in_bounded_memory(shop: Shop) -> None:
    shop.work()
    shop.write(shop.dead, letters(FEW, shop.group))
    small = {name: shop(name, *args) for name, args in (("list", ["--limit", "0"]), ("causes", []))}
    small["replay"] = shop("replay")
    assert small["replay"].stdout == f"replayed 1,000 dead letters to {shop.retry}\n"

    shop.write(shop.dead, letters(MANY, shop.group))
    took: dict[str, float] = {}

    def timed(name: str, *args: str) -> Ended:
        began = time.monotonic()
        ended = shop(name, *args)
        took[name] = time.monotonic() - began
        assert ended.code == 0, ended.stderr
        grown = ended.peak_mb - small[name].peak_mb
        print(f"{shop.scheme} {name}: {took[name]:.1f} s, {ended.peak_mb:.0f} MB ({grown:+.0f})")
        assert grown < ROOM_MB, f"{name} holds {ended.peak_mb:.0f} MB, for few letters {small[name].peak_mb:.0f}"
        return ended

    assert len(timed("list", "--limit", "0").stdout.splitlines()) == MANY + FEW + 2
    text = timed("causes").stdout
    assert text.splitlines()[-1] == "101,000 dead letters, 3 causes"
    assert "70,700" in text

    began = time.monotonic()
    replaying = shop.start("dlq", "replay", *shop.options)
    while shop.held(shop.retry) < FEW + 5_000:
        assert time.monotonic() - began < SECONDS
        assert replaying.poll() is None, "it ended before it was interrupted"
    replaying.send_signal(signal.SIGINT)
    out, err = replaying.communicate(timeout=SECONDS)
    assert replaying.returncode == 130, err
    assert "interrupted; the next replay continues there" in err
    there = shop.held(shop.retry)
    assert there < MANY + FEW
    assert out == f"replayed {there - FEW:,} dead letters to {shop.retry}\n"
    assert sum(position.offset for position in shop.positions().values()) == there

    rest = timed("replay")
    assert rest.stdout == f"replayed {MANY + FEW - there:,} dead letters to {shop.retry}\n"
    assert shop.held(shop.retry) == MANY + FEW


def test_a_replay_that_is_killed_loses_nothing_and_repeats_little(
    shop: Shop, read_all: Callable[..., list[Any]]
) -> None:
    shop.work()
    count, rate = 6_000, 500
    shop.write(shop.dead, letters(count, shop.group))
    replaying = shop.start("dlq", "replay", *shop.options, "--rate", str(rate))
    until = time.monotonic() + SECONDS
    while not shop.positions():  # the first ones are committed after some seconds
        assert time.monotonic() < until
        assert replaying.poll() is None, replaying.communicate()
        time.sleep(0.1)
    replaying.kill()
    replaying.communicate(timeout=SECONDS)
    there, known = shop.held(shop.retry), sum(position.offset for position in shop.positions().values())
    assert 0 < known <= there < count
    rest = shop("replay")
    assert rest.stdout == f"replayed {count - known:,} dead letters to {shop.retry}\n"
    copies = Counter(dict(message.headers())["flux-origin-offset"] for message in read_all(shop.retry))
    assert len(copies) == count
    assert copies.total() - count <= 10 * rate, "more than what the last seconds wrote came again"
