"""The AsyncAPI 3 document of an application's tasks and producers: the topics that it reads and writes, and their
values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from flux.core.stage import Stages
from flux.serde.json_schemas import json_schemas

_BINDING = "0.5.0"  # the version of AsyncAPI's Kafka bindings


@attrs.frozen
class Endpoint:
    """A task or a producer. `kind`: the type of its values; None: bytes, or unknown. `stages`: a task's."""

    name: str
    topic: str
    description: str = ""
    kind: Any = None
    stages: Stages | None = None


def asyncapi_document(endpoints: Sequence[Endpoint], title: str, version: str) -> dict[str, Any]:
    """The document as JSON. Retry topics are the tasks' own, and not in it."""
    schemas, definitions = json_schemas(each.kind for each in endpoints if each.kind is not None)
    document = _Document()
    for each in endpoints:
        document.add(each, None if each.kind is None else schemas[each.kind])
    components: dict[str, Any] = {"messages": document.messages}
    if definitions:
        components["schemas"] = dict(definitions)
    return {
        "asyncapi": "3.0.0",
        "info": {"title": title, "version": version},
        "channels": document.channels,
        "operations": document.operations,
        "components": components,
    }


class _Document:
    def __init__(self) -> None:
        self.channels: dict[str, Any] = {}
        self.operations: dict[str, Any] = {}
        self.messages: dict[str, Any] = {}
        self._topics: dict[str, str] = {}
        """The topic of each channel."""

    def add(self, each: Endpoint, payload: Mapping[str, Any] | None) -> None:
        if each.stages is None:
            self._operation(each, each.name, "send", each.topic, payload)
            return
        bindings = {"groupId": {"type": "string", "enum": [each.stages.group]}, "bindingVersion": _BINDING}
        self._operation(each, each.name, "receive", each.topic, payload, {"kafka": bindings})
        dead = each.stages[each.stages.dead].topic
        self._operation(each, f"{each.name}-dead-letters", "send", dead, payload)

    def _operation(
        self,
        each: Endpoint,
        name: str,
        action: str,
        topic: str,
        payload: Mapping[str, Any] | None,
        bindings: Mapping[str, Any] | None = None,
    ) -> None:
        message = self._message(topic, each.kind, payload)
        place = _free(topic, topic, self._topics)
        self._topics[place] = topic
        channel = self.channels.setdefault(
            place,
            {"address": topic, "messages": {}, "bindings": {"kafka": {"topic": topic, "bindingVersion": _BINDING}}},
        )
        channel["messages"][message] = {"$ref": f"#/components/messages/{message}"}
        operation: dict[str, Any] = {
            "action": action,
            "channel": {"$ref": f"#/channels/{place}"},
            "messages": [{"$ref": f"#/channels/{place}/messages/{message}"}],
        }
        if each.description:
            operation["description"] = each.description
        if bindings:
            operation["bindings"] = bindings
        self.operations[_free(name, operation, self.operations)] = operation

    def _message(self, topic: str, kind: Any, payload: Mapping[str, Any] | None) -> str:
        found: dict[str, Any] = {"contentType": "application/octet-stream"}
        if payload is not None:
            text = payload == {"type": "string"}
            found = {"contentType": "text/plain" if text else "application/json", "payload": dict(payload)}
        wanted = kind.__name__ if isinstance(kind, type) and kind is not str else topic
        name = _free(wanted, found, self.messages)
        self.messages[name] = found
        return name


def _free(name: str, content: object, taken: Mapping[str, object]) -> str:
    """The name as AsyncAPI takes it, with a number if it is taken by another content."""
    name = wanted = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    number = 1
    while taken.get(name, content) != content:
        number += 1
        name = f"{wanted}-{number}"
    return name
