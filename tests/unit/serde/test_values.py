from __future__ import annotations

import dataclasses
import enum
import logging
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NewType, TypedDict

import attrs
import pytest
from pydantic import BaseModel, Field, field_validator

import flux
from flux import serde
from flux.testing import Kit

pytest.importorskip("cattrs")

SECRET = "4929-hunter2"


class Kind(enum.Enum):
    NEW = "new"


class Model(BaseModel):
    kind: Literal["model"] = "model"
    id: str
    total: int = Field(alias="Total", default=0)
    tags: dict[str, int] = {}
    more: list[Model] = []

    @field_validator("id")
    @classmethod
    def check(cls, value: str) -> str:
        if value.startswith("bad"):
            raise ValueError(f"no customer {value}")
        if value.startswith("broken"):
            raise KeyError(value)
        if value.startswith("later"):
            raise flux.Retry("later")
        return value


class Other(BaseModel):
    kind: Literal["other"] = "other"


Tagged = Annotated[Model | Other, Field(discriminator="kind")]


def not_bad(_: Any, field: Any, value: str) -> None:
    if value.startswith("bad"):
        raise ValueError(f"no customer {value}")
    if value.startswith("broken"):
        raise KeyError(value)
    if value.startswith("later"):
        raise flux.Retry("later")


@attrs.frozen
class Attrs:
    id: str = attrs.field(validator=[attrs.validators.instance_of(str), not_bad])
    total: int = 0
    kind: Kind = Kind.NEW
    tags: dict[str, int] = attrs.field(factory=dict)
    more: list[Attrs] = attrs.field(factory=list)


@dataclasses.dataclass
class Data:
    id: str
    total: int = 0

    def __post_init__(self) -> None:
        not_bad(None, None, self.id)


class Typed(TypedDict):
    id: str
    total: int


def struct() -> Any:
    """A msgspec struct like the others."""
    msgspec: Any = pytest.importorskip("msgspec")

    def check(self: Any) -> None:
        not_bad(None, None, self.id)

    return msgspec.defstruct(
        "Struct",
        [("id", str), ("total", int, 0), ("kind", Kind, Kind.NEW), ("tags", dict[str, int], {})],
        namespace={"__post_init__": check},
        forbid_unknown_fields=True,
    )


Id = NewType("Id", str)


def kinds() -> list[tuple[Any, Any, bytes]]:
    """A type, a value, and how it is written."""
    return [
        (Model, Model(id="1", Total=2), b'{"kind":"model","id":"1","Total":2,"tags":{},"more":[]}'),
        (list[Model], [Model(id="1")], b'[{"kind":"model","id":"1","Total":0,"tags":{},"more":[]}]'),
        (Tagged, Other(), b'{"kind":"other"}'),
        (Attrs, Attrs("1", 2), b'{"id":"1","total":2,"kind":"new","tags":{},"more":[]}'),
        (Attrs | None, Attrs("1", 2), b'{"id":"1","total":2,"kind":"new","tags":{},"more":[]}'),
        (dict[str, Attrs], {"a": Attrs("1")}, b'{"a":{"id":"1","total":0,"kind":"new","tags":{},"more":[]}}'),
        (Data, Data("1", 2), b'{"id":"1","total":2}'),
        (Typed, {"id": "1", "total": 2}, b'{"id":"1","total":2}'),
        (dict, {"id": [1]}, b'{"id":[1]}'),
        (dict[str, Any], {"id": [1]}, b'{"id":[1]}'),
        (list, ["1"], b'["1"]'),
        (list[int], [1], b"[1]"),
        (int, 1, b"1"),
        (str, "ä", "ä".encode()),
        (Id, Id("ä"), "ä".encode()),
        (bytes, b"\xff", b"\xff"),
    ]


def classes_for(kind: Any) -> tuple[Any, Any, list[Any]]:
    """A producer and a task of a type, and the values that the task gets."""
    got: list[Any] = []

    class Orders(flux.Producer[kind]):
        topic = "orders"

    class Billing(flux.Task[kind]):
        topic = "orders"
        group_id = "billing"

        def call(self, message: flux.Message[Any]) -> None:
            got.append(message.value)

    return Orders, Billing, got


