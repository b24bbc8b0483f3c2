"""Sound histories, drawn by a seed: what a library that does everything right may do, repeats and all."""

from __future__ import annotations

import base64
import random
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator

import attrs

from proof.history.events import Began, Committed, Died, Ended, Event, Moment, Output, Produced, Stored

RECORDS = 120
PARTITIONS = 3
DEAD = 3
WAIT = 0.2
_EPOCH = 1_800_000_000_000  # ms, by the wall clock at the start


@attrs.frozen
class _Record:
    id: int
    offset: int
    key: str | None
    due: int = 0


def target(id: int, stage: int) -> int | None:
    """Where a record goes after a call in this stage."""
    match id % 10:
        case 3:
            return DEAD
        case 4 | 5:
            return None if stage else 1
        case 6:
            return stage + 1
        case _:
            return None


def output(id: int) -> bool:
    return id % 10 in (4, 7)


def sound(seed: int) -> list[Event]:
    return _World(random.Random(seed)).events


class _World:
    def __init__(self, chance: random.Random) -> None:
        self.events: list[Event] = []
        self._chance = chance
        self._ms = 0.0
        self._calls = 0
        self._logs: defaultdict[tuple[int, int], list[_Record]] = defaultdict(list)
        for id in range(RECORDS):
            key = None if chance.random() < 0.2 else f"k{chance.randrange(4)}"
            partition = zlib.crc32(key.encode()) % PARTITIONS if key else chance.randrange(PARTITIONS)
            record = self._append(0, partition, id, key)
            self.events.append(Produced(id, partition, record.offset, self._moment()))
        for stage in range(DEAD):
            self._ms += 5_000
            for partition in range(PARTITIONS):
                self._work(stage, partition)

    def _moment(self, after: float = 0.0) -> Moment:
        self._ms += after
        return Moment(int((_EPOCH + self._ms) * 1_000_000), int(self._ms * 1_000_000))

    def _append(self, stage: int, partition: int, id: int, key: str | None, due: int = 0) -> _Record:
        log = self._logs[stage, partition]
        gap = self._chance.choice([1, 1, 1, 2, 5])  # of transactions' markers and aborted records
        log.append(_Record(id, log[-1].offset + gap if log else self._chance.randrange(3), key, due))
        self.events.append(Stored(id, stage, partition, log[-1].offset, self._stamp(), stage == DEAD))
        return log[-1]

    def _stamp(self) -> int:
        return _EPOCH + int(self._ms)

    def _work(self, stage: int, partition: int) -> None:
        """By one owner after the other; each begins where the one before has committed."""
        done: set[int] = set()
        pid = 100 * stage + 10 * partition
        log = sorted(self._logs[stage, partition], key=lambda record: (record.due, record.offset))
        while len(done) < len(log):
            pid += 1
            done = self._own(pid, stage, partition, log, done)

    def _own(self, pid: int, stage: int, partition: int, log: list[_Record], done: set[int]) -> set[int]:
        """What is committed when this owner goes, in good order or not."""
        committed, done = done, set(done)
        todo = [record for record in log if record.offset not in done]
        kept = self._chance.randrange(len(todo) // 2, len(todo) + 8)
        running: list[tuple[_Record, int]] = []
        for record in todo[:kept]:
            busy = [each for each in running if each[0].key == record.key and record.key is not None]
            for each in busy or running[: self._chance.randrange(2) + len(running) - 2]:
                self._end(pid, stage, partition, *each, done)
                running.remove(each)
            running.append((record, self._begin(pid, stage, partition, record)))
            if self._chance.random() < 0.2:
                self._commit(stage, partition, log, done)
                committed = set(done)
        if self._chance.random() < 0.5 and kept < len(todo):
            self.events.append(Died(pid, self._moment(1)))
            self._ms += 6_000
            return committed
        for each in running:
            self._end(pid, stage, partition, *each, done)
        self._commit(stage, partition, log, done)
        return done

    def _begin(self, pid: int, stage: int, partition: int, record: _Record) -> int:
        self._calls += 1
        place = stage, partition, record.offset, record.key, record.due
        self.events.append(Began(self._calls, pid, record.id, *place, self._moment(self._chance.random() * 3)))
        return self._calls

    def _end(self, pid: int, stage: int, partition: int, record: _Record, call: int, done: set[int]) -> None:
        id, then = record.id, target(record.id, stage)
        after = WAIT / 2 if id % 10 == 5 else WAIT
        at = self._moment(self._chance.random() * 5)
        self.events.append(Ended(call, pid, "done" if then is None else "failed", then, after, output(id), at))
        self._ms += 1
        if then is None:
            if output(id):
                self.events.append(Output(id, self._stamp()))
        else:
            due = at.wall // 1_000_000 + int(after * 1000) + 1
            self._append(then, partition, id, record.key, due)
        done.add(record.offset)
        self._ms += 1

    def _commit(self, stage: int, partition: int, log: list[_Record], done: set[int]) -> None:
        offsets = sorted(record.offset for record in log)
        undone = [offset for offset in offsets if offset not in done]
        offset = min(undone, default=offsets[-1] + 1)
        above = [(each, each + 1) for each in offsets if each in done and each > offset]
        self._ms += 1
        text = metadata(offset, above, bits=self._chance.random() < 0.5)
        self.events.append(Committed(stage, partition, offset, text, self._stamp()))
        self._ms += 1


def metadata(offset: int, done: list[tuple[int, int]], bits: bool) -> str:
    if not done:
        return ""
    if bits:
        number = sum(((1 << (end - start)) - 1) << (start - offset) for start, end in done)
        payload = number.to_bytes((number.bit_length() + 7) // 8, "little")
    else:
        payload = bytes(_lengths(offset, done))
    kind = "b" if bits else "r"
    crc = zlib.crc32(f"{offset}:{kind}".encode() + payload)
    return f"flux1{kind}.{crc:08x}.{base64.urlsafe_b64encode(payload).decode().rstrip('=')}"


def _lengths(offset: int, done: list[tuple[int, int]]) -> Iterator[int]:
    last = offset
    for start, end in done:
        for length in (start - last, end - start):
            rest = length
            while rest > 127:
                yield rest & 127 | 128
                rest >>= 7
            yield rest
        last = end


def repeats(events: list[Event]) -> int:
    """Calls beyond the first of each record in each stage."""
    made = Counter((event.id, event.stage) for event in events if isinstance(event, Began))
    return sum(count - 1 for count in made.values())
