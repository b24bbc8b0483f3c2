"""`flux asyncapi`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click

from flux.cli.options import load_option

if TYPE_CHECKING:
    from flux.operate.asyncapi import Endpoint


@click.command(
    epilog="""\b
Examples:
  flux asyncapi --load billing.py > asyncapi.json
  flux asyncapi --load shop.tasks --title Shop --api-version 2.1.0"""
)
@load_option
@click.option("--title", default="flux application", show_default=True, help="Title of the document.")
@click.option("--api-version", default="1.0.0", show_default=True, metavar="V", help="Version of your application.")
def command(sources: tuple[str, ...], title: str, api_version: str) -> None:
    """Print the AsyncAPI 3 document of the tasks and producers in your code, as JSON: topics, groups, and the schemas
    of values whose type is known. It needs no cluster."""
    from flux.cli.load_code import load
    from flux.operate.asyncapi import asyncapi_document

    if not sources:
        raise click.UsageError("name your code: --load FILE_OR_MODULE")
    endpoints = dict.fromkeys(each for source in sources for each in _endpoints(load(source)))
    if not endpoints:
        raise click.UsageError("no task and no producer with a topic was found")
    click.echo(json.dumps(asyncapi_document([*endpoints], title, api_version), indent=2))


def _endpoints(module: ModuleType) -> Iterator[Endpoint]:
    from flux.cli.load_code import tasks_in
    from flux.operate.asyncapi import Endpoint
    from flux.producer import Producer
    from flux.task import Task

    for found in tasks_in(module):
        if found.task.topic:
            stages = found.task.policy().stages
            yield Endpoint(found.name, stages.topic, _description(found.task), _kind(found.task, Task), stages)
    for name, value in vars(module).items():
        if isinstance(value, type) and issubclass(value, Producer) and value.topic:
            yield Endpoint(name, value.topic, _description(value), _kind(value, Producer))


def _description(cls: type) -> str:
    """Its own docstring."""
    return inspect.cleandoc(cls.__dict__.get("__doc__") or "")


def _kind(cls: Any, base: type) -> Any:
    """The type of its values; None: bytes, or those of a function that says nothing about them."""
    from flux.serde.parameters import assigned
    from flux.serde.typed import bare, type_argument, without_none

    named = assigned(cls, "deserializer") or assigned(cls, "serializer") or cls.values
    kind = without_none(type_argument(cls, base))[0]
    return None if named is not None or kind is Any or bare(kind) is bytes else kind