@pytest.mark.parametrize("number", range(16))
def test_the_type_parameter_gives_serializer_and_deserializer(flux_kit: Kit, number: int) -> None:
    kind, value, data = kinds()[number]
    orders, billing, got = classes_for(kind)
    orders.produce(value)
    billing.enqueue(value)
    assert flux_kit.run(billing).done == 2
    assert got == [value, value]
    assert flux_kit.topic("orders").values == [data, data]


def test_a_msgspec_struct_is_written_and_read(flux_kit: Kit) -> None:
    kind = struct()
    orders, billing, got = classes_for(kind)
    orders.produce(kind("1", 2))
    assert flux_kit.run(billing).done == 1
    assert got == [kind("1", 2)]
    assert flux_kit.topic("orders").values == [b'{"id":"1","total":2,"kind":"new","tags":{}}']


def secrets() -> list[tuple[Any, str, str]]:
    """A type, a record that does not fit it and contains a secret, and what is said of it."""
    return [
        (Model, '{"id":"bad 4929-hunter2"}', "no Model: value_error @ $.id"),
        (Model, '{"id":"broken 4929-hunter2"}', "no Model: KeyError in a validator"),
        (Model, '{"id":"1","Total":"4929-hunter2"}', "no Model: int_parsing @ $.Total"),
        (Model, '{"id":"1","tags":{"4929-hunter2":"4929-hunter2"}}', "no Model: int_parsing @ $.tags[…]"),
        (Model, '{"id":"1","more":[{"id":"4929-hunter2"},{"x":"4929-hunter2"}]}', "no Model: missing @ $.more[1].id"),
        (Model, '{"id":"4929-hunter2"', "no Model: json_invalid @ $"),
        (Tagged, '{"kind":"4929-hunter2"}', "union_tag_invalid @ $"),
        (Attrs, '{"id":"bad 4929-hunter2"}', "no Attrs: invalid value @ $"),
        (Attrs, '{"id":"broken 4929-hunter2"}', "no Attrs: required field missing @ $"),
        (Attrs, '{"id":"1","total":"4929-hunter2"}', "no Attrs: invalid value for type, expected int @ $.total"),
        (Attrs, '{"id":"1","kind":"4929-hunter2"}', "no Attrs: invalid value for type, expected Kind @ $.kind"),
        (
            Attrs,
            '{"id":"1","tags":{"4929-hunter2":"4929-hunter2"}}',
            "no Attrs: invalid value for type, expected int @ $.tags[…]",
        ),
        (
            Attrs,
            '{"id":"1","more":[{"id":"4929-hunter2"},{"x":"4929-hunter2"}]}',
            "no Attrs: required field missing @ $.more[1].id",
        ),
        (Attrs, '["4929-hunter2"]', "no Attrs: a JSON object was expected, not list"),
        (Data, '{"id":"bad 4929-hunter2"}', "no Data: invalid value @ $"),
        (Typed, '{"id":"1","total":"4929-hunter2"}', "no Typed: invalid value for type, expected int @ $.total"),
        (dict, '["4929-hunter2"]', "a JSON object was expected, not list"),
        (list, '{"4929-hunter2":1}', "a JSON array was expected, not dict"),
        (list[int], '["4929-hunter2"]', "no list[int]: invalid value for type, expected int @ $[0]"),
    ]


def check_that_it_is_a_dead_letter(
    flux_kit: Kit, caplog: pytest.LogCaptureFixture, kind: Any, data: str | bytes, what: str
) -> None:
    caplog.set_level(logging.DEBUG)
    _, billing, got = classes_for(kind)
    flux_kit.produce("orders", data)
    flux_kit.run(billing)
    letter = flux_kit.dead_letters(billing).one()
    assert (letter.reason, letter.header("flux-error-type"), got) == ("undecodable", "ValueError", [])
    assert what in (letter.header("flux-error-message") or "")
    assert SECRET not in repr(letter.headers) + caplog.text + repr([each.error for each in flux_kit.failures])
    assert letter.value == (data if isinstance(data, bytes) else data.encode())


