"""The AsyncAPI document of an application: what it says, and that other tools can read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from flux.cli.main import cli

APPLICATION = '''
import attrs
import msgspec
from pydantic import BaseModel

import flux
from flux.serde import json_deserializer


class Line(BaseModel):
    article: str


class Order(BaseModel):
    lines: list[Line]


class Payment(msgspec.Struct):
    cents: int


@attrs.define
class Note:
    text: str


class Orders(flux.Producer[Order]):
    topic = "orders"


class Notes(flux.Producer[Note]):
    topic = "notes"


class Base(flux.Task[Order]):
    """Has no topic, so it is not in the document."""


class Billing(Base):
    """Bills an order."""

    topic, group_id, retries = "orders", "billing", 2

    def call(self, message): ...


class Booking(flux.Task[Payment | None]):
    topic, group_id, retries = "payments.v1", "booking", 0

    async def call(self, message): ...


class Texts(flux.Task[str]):
    topic, group_id, retries = "texts", "reading", 0

    def call(self, message): ...


class Decoded(flux.Task):
    topic, group_id, retries = "orders", "decoding", 0
    deserializer = json_deserializer

    def call(self, message): ...
'''


@pytest.fixture
def document(tmp_path: Path) -> Any:
    for needed in ("pydantic", "msgspec"):
        pytest.importorskip(needed)
    file = tmp_path / "asyncapi_app.py"
    file.write_text(APPLICATION)
    command = ["asyncapi", "--load", str(file), "--title", "Shop", "--api-version", "2.1.0"]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def test_it_names_the_topics_and_what_reads_and_writes_them(document: Any) -> None:
    assert document["info"] == {"title": "Shop", "version": "2.1.0"}
    assert {name: (each["action"], each["channel"]["$ref"]) for name, each in document["operations"].items()} == {
        "Billing": ("receive", "#/channels/orders"),
        "Billing-dead-letters": ("send", "#/channels/orders-billing-dlq"),
        "Booking": ("receive", "#/channels/payments_v1"),
        "Booking-dead-letters": ("send", "#/channels/payments_v1-booking-dlq"),
        "Texts": ("receive", "#/channels/texts"),
        "Texts-dead-letters": ("send", "#/channels/texts-reading-dlq"),
        "Decoded": ("receive", "#/channels/orders"),
        "Decoded-dead-letters": ("send", "#/channels/orders-decoding-dlq"),
        "Orders": ("send", "#/channels/orders"),
        "Notes": ("send", "#/channels/notes"),
    }
    billing = document["operations"]["Billing"]
    assert billing["description"] == "Bills an order."
    assert billing["bindings"]["kafka"]["groupId"] == {"type": "string", "enum": ["billing"]}
    assert {name: each["address"] for name, each in document["channels"].items()}["payments_v1"] == "payments.v1"


def test_values_have_the_schemas_of_their_types(document: Any) -> None:
    messages, schemas = document["components"]["messages"], document["components"]["schemas"]
    assert messages["Order"]["payload"]["$ref"] == "#/components/schemas/Order"
    assert schemas["Order"]["properties"]["lines"]["items"] == {"$ref": "#/components/schemas/Line"}
    assert messages["Payment"]["payload"] == {"$ref": "#/components/schemas/Payment"}
    assert schemas["Payment"]["properties"] == {"cents": {"type": "integer"}}
    assert messages["texts"] == {"contentType": "text/plain", "payload": {"type": "string"}}
    assert messages["Note"] == {"contentType": "application/json", "payload": {}}


def test_values_of_a_deserializer_have_no_schema(document: Any) -> None:
    (message,) = document["operations"]["Decoded"]["messages"]
    assert message == {"$ref": "#/channels/orders/messages/orders"}
    assert "payload" not in document["components"]["messages"]["orders"]


def test_all_references_lead_somewhere(document: Any) -> None:
    def references(part: Any) -> list[str]:
        if isinstance(part, list):
            return [each for inner in part for each in references(inner)]
        if not isinstance(part, dict):
            return []
        own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
        return own + [each for inner in part.values() for each in references(inner)]

    found = references(document)
    assert len(found) > 20
    for reference in found:
        part = document
        for step in reference.removeprefix("#/").split("/"):
            assert step in part, reference
            part = part[step]


def test_another_library_reads_it(document: Any) -> None:
    asyncapi3 = pytest.importorskip("asyncapi3")
    read = asyncapi3.AsyncAPI3.model_validate(document)
    assert set(read.operations) == set(document["operations"])
    with pytest.raises(ValueError, match="action"):
        asyncapi3.AsyncAPI3.model_validate(document | {"operations": {"Odd": {"action": "reads"}}})


def test_two_types_of_one_name_stay_apart(tmp_path: Path) -> None:
    pytest.importorskip("pydantic")
    (tmp_path / "asyncapi_one.py").write_text(
        "import flux\nfrom dataclasses import dataclass\n@dataclass\nclass Order:\n    one: int\n"
        "class A(flux.Producer[Order]):\n    topic = 'a'\n"
    )
    (tmp_path / "asyncapi_two.py").write_text(
        "import flux\nfrom dataclasses import dataclass\n@dataclass\nclass Order:\n    two: int\n"
        "class B(flux.Producer[Order]):\n    topic = 'b'\n"
    )
    loads = [word for name in ("one", "two") for word in ("--load", str(tmp_path / f"asyncapi_{name}.py"))]
    result = CliRunner().invoke(cli, ["asyncapi", *loads])
    document = json.loads(result.output)
    shown = {
        name: next(iter(document["components"]["schemas"][each["payload"]["$ref"].rpartition("/")[2]]["properties"]))
        for name, each in document["components"]["messages"].items()
    }
    assert sorted(shown.values()) == ["one", "two"]
    assert len(document["components"]["messages"]) == 2


@pytest.mark.parametrize(
    ("code", "says"), [(None, "name your code"), ("x = 1", "no task and no producer with a topic was found")]
)
def test_code_without_any_is_a_wrong_usage(tmp_path: Path, code: str | None, says: str) -> None:
    (tmp_path / "asyncapi_empty.py").write_text(code or "")
    result = CliRunner().invoke(cli, ["asyncapi", *(["--load", str(tmp_path / "asyncapi_empty.py")] if code else [])])
    assert result.exit_code == 2
    assert says in result.output
