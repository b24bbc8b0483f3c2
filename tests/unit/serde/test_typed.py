from __future__ import annotations

import types
from typing import Annotated, Any, Generic, NewType, Optional, TypedDict, TypeVar

import pytest

from flux.core.errors import ConfigurationError
from flux.serde.typed import classes_of, leaves, type_argument, type_name, without_none

V = TypeVar("V")
W = TypeVar("W")


class Base(Generic[V]):
    pass


class Batch(Base[V]):
    pass


class Swapped(Batch[W], Generic[V, W]):
    pass


class Listed(Base[list[V]]):
    pass


class Order:
    pass


class Address(TypedDict):
    city: str


class Plain(Base):  # type: ignore[type-arg]
    pass


class Mixin:
    pass


class Of(Base[Order]):
    pass


class Below(Mixin, Of):
    pass


class Quoted(Base["Later | None"]):
    pass


class Later:
    pass


class Missing(Base["Nowhere"]):  # type: ignore[name-defined]
    pass


def made(base: Any) -> type:
    return types.new_class("Made", (base,))


@pytest.mark.parametrize(
    ("cls", "expected"),
    [
        (Plain, Any),
        (Base, Any),
        (Batch, Any),
        (Of, Order),
        (Below, Order),
        (Quoted, Later | None),
        (made(Batch[Order]), Order),
        (made(Batch[Order | None]), Order | None),
        (made(Swapped[int, str]), str),
        (made(Listed[int]), list[int]),
        (made(Base[Any]), Any),
        (made(Base[object]), Any),
    ],
)
def test_the_type_argument_is_found_through_all_bases(cls: type, expected: Any) -> None:
    assert type_argument(cls, Base) == expected


def test_a_name_that_cannot_be_found_is_named_with_a_remedy() -> None:
    with pytest.raises(
        ConfigurationError, match=r"Missing: the type of its values cannot be found: .*'Nowhere'.*import"
    ):
        type_argument(Missing, Base)


def test_none_is_taken_out_of_a_type() -> None:
    assert without_none(Order | None) == (Order, True)
    assert without_none(Optional[Order]) == (Order, True)  # noqa: UP045
    assert without_none(Order | int | None) == (Order | int, True)
    assert without_none(Order) == (Order, False)
    assert without_none(list[None]) == (list[None], False)
    assert without_none(Any) == (Any, True)


def test_the_classes_of_a_type_are_those_of_its_values() -> None:
    assert classes_of(Order | int) == (Order, int)
    assert classes_of(Annotated[Order, 1]) == (Order,)
    assert classes_of(NewType("Id", str)) == (str,)
    assert classes_of(Address) == (dict,)
    assert classes_of(list[Order]) == (list,)


def test_the_leaves_of_a_type_are_all_types_in_it() -> None:
    assert leaves(dict[str, list[Annotated[Order, 1] | None]]) == [dict, str, list, Order, type(None)]


def test_a_type_is_shown_as_it_is_written() -> None:
    assert type_name(Order) == "Order"
    assert type_name(list[int]) == "list[int]"