@pytest.mark.parametrize("number", range(19))
def test_what_does_not_fit_is_a_dead_letter_and_none_of_its_values_leave_it(
    flux_kit: Kit, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    check_that_it_is_a_dead_letter(flux_kit, caplog, *secrets()[number])


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ('{"id":"bad 4929-hunter2"}', "no Struct: invalid value @ $"),
        ('{"id":"broken 4929-hunter2"}', "no Struct: KeyError"),
        ('{"id":"1","total":"4929-hunter2"}', "no Struct: Expected `int`, got `str` @ $.total"),
        ('{"id":"1","kind":"4929-hunter2"}', "no Struct: invalid value @ $.kind"),
        ('{"id":"1","tags":{"4929-hunter2":"4929-hunter2"}}', "no Struct: Expected `int`, got `str` @ $.tags[...]"),
        ('{"id":"1","4929-hunter2":1}', "no Struct: invalid value @ $"),
        ('{"total":1}', "no Struct: Object missing required field `id` @ $"),
        ('{"id":"4929-hunter2', "no Struct: Input data was truncated @ $"),
    ],
)
def test_what_does_not_fit_a_msgspec_struct_is_a_dead_letter_without_its_values(
    flux_kit: Kit, caplog: pytest.LogCaptureFixture, data: str, what: str
) -> None:
    check_that_it_is_a_dead_letter(flux_kit, caplog, struct(), data, what)


def test_what_is_no_text_is_a_dead_letter(flux_kit: Kit) -> None:
    _, billing, _ = classes_for(str)
    flux_kit.produce("orders", b"\xff")
    flux_kit.run(billing)
    assert flux_kit.dead_letters(billing).one().reason == "undecodable"


@pytest.mark.parametrize("kind", [Model, Attrs, "struct"])
def test_a_model_may_decide_about_its_record(flux_kit: Kit, kind: Any) -> None:
    _, billing, _ = classes_for(struct() if kind == "struct" else kind)
    flux_kit.produce("orders", '{"id":"later"}')
    flux_kit.run(billing)
    assert len(flux_kit.waiting(billing)) == 1


@pytest.mark.parametrize("wrong", [{"id": "1"}, b"{}", "1", 7, [Model(id="1")]])
@pytest.mark.parametrize("kind", [Model, Attrs, Data, Model | Other, "struct"])
def test_what_is_no_instance_is_refused_before_it_is_written(flux_kit: Kit, kind: Any, wrong: Any) -> None:
    orders, billing, _ = classes_for(struct() if kind == "struct" else kind)
    for write in (orders.produce, orders.send, billing.enqueue):
        with pytest.raises(TypeError, match=r"an instance of .* was expected, not of "):
            write(wrong)
    assert len(flux_kit.topic("orders")) == 0


def test_a_changed_model_that_no_longer_fits_is_refused_without_its_values(flux_kit: Kit) -> None:
    orders, _, _ = classes_for(Model)
    model = Model(id="1")
    model.total = SECRET  # type: ignore[assignment]
    with pytest.raises(TypeError, match="a value does not fit Model") as raised:
        orders.produce(model)
    assert SECRET not in repr(raised.value)
    assert raised.value.__suppress_context__


# ---- tombstones


@pytest.mark.parametrize("kind", [Model, dict, str, bytes, list[int]])
def test_a_tombstone_is_a_dead_letter_with_a_reason_of_its_own(flux_kit: Kit, kind: Any) -> None:
    _, billing, got = classes_for(kind)
    flux_kit.produce("orders", None, key="ada")
    flux_kit.run(billing)
    letter = flux_kit.dead_letters(billing).one()
    assert (letter.key, letter.value, letter.reason, got) == (b"ada", None, "tombstone", [])
    assert "only a flux.Task[" in (letter.header("flux-error-message") or "")


@pytest.mark.parametrize("kind", [Model, dict, str, bytes, list[int]])
def test_a_tombstone_is_none_where_the_type_says_so(flux_kit: Kit, kind: Any) -> None:
    orders, billing, got = classes_for(kind | None)
    orders.produce(None, key="ada")
    billing.enqueue(None, key="ada")
    assert flux_kit.run(billing).done == 2
    assert got == [None, None]


def test_null_is_no_tombstone(flux_kit: Kit) -> None:
    _, billing, _ = classes_for(Model | None)
    flux_kit.produce("orders", "null")
    flux_kit.run(billing)
    assert flux_kit.dead_letters(billing).one().reason == "undecodable"


@pytest.mark.parametrize("kind", [Model, dict, str, bytes])
def test_a_producer_without_none_in_its_type_writes_no_tombstone(flux_kit: Kit, kind: Any) -> None:
    orders, _, _ = classes_for(kind)
    for write in (orders.produce, orders.send):
        with pytest.raises(
            flux.ConfigurationError, match=r"a tombstone for .*Orders: only a flux.Producer\[.* \| None\]"
        ):
            write(None)
    assert len(flux_kit.topic("orders")) == 0


