"""`Relay`: moves rows of an outbox to Kafka, until it is stopped.

Each turn takes rows, writes them, and deletes those that Kafka has acknowledged. If it dies between the last two steps,
rows are sent again: duplicates with the same `outbox-id`, and no loss.
"""

from __future__ import annotations

import logging
from collections import Counter
from functools import partial

from flux import config
from flux.config import AdapterChoice
from flux.core.errors import BrokerError, Fault
from flux.core.monitoring.health import Health
from flux.core.monitoring.log_throttle import LogThrottle, and_more
from flux.core.outbox.pace import Pauses, Refusals
from flux.core.outbox.sending import Sending
from flux.core.ports import ProducerPort, ProducerRecord, ProducerSettings, Record, System
from flux.core.ports.outbox import OutboxRow, OutboxStatus, OutboxStore, StoreUnavailable
from flux.core.producing.partitioner import partition_for_key
from flux.core.text import one_line
from flux.system import SYSTEM

logger = logging.getLogger("flux.outbox")

MOST_ROWS = 500
MOST_BYTES = 4 * 1024 * 1024
"""What one turn holds in memory at most, unless one row is larger."""
DELIVERY_TIMEOUT = 10.0
"""Seconds that one row may take. In an outage the others of its turn wait as long."""
LONGEST_TURN = 10.0
"""Seconds after which a turn writes no more rows."""
STUCK = 120.0
"""Seconds without a step after which it is not live."""
STATUS_INTERVAL = 5.0
_GRACE = 5.0
_ROOM = 0.05  # seconds until a full client is tried again


