"""A command to the running workers of a task, and a worker's answer: JSON objects in two topics of the cluster.

Commands are in a compacted topic. Those that may still hold share a key, so the topic keeps the last of each kind for
each task and stage. Answers have a topic of their own, so that workers need no right to write commands.
"""

from __future__ import annotations

import enum
import json
from typing import Any, Self

import attrs
from attrs.validators import and_, ge, instance_of, le, max_len, optional

from flux.core.validation import LONGEST

TOPIC = "flux-commands"
ENVIRONMENT = "FLUX_COMMANDS_TOPIC"
VALID = 60.0
"""Seconds after which a command that does something once is too late."""
SKIP_HOLDS = 7 * 86400.0
"""Seconds for which workers that start later do not call a skipped record either."""
_VERSION = 1
_TEXT = and_(instance_of(str), max_len(1000))
_OFFSET = optional(and_(instance_of(int), ge(0)))


class Action(enum.Enum):
    PAUSE = "pause"
    RESUME = "resume"
    SET_RATE = "set-rate"
    SKIP = "skip"
    RESTART = "restart"


def answers_topic(topic: str) -> str:
    """The topic of the answers to commands of `topic`."""
    return f"{topic}-answers"


@attrs.frozen(kw_only=True)
class WorkerCommand:
    """`topic` and `group`: the task, by its main topic and group; `stage` None: all of its stages. `seconds`: for how
    long it holds; None: until another one. `rate`: calls a second and process; None: as the task's code says; 0: no
    limit. `partition` and `offset`: the record to skip."""

    action: Action = attrs.field(validator=instance_of(Action))
    topic: str = attrs.field(validator=_TEXT)
    group: str = attrs.field(validator=_TEXT)
    id: str = attrs.field(validator=_TEXT)
    by: str = attrs.field(validator=_TEXT)
    """`user@host`, or a user of the pages."""
    why: str = attrs.field(default="", validator=_TEXT)
    stage: int | None = attrs.field(default=None, validator=_OFFSET)
    seconds: float | None = attrs.field(
        default=None, validator=optional(and_(instance_of((int, float)), ge(0), le(LONGEST)))
    )
    rate: float | None = attrs.field(default=None, validator=optional(and_(instance_of((int, float)), ge(0), le(1e9))))
    partition: int | None = attrs.field(default=None, validator=_OFFSET)
    offset: int | None = attrs.field(default=None, validator=_OFFSET)

    @property
    def key(self) -> bytes:
        """Of its record: a later command with the same key replaces this one."""
        stage = "all" if self.stage is None else str(self.stage)
        of_pause = self.action is Action.RESUME and self.stage is not None
        # The resume of all stages ends their pauses too: it must outlive a later pause of the task.
        kind = "pause" if of_pause else self.action.value
        return json.dumps([self.topic, self.group, stage, kind]).encode()

    def to_json(self) -> bytes:
        return json.dumps({"v": _VERSION, **attrs.asdict(self), "action": self.action.value}).encode()

    @classmethod
    def from_json(cls, data: bytes | None) -> Self | None:
        """None if it is damaged, foreign or of another version, or lacks what its action needs."""
        found = _read(data)
        try:
            command = cls(**{**found, "action": Action(found["action"])})
        except (ValueError, TypeError, KeyError):
            return None
        place = (command.stage, command.partition, command.offset)
        return None if command.action is Action.SKIP and None in place else command


@attrs.frozen(kw_only=True)
class CommandAnswer:
    """What one process says to a command. `process`: the key of its reports; `name`: for people; `ok`: whether it did
    what was wanted."""

    id: str = attrs.field(validator=instance_of(str))
    """The command's."""
    process: str = attrs.field(validator=instance_of(str))
    name: str = attrs.field(validator=instance_of(str))
    task: str = attrs.field(validator=instance_of(str))
    ok: bool = attrs.field(validator=instance_of(bool))
    text: str = attrs.field(validator=instance_of(str))

    def to_json(self) -> bytes:
        return json.dumps({"v": _VERSION, **attrs.asdict(self)}).encode()

    @classmethod
    def from_json(cls, data: bytes | None) -> Self | None:
        """None if it is damaged, foreign or of another version."""
        try:
            return cls(**_read(data))
        except TypeError:
            return None


def _read(data: bytes | None) -> dict[str, Any]:
    """The fields; empty for what is no object of this version."""
    try:
        found = json.loads(data or b"")
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict) or found.pop("v", None) != _VERSION:
        return {}
    return found
