"""Plays one sequence on the in-memory broker, and the same concrete steps on the other subjects."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from operator import methodcaller
from typing import Any

from proof.model.freedoms import eased
from proof.model.steps import (
    MOST_PARTITIONS,
    AddPartition,
    Commit,
    CommitFromOutside,
    DeleteRecords,
    Drain,
    Join,
    Leave,
    Look,
    Pause,
    Produce,
    Read,
    Recreate,
    Resume,
    Seek,
    StaleCommit,
    Step,
    Transact,
    place,
)
from proof.model.subject import Subject

PARTITIONS = 2

Action = tuple[str, Callable[[Subject], Any]]


def concrete(steps: Sequence[Step], model: Subject) -> Iterator[Action]:
    """The actions that a sequence stands for, one at a time: each is to be performed on the model before the next is
    asked for. A step that makes no sense where it stands gives none."""
    for step in steps:
        yield from _concrete(step, model)


def _concrete(step: Step, model: Subject) -> Iterator[Action]:
    count = model.partitions
    match step:
        case Produce(None, drafts):
            keyed = tuple(draft for draft in drafts if draft.key is not None)
            if keyed:
                yield f"produce {keyed} by key", lambda subject: subject.produce(None, keyed)
        case Produce(int(target), drafts):
            yield (
                f"produce {drafts} to {target % (count + 1)}",
                lambda subject: subject.produce(target % (count + 1), drafts),
            )
        case Transact(values, partition, number, commits):
            mark = _at(model, partition, number) if model.members else None
            yield f"transact {values} and {mark}: {commits}", lambda subject: subject.transact(values, mark, commits)
            if model.members:
                yield "ask for the committed offsets", methodcaller("member_committed")
        case Join(number) if number not in model.members:
            yield from _settled(model)
            yield f"member {number} joins", lambda subject: subject.join(number)
            yield "drain", methodcaller("drain")
        case Leave(number, commits) if number in model.members:
            yield from _settled(model, commits or len(model.members) > 1)
            yield f"member {number} leaves", lambda subject: subject.leave(number)
        case Drain():
            yield "drain", methodcaller("drain")
        case Pause(partition) if model.members:
            yield "drain", methodcaller("drain")
            yield f"pause {partition % count}", lambda subject: subject.pause(partition % count)
        case Resume(partition) if model.members:
            yield f"resume {partition % count}", lambda subject: subject.resume(partition % count)
        case Seek(partition, number) if model.members:
            yield "drain", methodcaller("drain")
            number, offset = _at(model, partition, number)
            beyond = offset > model.watermarks()[number][1]
            yield f"seek {number} to {offset}", lambda subject: subject.seek(number, offset)
            if beyond:
                # else it depends on the moment of a fetch whether the next records make the offset exist
                if number in model.paused:
                    yield f"resume {number}", lambda subject: subject.resume(number)
                yield "drain", methodcaller("drain")
        case Commit(partition, number, metadata, waits) if model.members:
            number, offset = _at(model, partition, number)
            yield (
                f"commit {offset} of {number} with {len(metadata)} characters",
                lambda subject: subject.commit(number, offset, metadata, waits),
            )
            yield "ask for the committed offsets", methodcaller("member_committed")
        case StaleCommit():
            yield from _settled(model)
            offsets = {number: marks[0] for number, marks in model.watermarks().items()}
            yield "a member is late and commits", lambda subject: subject.expire(offsets)
        case CommitFromOutside(partition, number):
            number, offset = _at(model, partition, number)
            name = f"commit {offset} of {number} from outside"
            yield name, lambda subject: subject.commit_from_outside(number, offset)
        case DeleteRecords(partition, number):
            # what a client has fetched ahead it may still deliver: see the freedoms
            yield from _settled(model)
            number, offset = _at(model, partition, number)
            yield f"delete the records of {number} before {offset}", lambda each: each.delete_records(number, offset)
        case AddPartition() if count < MOST_PARTITIONS:
            yield from _settled(model)
            yield "add a partition", methodcaller("grow")
        case Recreate() if not model.members:
            yield "delete the topic and make it again", lambda subject: subject.recreate(PARTITIONS)
        case Read(partition, number):
            number, offset = _at(model, partition, number)
            yield f"read {number} from {offset}", lambda subject: subject.read(number, offset)
        case Look(at):
            yield f"look, and at time {at}", lambda subject: subject.look(at)


def _at(model: Subject, partition: int, number: int) -> tuple[int, int]:
    partition %= model.partitions
    return partition, place(number, *model.watermarks()[partition])


def _settled(model: Subject, commits: bool = True) -> Iterator[Action]:
    """All is consumed and committed, so that it does not matter who gets which partition."""
    if not model.members:
        return
    for number in sorted(model.paused):
        yield f"resume {number}", lambda subject, number=number: subject.resume(number)  # type: ignore[misc]
    yield "drain", methodcaller("drain")
    if commits:
        yield "commit what was consumed", methodcaller("commit_all")


class Differs(AssertionError):
    """What a subject returned is not what the in-memory broker returned."""


def record(steps: Sequence[Step], model: Subject) -> list[tuple[str, Callable[[Subject], Any], Any]]:
    """The actions with what the in-memory broker returned for each."""
    played = []
    for name, action in concrete(steps, model):
        played.append((name, action, action(model)))
    return played


def replay(played: Sequence[tuple[str, Callable[[Subject], Any], Any]], subject: Subject, name: str) -> None:
    """Raises Differs at the first action for which `subject` returns something else."""
    done: list[str] = []
    for told, action, expected in played:
        done.append(told)
        try:
            found = action(subject)
        except Exception as error:
            where = " < ".join(frame.name for frame in reversed(traceback.extract_tb(error.__traceback__)[1:]))
            raise Differs(f"{name}: {type(error).__name__}: {error} ({where})\n" + "\n".join(done)) from error
        if eased(found) != eased(expected):
            history = "\n  ".join(done)
            raise Differs(f"{name} returned\n  {found}\nmemory returned\n  {expected}\nafter\n  {history}")