class Relay:
    """`interval`: seconds between two looks at an empty table. Its rows are written with acks=all. Raises
    ConfigurationError."""

    def __init__(
        self, store: OutboxStore, *, adapter: AdapterChoice = None, interval: float = 0.2, system: System = SYSTEM
    ) -> None:
        self._store = store
        self._adapter = config.resolve_adapter(adapter)
        options = config.current.producer
        self._settings = ProducerSettings(
            acks="all",
            compression=options.compression,
            delivery_timeout=min(options.delivery_timeout, DELIVERY_TIMEOUT),
            linger=0.001,
        )
        self._interval = interval
        self._system = system
        self._client: ProducerPort | None = None
        self._changed = system.condition()
        self._stopping = False
        self._stepped_at = system.monotonic()
        self._refusals = Refusals()
        self._throttle = LogThrottle()
        self._missing: str | None = "starting"
        self._status_due = 0.0
        self.status: OutboxStatus | None = None
        """The table, as of a few seconds ago."""
        self.relayed: Counter[str] = Counter()
        """Rows that Kafka has acknowledged, by topic."""
        self.refused: Counter[str] = Counter()
        """Writes that Kafka refused, by topic."""

    # ---- running

    def run(self) -> None:
        """Until `stop`, which any thread or signal handler may call. While the database or the cluster is unavailable
        it tries again, and says so in the log. Raises ConfigurationError for what only the user can fix."""
        database, cluster = Pauses(), Pauses()
        logger.info("the relay moves rows of %s to %s", self._store, self._adapter.cluster)
        try:
            while not self._stopping:
                try:
                    taken, outage = self._turn()
                    self.look()
                except StoreUnavailable as error:
                    self._wait(self._unavailable("the database is unavailable", error, database))
                    continue
                database.succeeded()
                if outage is not None:
                    self._wait(self._unavailable(f"{self._adapter.cluster} takes no rows", outage, cluster))
                    continue
                cluster.succeeded()
                self._missing = None
                if not taken:
                    self._wait(self._interval)
        finally:
            self._missing = "stopped"
            self._close()

    def run_once(self) -> int:
        """Moves all rows that are in the table, in this thread. Returns how many; rows that Kafka refuses stay. For
        tests and scheduled jobs. Raises BrokerError if the cluster takes none, StoreUnavailable, ConfigurationError."""
        before = self.relayed.total()
        try:
            while True:
                taken, outage = self._turn()
                if outage is not None:
                    raise outage
                if not taken:
                    return self.relayed.total() - before
        finally:
            self._close()

    def stop(self) -> None:
        """The rows in flight are waited for, up to `DELIVERY_TIMEOUT`."""
        self._stopping = True  # no lock: a signal handler may run while this thread holds it

    def health(self) -> Health:
        still = self._system.monotonic() - self._stepped_at
        troubles = [f"the relay has made no progress for {still:.0f} s"] if still > STUCK else []
        return Health(troubles, [] if self._missing is None else [self._missing])

    # ---- one turn

    def _turn(self) -> tuple[int, BrokerError | None]:
        """How many rows were taken from the table, and why the cluster took none of them."""
        self._step()
        rows = self._store.take(self._refusals.excluded(self._system.monotonic()), MOST_ROWS, MOST_BYTES)
        self._step()
        if not rows:
            return 0, None
        sending = Sending(rows)
        try:
            self._send(sending)
        except BrokerError as error:  # the client cannot continue
            self._close_client()
            with self._changed:
                sending.give_up(error)
        self._step()
        known = {row.id: row for row in rows}
        self._store.finish(sending.done, {row.id: one_line(str(why)) for row, why in sending.refused.items()})
        for id in sending.done:
            self.relayed[known[id].topic] += 1
            self._refusals.delivered(known[id])
        self._failed(sending)
        return len(rows), sending.outage

    def _send(self, sending: Sending) -> None:
        """Returns when no row is in flight. Raises BrokerError."""
        began = self._system.monotonic()
        client = self._client
        if client is None:
            client = self._client = self._adapter.producer(self._settings)
        written_at = began
        while True:
            now = self._system.monotonic()
            with self._changed:
                if self._stopping or now > began + LONGEST_TURN:
                    sending.stop()
                ready = sending.take()
                if not ready:
                    if sending.ended:
                        return
                    if now > written_at + self._settings.delivery_timeout + _GRACE:
                        raise BrokerError("rows were not acknowledged in time", Fault.UNAVAILABLE)
                    self._changed.wait(_ROOM)
                    continue
            left = self._write(client, ready, sending)
            written_at = now
            if left:
                with self._changed:
                    sending.put_back(left)
                    self._changed.wait(_ROOM)

    def _write(self, client: ProducerPort, ready: list[OutboxRow], sending: Sending) -> list[OutboxRow]:
        """Returns the rows that the client had no room for."""
        by_topic: dict[str, list[OutboxRow]] = {}
        for row in ready:
            by_topic.setdefault(row.topic, []).append(row)
        left: list[OutboxRow] = []
        for topic, rows in by_topic.items():
            try:
                records = [self._placed(client, row) for row in rows]
            except BrokerError as error:
                for row in rows:
                    self._ended(sending, row, error, None)
                continue
            taken = client.write(topic, records, [partial(self._ended, sending, row) for row in rows])
            left += rows[taken:]
        return left

    def _placed(self, client: ProducerPort, row: OutboxRow) -> ProducerRecord:
        if row.partition_key is None:
            return row.record
        count = client.partitions(row.topic, self._settings.delivery_timeout)
        return row.record._replace(partition=partition_for_key(row.partition_key, count))

    def _ended(self, sending: Sending, row: OutboxRow, error: BrokerError | None, record: Record | None) -> None:
        with self._changed:
            if error is None:
                sending.acknowledged(row)
            else:
                sending.failed(row, error)
            self._changed.notify_all()

    # ---- failures

    def _failed(self, sending: Sending) -> None:
        now = self._system.monotonic()
        for row, error in sending.refused.items():
            self.refused[row.topic] += 1
            self._refusals.refused(row, error, now)
            self._log(
                row.topic,
                f"row {row.id} for topic {row.topic} was refused: {one_line(str(error))};"
                " it stays in the table, and so do later rows of its key",
            )
        if sending.outage is None:
            for row, error in sending.unavailable.items():
                self._refusals.unavailable(row, now)
                self._log((row.topic, "unavailable"), f"a row for topic {row.topic} was not written: {error}")
        elif any(error.fault is Fault.FATAL for error in sending.unavailable.values()):
            self._close_client()

    def _unavailable(self, what: str, error: Exception, pauses: Pauses) -> float:
        """Seconds to wait."""
        self._missing = f"{what}: {one_line(str(error))}"
        self._log(what, self._missing)
        return pauses.failed()

    def _log(self, kind: object, text: str) -> None:
        left_out = self._throttle.admit(kind, self._system.monotonic())
        if left_out is not None:
            logger.warning("%s%s", text, and_more(left_out))

    # ---- the rest

    def look(self) -> None:
        """Reads `status`, at most every STATUS_INTERVAL seconds."""
        now = self._system.monotonic()
        if now >= self._status_due:
            self.status = self._store.status()
            self._status_due = now + STATUS_INTERVAL

    def _wait(self, seconds: float) -> None:
        until = self._system.monotonic() + seconds
        while not self._stopping and (left := until - self._system.monotonic()) > 0:
            self._step()
            self._system.sleep(min(left, 0.1))

    def _step(self) -> None:
        self._stepped_at = self._system.monotonic()

    def _close_client(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close(0)

    def _close(self) -> None:
        try:
            self._close_client()
        finally:
            self._store.close()
