from __future__ import annotations

import dataclasses
import datetime
import enum
import sys
from decimal import Decimal
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.core.errors import ConfigurationError
from flux.serde import model_converter, model_deserializer, model_serializer
from unit.support.serde_support import Way, way

pytest.importorskip("cattrs")

__all__ = ["way"]


class Kind(enum.Enum):
    NEW = "new"
    USED = "used"


@attrs.define
class Line:
    sku: str
    count: int
    weight: float = 1.0


@attrs.define
class Order:
    id: str
    lines: list[Line]
    kind: Kind = Kind.NEW
    placed: datetime.datetime | None = None
    tags: frozenset[str] = frozenset()
    pair: tuple[int, ...] = ()
    extra: dict[str, bool] = attrs.field(factory=dict)


@dataclasses.dataclass
class Payment:
    amount: int
    paid: bool = False


write, read = model_serializer(Order), model_deserializer(Order)

orders = st.builds(
    Order,
    id=st.text(st.characters(exclude_categories=["Cs"])),
    lines=st.lists(st.builds(Line, sku=st.just("a"), count=st.integers(), weight=st.floats(-1e9, 1e9)), max_size=3),
    kind=st.sampled_from(Kind),
    placed=st.none() | st.datetimes(timezones=st.just(datetime.UTC)),
    tags=st.frozensets(st.sampled_from("abc")),
    pair=st.lists(st.integers(), max_size=3).map(tuple),
    extra=st.dictionaries(st.sampled_from("xyz"), st.booleans()),
)


@given(orders)
def test_an_attrs_class_comes_back_as_it_was(order: Order) -> None:
    assert read(write(order)) == order


def test_a_dataclass_comes_back_as_it_was() -> None:
    payment = Payment(7, paid=True)
    data = model_serializer(Payment)(payment)
    assert data == b'{"amount":7,"paid":true}'
    assert model_deserializer(Payment)(data) == payment


def test_a_tombstone_is_none_both_ways() -> None:
    assert write(None) is None
    assert read(None) is None


def test_a_field_that_the_class_lacks_is_ignored_and_one_with_a_default_may_be_missing() -> None:
    assert read(b'{"id":"1","lines":[],"later":true}') == Order("1", [])


@pytest.mark.parametrize(
    ("data", "fields"),
    [
        (b'{"lines":[]}', ["$.id"]),
        (b'{"id":null,"lines":[]}', ["$.id"]),
        (b'{"id":7,"lines":[{"sku":"a"}]}', ["$.id", "$.lines[0].count"]),
        (b'{"id":"1","lines":"ab"}', ["$.lines"]),
        (b'{"id":"1","lines":{"a":1}}', ["$.lines"]),
        (b'{"id":"1","lines":[],"tags":"ab"}', ["$.tags"]),
        (b'{"id":"1","lines":[],"pair":"12"}', ["$.pair"]),
        (b'{"id":"1","lines":[{"sku":"a","count":1.5}]}', ["$.lines[0].count"]),
        (b'{"id":"1","lines":[{"sku":"a","count":true}]}', ["$.lines[0].count"]),
        (b'{"id":"1","lines":[{"sku":"a","count":1,"weight":"1"}]}', ["$.lines[0].weight"]),
        (b'{"id":"1","lines":[],"kind":"stolen"}', ["$.kind"]),
        (b'{"id":"1","lines":[],"placed":"soon"}', ["$.placed"]),
        (b'{"id":"1","lines":[],"extra":{"x":"yes"}}', ["$.extra[…]"]),
    ],
)
def test_what_does_not_fit_is_refused_and_never_bent_into_shape(data: bytes, fields: list[str]) -> None:
    with pytest.raises(ValueError, match="no Order: ") as raised:
        read(data)
    assert [each.rpartition(" @ ")[2] for each in str(raised.value).split("; ")] == fields


@pytest.mark.parametrize("data", [b"[]", b"null", b"7", b'"x"'])
def test_what_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="no Order: a JSON object was expected, not "):
        read(data)


ODD = '{"id":"1","lines":[{"sku":"a","count":1,"weight":%s}]}'


@pytest.mark.parametrize("weight", ["NaN", "Infinity", "1e999", "1" + "0" * 400])
def test_a_number_that_is_none_is_refused(weight: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each says something else
        read((ODD % weight).encode())


def test_what_is_not_utf_8_or_no_text_is_refused() -> None:
    for data in ((ODD % 1).encode("utf-16"), (ODD % 1).encode() + b"\0", b'{"id":"\\ud800","lines":[]}'):
        with pytest.raises(ValueError):  # noqa: PT011 - each says something else
            read(data)


def test_what_could_not_be_read_again_is_not_written() -> None:
    for order in (Order("1", [Line("a", 1, float("nan"))]), Order("\ud800", [])):
        with pytest.raises(ValueError):  # noqa: PT011 - each says something else
            write(order)


def test_what_is_no_instance_is_refused_before_it_is_written() -> None:
    wrong: Any = {"id": "1"}
    with pytest.raises(TypeError, match="an instance of Order was expected, not of dict"):
        write(wrong)


def test_what_is_no_class_with_fields_is_refused_at_once() -> None:
    several: list[Any] = [dict, 7, list[Order]]
    for wrong in several:
        with pytest.raises(ConfigurationError, match="a model is an attrs class or a dataclass, not "):
            model_deserializer(wrong)
        with pytest.raises(ConfigurationError, match="a model is an attrs class or a dataclass, not "):
            model_serializer(wrong)


@attrs.define
class Priced:
    price: Decimal


def test_a_field_that_nobody_can_read_is_refused_at_once() -> None:
    with pytest.raises(ConfigurationError, match=r"Priced cannot be read: .*Decimal"):
        model_deserializer(Priced)


def test_a_converter_of_ones_own_reads_and_writes_further_types() -> None:
    converter = model_converter()
    converter.register_structure_hook(Decimal, lambda value, _: Decimal(value))
    converter.register_unstructure_hook(Decimal, str)
    data = model_serializer(Priced, converter)(Priced(Decimal("1.10")))
    assert data == b'{"price":"1.10"}'
    assert model_deserializer(Priced, converter)(data) == Priced(Decimal("1.10"))


def test_without_cattrs_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cattrs.preconf.json", None)
    with pytest.raises(ConfigurationError, match=r'pip install "super-flux\[models\]"'):
        model_deserializer(Order)


def test_a_task_gets_instances_and_what_does_not_fit_is_a_dead_letter(way: Way) -> None:
    order = Order("1", [Line("a", 2)])
    way.produce(write, order, None)
    way.produce(None, b'{"id":"2"}')
    assert way.work(read) == [order, None]
    [(value, reason, message)] = way.dead()
    assert (value, reason) == (b'{"id":"2"}', "undecodable")
    assert message == "no Order: required field missing @ $.lines"


def test_what_is_no_instance_never_reaches_the_topic(way: Way) -> None:
    with pytest.raises(TypeError, match="an instance of Order was expected"):
        way.produce(write, Payment(1))
    assert way.records() == []
