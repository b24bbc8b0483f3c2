"""`flux produce`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

import click

from flux.cli.options import adapter_option

if TYPE_CHECKING:
    from flux.core.errors import DeliveryError, FailedRecord
    from flux.producer import Producer

_NAMED = 10
_GIVE_UP = 1000
"""Failures after which it gives up: they have one cause."""


@click.command(
    epilog="""\b
Examples:
  flux produce orders orders.jsonl
  echo 'c42|{"order": 1}' | flux produce orders --key-separator '|'
  flux produce orders --header source=replay --adapter confluent://localhost:9092 < orders.jsonl"""
)
@click.option("--key-separator", metavar="S", help="Lines are KEY, S, VALUE; a line without S has no key.")
@click.option("--header", "headers", multiple=True, metavar="K=V", help="A header for each record. Repeatable.")
@adapter_option
@click.argument("topic")
@click.argument("file", type=click.File("rb"), default="-")
def command(key_separator: str | None, headers: tuple[str, ...], topic: str, file: IO[bytes]) -> None:
    """Write each line of FILE, or of standard input, to TOPIC as a record."""
    from flux.cli import log
    from flux.cli.output import print_error
    from flux.core.stage import check_topic
    from flux.core.text import one_line

    if key_separator == "":
        raise click.UsageError("--key-separator is empty")
    pairs = [_header(header) for header in headers]
    check_topic(topic)
    log.quiet()
    failures = ProduceFailures()
    producer = _producer(topic, failures)
    taken = 0
    try:
        with _progress(file) as advance:
            for line in _lines(file, failures):
                key, value = _split(line, key_separator)
                producer.produce(value, key=key, headers=pairs)
                taken += 1
                advance(len(line) + 1)
    finally:
        failures.collect(producer)
        click.echo(f"{taken - failures.count:,} delivered to {one_line(topic)}")
    for failed in failures.named:
        print_error(one_line(repr(failed)[1:-1]))
    if failures.count:
        stopped = "; the rest of the input was not read" if failures.count >= _GIVE_UP else ""
        raise click.ClickException(f"{failures.count:,} not delivered{stopped}")


class ProduceFailures:
    """Counts each record once, whether `on_error` gets it, `flush` raises it, or both."""

    def __init__(self) -> None:
        self.count = 0
        self.named: list[FailedRecord] = []
        self._seen: dict[int, FailedRecord] = {}

    def add(self, error: DeliveryError) -> None:
        for failed in error.failed:
            if id(failed) not in self._seen:
                self._seen[id(failed)] = failed
                self.count += 1
                if len(self.named) < _NAMED:
                    self.named.append(failed)

    def collect(self, producer: type[Producer]) -> None:
        from flux.core.errors import DeliveryError

        try:
            producer.flush()
        except DeliveryError as error:
            self.add(error)


def _producer(topic: str, failures: ProduceFailures) -> type[Producer]:
    import flux

    class Lines(flux.Producer):
        on_error = staticmethod(failures.add)

    Lines.topic = topic
    return Lines


def _lines(file: IO[bytes], failures: ProduceFailures) -> Iterator[bytes]:
    for line in file:
        if failures.count >= _GIVE_UP:
            return
        yield line.removesuffix(b"\n").removesuffix(b"\r")


def _split(line: bytes, separator: str | None) -> tuple[bytes | None, bytes]:
    if separator is None:
        return None, line
    key, found, value = line.partition(separator.encode())
    return (key, value) if found else (None, line)


def _header(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise click.UsageError(f"--header {text!r}: write name=value")
    return name, value


@contextmanager
def _progress(file: IO[bytes]) -> Iterator[Callable[[int], object]]:
    """On a terminal, a bar on stderr."""
    if not sys.stderr.isatty() or (file.isatty() if hasattr(file, "isatty") else False):
        yield lambda size: None
        return
    import os
    import stat

    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

    found = os.fstat(file.fileno())
    total = found.st_size if stat.S_ISREG(found.st_mode) else None
    columns: Iterable[str | BarColumn | DownloadColumn | TextColumn | TimeElapsedColumn] = (
        BarColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[records]:,} records"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total, records=0)
        pending = [0, 0]

        def advance(size: int) -> None:
            pending[0] += size
            pending[1] += 1
            if pending[1] % 500 == 0:
                bar.update(task, completed=pending[0], records=pending[1])

        yield advance
        bar.update(task, completed=pending[0], records=pending[1])
