"""The stages of a task, and their names on the cluster: main topic, retry topics, dead-letter topic."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import attrs

from flux.core.error_text import brief
from flux.core.errors import ConfigurationError
from flux.core.text import one_line
from flux.core.validation import check_whole, plain, plainly, shown

Naming = Callable[[str, str, int], tuple[str, str]]
"""(topic, group, stage) -> (topic, group) of that stage; the dead letters are stage retries + 1."""

_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}\Z")
_RANGE = re.compile(r"([0-9]{1,6})(?:-([0-9]{1,6}))?\Z")
MOST_RETRIES = 100
_LONGEST_GROUP = 1_000


class Role(enum.Enum):
    MAIN = "main"
    RETRY = "retry"
    DEAD = "dead letters"
    LEFTOVER = "leftover"
    """A retry topic beyond `retries`, which was lowered: it is drained, and failures become dead letters."""


@attrs.frozen
class Stage:
    number: int
    topic: str
    group: str
    role: Role

    @property
    def has_names(self) -> bool:
        """Whether its records may have names: see `flux.core.named_work`."""
        return self.number == 1 and self.role is not Role.DEAD

    def __str__(self) -> str:
        return self.role.value if self.role is not Role.RETRY else f"retry {self.number}"


@attrs.frozen(field_transformer=plainly)
class Stages:
    """All stages of one task: 0 (main), 1 … retries, retries + 1 (dead letters).

    `naming` changes the names; None: topic `T-G-try-n` with group `G-n`, and `T-G-dlq` with `G-(retries+1)`, as in
    Super::Flux.
    """

    topic: str
    group: str
    retries: int
    naming: Naming | None = None

    def __getitem__(self, number: int) -> Stage:
        if not 0 <= number <= self.dead:
            raise IndexError(number)
        if number == 0:
            return self._named(0, self.topic, self.group, Role.MAIN)
        if number == self.dead:
            return self._named(number, f"{self.topic}-{self.group}-dlq", f"{self.group}-{number}", Role.DEAD)
        return self._retry(number, Role.RETRY)

    def __iter__(self) -> Iterator[Stage]:
        return iter([self[n] for n in range(self.dead + 1)])

    @property
    def dead(self) -> int:
        """The number of the dead-letter stage."""
        return self.retries + 1

    def after(self, stage: Stage) -> Stage | None:
        """The stage that failed records of `stage` are forwarded to; None for dead letters, which stay."""
        if stage.role is Role.DEAD:
            return None
        return self[self.dead if stage.role is Role.LEFTOVER else stage.number + 1]

    def after_attempts(self, attempts: int) -> Stage:
        """The stage that a record is forwarded to after so many failed attempts, wherever the last one was made."""
        return self[min(attempts, self.dead)]

    def leftover(self, number: int) -> Stage:
        """The retry stage `number` beyond `retries`, named as when `retries` was higher."""
        return self._retry(number, Role.LEFTOVER)

    def leftovers(self, existing: Iterable[str]) -> list[Stage]:
        """The retry stages beyond `retries` whose topics are in `existing`."""
        names = set(existing) - {stage.topic for stage in self}
        found: list[Stage] = []
        for number in range(self.retries + 1, MOST_RETRIES + 1):
            try:
                stage = self.leftover(number)
            except Exception:  # the user's function may not support stages beyond `retries`
                continue
            if stage.topic in names:
                found.append(stage)
                names.discard(stage.topic)
        return found

    @property
    def keys_topic(self) -> str:
        """The topic of keys (`retry_order`)."""
        if self.naming is None:
            return f"{self.topic}-{self.group}-keys"
        return f"{self[1].topic}-keys"

    def written_topics(self, with_keys: bool) -> list[str]:
        """The topics that a worker writes to."""
        return [*(stage.topic for stage in list(self)[1:]), *([self.keys_topic] if with_keys else [])]

    def dead_groups(self) -> list[str]:
        """The groups that the dead-letter stage has had if `retries` was another number."""
        groups: dict[str, None] = {}
        for retries in range(MOST_RETRIES + 1):
            try:
                groups[Stages(self.topic, self.group, retries, self.naming)[retries + 1].group] = None
            except Exception:  # as above
                continue
        return list(groups)

    def _retry(self, number: int, role: Role) -> Stage:
        return self._named(number, f"{self.topic}-{self.group}-try-{number}", f"{self.group}-{number}", role)

    def _named(self, number: int, topic: str, group: str, role: Role) -> Stage:
        if self.naming is not None:
            named = self.naming(self.topic, self.group, number)
            if not isinstance(named, tuple) or len(named) != 2:
                raise ConfigurationError(
                    f"naming gave {shown(named)} for stage {number}: make it return (topic, group)"
                )
            topic, group = map(plain, named)
        return Stage(number, topic, group, role)

    def check(self) -> None:
        """Raises ConfigurationError for a name that Kafka refuses, or two stages with one topic."""
        check_whole("retries", self.retries, 0, MOST_RETRIES)
        if self.naming is not None and not callable(self.naming):
            raise ConfigurationError(
                f"naming = {shown(self.naming)}: give a callable (topic, group, stage) -> (topic, group)"
            )
        seen: dict[str, Stage] = {}
        for number in range(self.dead + 1):
            try:
                stage = self[number]
            except ConfigurationError:
                raise
            except Exception as error:
                raise ConfigurationError(
                    f"naming raised {one_line(brief(error))} for stage {number}: make it return (topic, group)"
                ) from None
            check_topic(stage.topic)
            _check_group(stage.group, stage.number)
            if stage.topic in seen:
                raise ConfigurationError(
                    f"stages {seen[stage.topic].number} and {stage.number} of {self.topic} have the same topic"
                    f" {stage.topic}: a failed record would come back to itself; change naming"
                )
            seen[stage.topic] = stage


def check_topic(name: object) -> None:
    """Raises ConfigurationError for a topic name that Kafka refuses."""
    if not isinstance(name, str) or not _TOPIC.match(name) or name in (".", ".."):
        raise ConfigurationError(
            f"topic {shown(name)}: Kafka takes 1 to 249 of the characters a-z, A-Z, 0-9, '.', '_' and '-'"
        )


def _check_group(name: object, stage: int) -> None:
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_GROUP or not name.isprintable():
        raise ConfigurationError(
            f"the group of stage {stage} is {shown(name)}: set group_id (or make naming return) to 1 to"
            f" {_LONGEST_GROUP} characters that can be printed"
        )


def check_apart(tasks: Sequence[tuple[str, Stages]]) -> None:
    """Raises ConfigurationError if names of two tasks on one cluster clash. `tasks`: (task name, its stages)."""
    pairs: dict[tuple[str, str], str] = {}
    owned: dict[str, str] = {}
    for name, stages in tasks:
        main = stages[0]
        if (main.topic, main.group) in pairs:
            raise ConfigurationError(
                f"{pairs[main.topic, main.group]} and {name} both consume topic {main.topic} as group {main.group}:"
                " give one of them another group_id"
            )
        pairs[main.topic, main.group] = name
        for stage in list(stages)[1:]:
            if stage.topic in owned:
                raise ConfigurationError(
                    f"{owned[stage.topic]} and {name} would share the topic {stage.topic}:"
                    " change topic, group_id or naming"
                )
            owned[stage.topic] = name
    for name, stages in tasks:
        main = stages[0]
        if main.topic in owned:
            raise ConfigurationError(
                f"{name} consumes topic {main.topic}, which {owned[main.topic]} forwards its failures to:"
                " change topic, group_id or naming"
            )


def shared_groups(tasks: Sequence[tuple[str, Stages]]) -> list[str]:
    """A warning for each group that several tasks of one cluster share. Source for the offsets: KIP-211."""
    sharing: dict[str, list[tuple[str, str]]] = {}
    for name, stages in tasks:
        sharing.setdefault(stages[0].group, []).append((name, stages[0].topic))
    return [
        f"{', '.join(f'{name} ({topic})' for name, topic in members)} have the same group_id, {group!r}: each start and"
        " stop of one rebalances all of them, and while one does not run, the brokers delete its committed offsets"
        " after offsets.retention.minutes, as the group is still active; give each task a group_id of its own"
        for group, members in sharing.items()
        if len(members) > 1
    ]


def parse_stages(text: str, retries: int) -> list[int]:
    """`"3"`, `"1-6"` or `"0,2-4"` as sorted stage numbers. Raises ConfigurationError outside 0 … retries + 1."""
    text = plain(text)
    if not isinstance(text, str):
        raise ConfigurationError(f"stages {shown(text)}: write numbers and ranges as a text, such as '3' or '0,2-4'")
    chosen: set[int] = set()
    for part in text.split(","):
        match = _RANGE.match(part.strip())
        if not match:
            raise ConfigurationError(f"stages {shown(text)}: write numbers and ranges, such as 3, 1-6 or 0,2-4")
        low, high = int(match[1]), int(match[2] or match[1])
        if low > high:
            raise ConfigurationError(f"stages {shown(text)}: the range {part.strip()} is backwards")
        if high > retries + 1:
            raise ConfigurationError(
                f"stages {shown(text)}: with retries = {retries} the stages are 0 to {retries + 1}"
                f" ({retries + 1} being the dead letters)"
            )
        chosen.update(range(low, high + 1))
    return sorted(chosen)
