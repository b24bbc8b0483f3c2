"""Who did what to a task's records, when, and with which result: one line of JSON per action, in a topic or a file.

An action is written down before it begins and again when it has ended, with the same id: one that was killed is there
without a result.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import attrs

from flux.consuming.topic_setup import REQUEST_TIMEOUT, missing_like
from flux.core.errors import FluxError
from flux.core.ports import AdminPort, Cluster, ProducerRecord, System
from flux.core.stage import check_topic
from flux.operate.reading import read, spans_of
from flux.operate.writing import write_all
from flux.system import SYSTEM

TOPIC = "flux-audit"
ENVIRONMENT = "FLUX_AUDIT_TOPIC"
MAX_PLACES = 1_000
"""Places that are written down of one action; its result has their number."""
TOPIC_CONFIG = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
_VERSION = 1
_SHOWN = 3


@attrs.frozen(kw_only=True)
class AuditRecord:
    """One action. `at`: its start, in milliseconds since the epoch; `topic` and `places` (`partition:offset`): what it
    was done to; `details`: how, such as the filter; `result`: empty until it has ended."""

    at: int
    by: str
    action: str
    """`replay`, `edit`, `reject`, `purge`, …"""
    task: str
    topic: str
    places: Sequence[str] = ()
    details: Mapping[str, str] = attrs.field(factory=dict)
    result: str = ""
    id: str = attrs.field(factory=lambda: uuid.uuid4().hex)

    @property
    def what(self) -> str:
        """In a few words: the first places, and the details."""
        places = ", ".join(self.places[:_SHOWN]) + (", …" if len(self.places) > _SHOWN else "")
        which = self.details.get("which", "")
        more = [f"{name}: {text}" for name, text in self.details.items() if name != "which"]
        return "; ".join(part for part in (which, places, *more) if part)

    def to_json(self) -> bytes:
        data = {**attrs.asdict(self), "places": list(self.places[:MAX_PLACES]), "version": _VERSION}
        return json.dumps(data, ensure_ascii=False).encode("utf-8", "backslashreplace")

    @classmethod
    def from_json(cls, line: bytes) -> AuditRecord | None:
        """None: damaged, or of an unknown version."""
        try:
            data = json.loads(line)
            if data.pop("version") != _VERSION:
                return None
            texts = [data[name] for name in ("by", "action", "task", "topic", "result", "id")]
            details, places = data["details"], data["places"]
            if type(data["at"]) is int and all(type(each) is str for each in [*texts, *places, *details.values()]):
                return cls(**{**data, "places": tuple(places)})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            pass
        return None


class AuditLog(Protocol):
    """Where actions are written down."""

    name: str

    def write(self, record: AuditRecord) -> None:
        """Returns when the record is durable. Raises FluxError, OSError."""
        ...

    def read(self, since_ms: int | None = None) -> Iterator[AuditRecord]:
        """In the order in which they were written, those since a time in milliseconds since the epoch. Raises
        FluxError, OSError."""
        ...


class TopicAudit:
    """In one topic of a task's cluster. It is created when the first action is written, with the replication factor of
    the topic `like`."""

    def __init__(
        self, adapter: Cluster, admin: AdminPort, like: str, name: str | None = None, system: System = SYSTEM
    ) -> None:
        self.name = name or audit_topic()
        self._adapter = adapter
        self._admin = admin
        self._like = like
        self._system = system

    def write(self, record: AuditRecord) -> None:
        self._require_topic()
        # Not compressed: whoever reads it may use another client, which lacks the library.
        written = [ProducerRecord(record.to_json(), record.topic.encode())]
        write_all(self._adapter, self.name, written, self._system, compression="none")

    def read(self, since_ms: int | None = None) -> Iterator[AuditRecord]:
        if self._admin.topics([self.name], REQUEST_TIMEOUT)[self.name] is None:
            return
        spans = spans_of(self._admin, self.name, since_ms)
        for batch in read(self._adapter, self.name, spans, system=self._system):
            lines = (record.value() for record in batch.records)
            yield from _parsed((line for line in lines if line is not None), since_ms)

    def _require_topic(self) -> None:
        missing = missing_like(self._admin, {self.name: TOPIC_CONFIG}, self._like)
        if missing:
            self._admin.create_topics(missing, REQUEST_TIMEOUT)


class FileAudit:
    """In a file that lines are appended to. Several processes may write to it."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path

    def write(self, record: AuditRecord) -> None:
        with self._path.open("ab", buffering=0) as file:
            file.write(record.to_json() + b"\n")
            os.fsync(file.fileno())

    def read(self, since_ms: int | None = None) -> Iterator[AuditRecord]:
        if self._path.exists():
            with self._path.open("rb") as file:
                yield from _parsed(file, since_ms)


def _parsed(lines: Iterable[bytes], since_ms: int | None) -> Iterator[AuditRecord]:
    for line in lines:
        record = AuditRecord.from_json(line)
        if record is not None and (since_ms is None or record.at >= since_ms):
            yield record


def actions(records: Iterable[AuditRecord]) -> list[AuditRecord]:
    """Each action once, with its result where it has ended; the oldest first."""
    return list({record.id: record for record in records}.values())


@contextmanager
def audited(
    audit: AuditLog, record: AuditRecord, on_failure: Callable[[str], object]
) -> Iterator[Callable[[str, Sequence[str]], object]]:
    """A context for an action; call what it yields with the result, and the places if they were not known before. An
    exception is the result too. `on_failure` gets a sentence where the action could not be written down: it is done all
    the same."""
    ended = False

    def write(record: AuditRecord) -> None:
        try:
            audit.write(record)
        except (FluxError, OSError) as error:
            on_failure(f"this {record.action} is not written down in {audit.name}: {error}")

    def end(result: str, places: Sequence[str] = ()) -> None:
        nonlocal ended
        ended = True
        write(attrs.evolve(record, result=result, places=places or record.places))

    write(record)
    try:
        yield end
    except BaseException as error:
        if not ended:
            end(f"failed: {error or type(error).__name__}")
        raise


def audit_topic() -> str:
    """The environment's choice, or the default. Raises ConfigurationError for a name that Kafka refuses."""
    name = os.environ.get(ENVIRONMENT) or TOPIC
    check_topic(name)
    return name


def this_user() -> str:
    """`user@host`: who runs this process."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user without a name
        user = "somebody"
    return f"{user}@{socket.gethostname()}"
