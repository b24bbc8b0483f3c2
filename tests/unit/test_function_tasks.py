from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, get_type_hints

import attrs
import pytest

import flux
from flux.function_tasks import FunctionTask, Settings
from flux.testing import Kit


@attrs.frozen
class Order:
    id: str


seen: list[Any] = []


@pytest.fixture(autouse=True)
def _nothing_is_seen() -> None:
    seen.clear()


@flux.task(topic="orders", group_id="audit", retries=2)
def audit(message: flux.Message[Order]) -> str:
    """Writes an order down."""
    seen.append(message.value)
    return message.value.id


@flux.task(topic="orders", group_id="audit")
async def audit_in_a_loop(message: flux.Message[Order]) -> str:
    await asyncio.sleep(0)
    seen.append(message.value)
    return message.value.id


def message_of(value: Any) -> flux.Message[Any]:
    message: flux.Message[Any] = flux.Message()
    message.value = value
    return message


def test_it_is_a_task_and_can_still_be_called() -> None:
    assert isinstance(audit, flux.Task)
    assert (audit.topic, audit.group_id, audit.retries, audit.__name__) == ("orders", "audit", 2, "audit")
    assert (type(audit).__name__, type(audit).__module__, audit.__doc__) == ("audit", __name__, "Writes an order down.")
    assert audit(message_of(Order("1"))) == "1"
    assert asyncio.run(audit_in_a_loop(message_of(Order("2")))) == "2"
    assert seen == [Order("1"), Order("2")]


@pytest.mark.parametrize("task", [audit, audit_in_a_loop])
def test_the_annotation_of_its_message_gives_the_type_of_values(flux_kit: Kit, task: FunctionTask[Order, Any]) -> None:
    pytest.importorskip("cattrs")
    task.enqueue(Order("1"))
    flux_kit.produce("orders", json={"id": "2"})
    flux_kit.produce("orders", json={"x": "2"})
    assert flux_kit.run(task).done == 2
    assert seen == [Order("1"), Order("2")]
    assert flux_kit.dead_letters(task).one().reason == "undecodable"


def plainly(message):  # type: ignore[no-untyped-def]
    seen.append(message.value)


def of_any(message: flux.Message) -> None:
    seen.append(message.value)


def with_more(more: str, message: flux.Message[Order]) -> None:
    seen.append((more, message.value))


class Callable:
    def __call__(self, message: flux.Message[Order]) -> None:
        seen.append(message.value)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (plainly, b'{"id":"1"}'),
        (of_any, b'{"id":"1"}'),
        (lambda message: seen.append(message.value), b'{"id":"1"}'),
        (Callable(), Order("1")),
        (partial(with_more, "more"), ("more", Order("1"))),
    ],
)
def test_any_function_of_a_message_can_be_a_task(flux_kit: Kit, function: Any, expected: Any) -> None:
    task = flux.task(topic="orders", group_id="audit")(function)
    flux_kit.produce("orders", '{"id":"1"}')
    assert flux_kit.run(task).done == 1
    assert seen == [expected]


def test_a_type_that_cannot_be_found_is_refused_at_the_start(flux_kit: Kit) -> None:
    class Local:
        pass

    @flux.task(topic="orders", group_id="audit")
    def local(message: flux.Message[Local]) -> None: ...

    with pytest.raises(flux.ConfigurationError, match=r"local: the type of its values cannot be found: .*'Local'"):
        flux_kit.run(local)


def test_an_annotation_without_a_type_of_values_need_not_be_found(flux_kit: Kit) -> None:
    from flux import Message as Hidden

    @flux.task(topic="orders", group_id="audit")
    def local(message: Hidden) -> None:
        seen.append(message.value)

    flux_kit.produce("orders", "x")
    assert flux_kit.run(local).done == 1
    assert seen == [b"x"]


def test_an_unknown_setting_is_refused() -> None:
    wrong: Any = {"retrys": 3}
    with pytest.raises(flux.ConfigurationError, match="unknown setting retrys"):
        flux.task(topic="orders", group_id="audit", **wrong)


def test_its_settings_have_the_types_of_a_task_s_attributes() -> None:
    """Those that differ are functions, which a class would bind, and have narrower types here."""
    own = get_type_hints(Settings)
    of_task = {name: hint for name, hint in get_type_hints(flux.Task).items() if not name.startswith("_")}
    assert own.keys() == of_task.keys() - {"topic", "group_id"}
    differing = {name for name, hint in own.items() if hint != of_task[name]}
    assert differing <= {"deserializer", "serializer", "values", "concurrency_key", "rate_limit_key"}
