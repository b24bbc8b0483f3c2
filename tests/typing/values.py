"""The types of values, as a program that checks its types uses them. Each line with a mistake must be found by both
`mypy --strict` and `pyright`: an `ignore` for a mistake that a checker does not find is itself an error. Nothing here
runs."""

# pyright: reportUnnecessaryTypeIgnoreComment=error

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict, TypeVar, assert_type

import attrs
from pydantic import BaseModel

import flux
from flux import serde
from flux.testing import Kit


class Order(BaseModel):
    id: str
    total: int


@attrs.frozen
class Invoice:
    number: int


class Address(TypedDict):
    city: str


# ---- producing


class Orders(flux.Producer[Order]):
    topic = "orders"


class Deletions(flux.Producer[Order | None]):
    topic = "orders"


class Addresses(flux.Producer[Address]):
    topic = "addresses"


class Anything(flux.Producer):
    topic = "anything"


async def produce() -> None:
    order = Order(id="1", total=2)
    Orders.produce(order, key="ada")
    Orders.produce({"id": "1"})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Orders.produce(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Orders.send(b"")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await Orders.aproduce("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Orders(options=flux.ProducerOptions()).produce(order)
    Deletions.produce(None)
    Addresses.produce({"city": "Berlin"})
    Addresses.produce({"town": "Berlin"})  # type: ignore[typeddict-item]  # pyright: ignore[reportArgumentType]
    Anything.produce({"id": "1"})


# ---- tasks


class Billing(flux.Task[Order]):
    topic = "orders"
    group_id = "billing"

    def call(self, message: flux.Message[Order]) -> None:
        assert_type(message.value, Order)
        assert_type(message.value.total, int)
        print(message.value.totl)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownArgumentType]


class BillingInALoop(flux.Task[Order]):
    async def call(self, message: flux.Message[Order]) -> None:
        assert_type(message.value, Order)


class OfAValue(flux.Task[Order]):
    def call(self, message: Order) -> None: ...  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]


class OfAnotherValue(flux.Task[Order]):
    def call(self, message: flux.Message[Invoice]) -> None: ...  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]


class OfNothing(flux.Task[Order]):
    def call(self) -> None: ...  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]


class OfMore(flux.Task[Order]):
    def call(self, message: flux.Message[Order], more: int) -> None: ...  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]


class Untyped(flux.Task):
    def call(self, message: flux.Message) -> None:
        assert_type(message.value, Any)


class WithTombstones(flux.Task[Order | None]):
    def call(self, message: flux.Message[Order | None]) -> None:
        print(message.value.total)  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]
        if message.value is not None:
            assert_type(message.value, Order)


class WithoutTombstones(flux.Task[Order | None]):
    def call(self, message: flux.Message[Order]) -> None: ...  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]


class Load(flux.BatchTask[Order]):
    def call(self, messages: Sequence[flux.Message[Order]]) -> None:
        assert_type(messages[0].value, Order)
        raise flux.BatchFailure({messages[0]: ValueError()})


class LoadOne(flux.BatchTask[Order]):
    def call(self, messages: flux.Message[Order]) -> None: ...  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]


V = TypeVar("V")


class Shared(flux.Task[V]):
    group_id = "shared"


class Printing(Shared[Invoice]):
    def call(self, message: flux.Message[Invoice]) -> None:
        assert_type(message.value, Invoice)


def enqueue() -> None:
    Billing.enqueue(Order(id="1", total=2), delay=60)
    Billing().enqueue(Order(id="1", total=2))
    Billing.enqueue({"id": "1"})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Billing().enqueue(b"")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Untyped.enqueue({"id": "1"})


# ---- functions


@flux.task(
    topic="orders", group_id="audit", retries=0, adapter="kafka://elsewhere:9092", serializer=serde.json_serializer
)
def audit(message: flux.Message[Order]) -> str:
    assert_type(message.value, Order)
    return message.value.id


@flux.task(topic="orders", group_id="audit")
async def audit_in_a_loop(message: flux.Message[Order]) -> None:
    assert_type(message.value, Order)


@flux.task(topic="orders", group_id="audit")
def audit_anything(message: flux.Message) -> None: ...


async def use(message: flux.Message[Order], other: flux.Message[Invoice]) -> None:
    assert_type(audit(message), str)
    assert_type(await audit_in_a_loop(message), None)
    audit_anything(other)
    audit(other)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    audit.enqueue(Order(id="1", total=2))
    audit.enqueue(Invoice(1))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    tasks: list[flux.Task] = [audit, audit_in_a_loop, Billing(), Load()]
    flux.Worker(*tasks, Billing, audit)


def takes_an_order(order: Order) -> None: ...


flux.task(topic="orders", group_id="g", retries="x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
flux.task(topic="orders", group_id="g", retrys=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
flux.task(topic="orders", group_id="g", ordering="none of it")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
flux.task(topic="orders", group_id="g")(takes_an_order)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# ---- values


class Invoices(flux.Producer[Invoice]):
    topic = "invoices"
    values = serde.json(Invoice)


class OfOtherValues(flux.Task[Order]):
    values = serde.json(Invoice)  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]


class InAvro(flux.Task[Order | None]):
    values = serde.avro(Order, registry="http://localhost:8081")


class OfOtherSchemas(flux.Producer[Order]):
    values = serde.json_schema(Invoice, registry="http://localhost:8081", schema="{}")  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]


assert_type(serde.json(Invoice), serde.Values[Invoice])


# ---- tests


def check(flux_kit: Kit) -> None:
    flux_kit.run(audit, Billing)
    flux_kit.dead_letters(audit)
