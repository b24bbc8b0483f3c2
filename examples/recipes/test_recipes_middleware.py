from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Iterator
from typing import Any

import pytest
import sentry_sdk
import sqlalchemy as sa
from db_session import InSession, session
from log_context import About, logged
from sentry_reporting import Reporting
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

import flux
from flux.testing import Kit


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler, root = Lines(), logging.getLogger()
    handler.addFilter(About())
    before = root.level
    root.addHandler(handler)
    root.setLevel("INFO")
    yield handler
    root.removeHandler(handler)
    root.setLevel(before)


def test_lines_of_a_call_say_of_which_record_and_each_call_ends_with_one(flux_kit: Kit, lines: Lines) -> None:
    def call(message: flux.Message) -> None:
        logging.getLogger("shop").info("charging")
        if message.attempt == 1:
            raise ConnectionError("away")

    task = flux.task(topic="orders", group_id="billing", wait=10, middleware=[logged])(call)
    flux_kit.produce("orders", "one", headers={"trace": "abc"})
    flux_kit.run_to_the_end(task)
    logging.getLogger("shop").info("outside")
    found: list[Any] = [record for record in lines.records if record.name in ("shop", "log_context")]
    fields = [
        (each.getMessage(), getattr(each, "record", None), getattr(each, "attempt", None), getattr(each, "trace", None))
        for each in found
    ]
    assert fields == [
        ("charging", "orders/0/0", 1, "abc"),
        ("orders/0/0 ConnectionError", "orders/0/0", 1, "abc"),
        ("charging", "orders/0/0", 2, "abc"),
        ("orders/0/0 done", "orders/0/0", 2, "abc"),
        ("outside", None, None, None),
    ]
    assert [each.outcome for each in found if hasattr(each, "outcome")] == ["ConnectionError", "done"]
    assert all(each.took_ms >= 0 for each in found if hasattr(each, "took_ms"))


class Kept(Transport):
    """Sends nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[dict[str, Any]] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        event = envelope.get_event()
        if event is not None:
            self.events.append(dict(event))


@pytest.fixture
def kept() -> Iterator[Kept]:
    transport = Kept()
    with sentry_sdk.isolation_scope() as scope:
        scope.set_client(
            sentry_sdk.Client(
                dsn="http://key@127.0.0.1:9/1",
                transport=transport,
                include_local_variables=False,
                default_integrations=False,
            )
        )
        yield transport


def test_failures_are_told_to_sentry_with_their_record_and_without_its_value(flux_kit: Kit, kept: Kept) -> None:
    def call(message: flux.Message) -> None:
        value = message.value.decode()
        if value == "later":
            raise flux.Retry(after=1)
        if value == "away":
            raise ConnectionError("expected")
        raise ValueError("no such customer")

    task = flux.task(topic="orders", group_id="billing", retries=1, wait=10, middleware=[Reporting(ConnectionError)])(
        call
    )
    personal = secrets.token_hex()  # not in the source, which Sentry is shown
    for value in (personal, "later", "away"):
        flux_kit.produce("orders", value)
    flux_kit.run_to_the_end(task)
    assert [event["exception"]["values"][-1]["type"] for event in kept.events] == ["ValueError", "ValueError"]
    assert [event["tags"]["attempt"] for event in kept.events] == [1, 2]
    assert {event["contexts"]["record"]["id"] for event in kept.events} == {"orders/0/0"}
    assert personal not in json.dumps(kept.events, default=str)


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str]


def test_a_call_has_a_session_which_its_failure_rolls_back(flux_kit: Kit) -> None:
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    Base.metadata.create_all(engine)
    maker: sessionmaker[Session] = sessionmaker(engine)

    def call(message: flux.Message) -> None:
        session().add(Order(customer=message.value.decode()))
        session().flush()
        if message.value == b"bob":
            raise flux.Reject("no such customer")

    task = flux.task(topic="orders", group_id="billing", middleware=[InSession(maker)])(call)
    for value in ("ada", "bob", "eve"):
        flux_kit.produce("orders", value)
    flux_kit.run(task)
    with maker() as opened:
        assert opened.scalars(sa.select(Order.customer).order_by(Order.id)).all() == ["ada", "eve"]
    with pytest.raises(LookupError):
        session()