def test_a_named_deserializer_does_not_change_what_tombstones_are(flux_kit: Kit) -> None:
    class Billing(flux.Task[dict[str, Any]]):
        topic = "orders"
        group_id = "billing"
        deserializer = serde.json_deserializer

        def call(self, message: flux.Message[dict[str, Any]]) -> None: ...

    flux_kit.produce("orders", None)
    flux_kit.produce("orders", "{}")
    assert flux_kit.run(Billing).done == 1
    assert flux_kit.dead_letters(Billing).one().reason == "tombstone"


def test_of_a_batch_only_the_tombstones_are_dead_letters(flux_kit: Kit) -> None:
    got: list[Any] = []

    class Load(flux.BatchTask[dict[str, Any]]):
        topic = "orders"
        group_id = "load"

        def call(self, messages: Sequence[flux.Message[dict[str, Any]]]) -> None:
            got.extend(message.value for message in messages)

    for value in ('{"id":1}', None, '{"id":2}'):
        flux_kit.produce("orders", value)
    flux_kit.run(Load)
    assert got == [{"id": 1}, {"id": 2}]
    assert flux_kit.dead_letters(Load).one().reason == "tombstone"


def test_without_a_type_parameter_nothing_changes(flux_kit: Kit) -> None:
    orders, billing, got = classes_for(Any)
    orders.produce(b"1")
    orders.produce(None)
    assert flux_kit.run(billing).done == 2
    assert got == [b"1", None]


# ---- who gives the functions


class Orders(flux.Producer[Model]):
    topic = "orders"


def test_a_named_function_comes_before_values_and_these_before_the_type(flux_kit: Kit) -> None:
    class Values(flux.Producer[Any]):
        topic = "orders"
        values = serde.json(dict)

    Values.produce({"a": 1})
    with pytest.raises(TypeError, match="an instance of dict was expected"):
        Values.produce(Model(id="1"))
    Values.serializer = staticmethod(lambda value: b"named")
    Values.produce({"a": 1})
    del Values.serializer
    del Values.values
    Values.produce(b"raw")
    assert flux_kit.topic("orders").values == [b'{"a":1}', b"named", b"raw"]


def test_an_instance_has_its_own_values(flux_kit: Kit) -> None:
    plain: Any = Orders()
    plain.values = serde.json(dict)
    plain.produce({"a": 1})
    Orders.produce(Model(id="1"))
    assert len(flux_kit.topic("orders")) == 2


def test_a_task_with_a_deserializer_alone_does_not_guess_how_to_write(flux_kit: Kit) -> None:
    class Billing(flux.Task[Model]):
        topic = "orders"
        group_id = "billing"
        deserializer = staticmethod(Model.model_validate_json)

        def call(self, message: flux.Message[Model]) -> None: ...

    with pytest.raises(flux.ConfigurationError, match=r"give .*enqueue a serializer"):
        Billing.enqueue(Model(id="1"))


def test_values_that_are_none_are_refused_at_the_start(flux_kit: Kit) -> None:
    _, billing, _ = classes_for(Model)
    billing.values = serde.json_deserializer
    with pytest.raises(flux.ConfigurationError, match=r"Billing: values = .*: give flux.serde.json\(…\)"):
        flux_kit.run(billing)


class Unreadable:
    pass


class Unfinished(BaseModel):
    other: Nowhere  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize("kind", [Unreadable, Unfinished, list[Unreadable], complex])
def test_a_type_that_cannot_be_read_is_refused_at_the_start(flux_kit: Kit, kind: Any) -> None:
    orders, billing, _ = classes_for(kind)
    with pytest.raises(flux.ConfigurationError, match=r"Billing: .*cannot"):
        flux_kit.run(billing)
    with pytest.raises(flux.ConfigurationError, match=r"Orders: .*cannot"):
        orders.produce(object())


def test_without_cattrs_the_error_says_what_to_install(flux_kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cattrs.preconf.json", None)
    _, billing, _ = classes_for(Attrs)
    with pytest.raises(flux.ConfigurationError, match=r'pip install "super-flux\[models\]"'):
        flux_kit.run(billing)
