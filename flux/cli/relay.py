"""`flux relay`."""

from __future__ import annotations

import json
from contextlib import ExitStack
from types import FrameType
from typing import TYPE_CHECKING

import attrs
import click

from flux.cli import log
from flux.cli.options import adapter_option, json_option, load_option

if TYPE_CHECKING:
    from flux.core.ports.outbox import OutboxStatus, OutboxStore


@click.command(
    epilog="""\b
Examples:
  flux relay --print-table postgresql > migrations/outbox.sql
  flux relay --database postgresql://shop@db/shop --adapter confluent://localhost:9092
  flux relay --database sqlite:///shop.db --create-table --once
  flux relay --status"""
)
@click.option(
    "--database",
    metavar="URL",
    envvar="FLUX_DATABASE",
    show_envvar=True,
    help="The database of the outbox: postgresql://USER@HOST/DATABASE or sqlite:///PATH.",
)
@click.option("--table", metavar="NAME", default="flux_outbox", show_default=True, help="The outbox's table.")
@adapter_option
@load_option
@click.option(
    "--print-table",
    type=click.Choice(["postgresql", "sqlite"]),
    help="Print the statements that create the table, for a migration, and exit.",
)
@click.option("--create-table", is_flag=True, help="Create the table if it is missing, and go on.")
@click.option("--status", is_flag=True, help="Show what is in the table, and exit.")
@json_option("With --status: print a JSON object.")
@click.option("--once", is_flag=True, help="Move what is in the table, and exit.")
@click.option(
    "--interval",
    type=click.FloatRange(0.01, 60),
    default=0.2,
    show_default=True,
    metavar="SECONDS",
    help="Time between two looks at an empty table.",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Serve /metrics (Prometheus), /live and /ready.",
)
@click.option(
    "--metrics-host", metavar="ADDRESS", default="0.0.0.0", show_default=True, help="Address to serve them on."
)
@click.option("--log-level", type=click.Choice(log.LEVELS, case_sensitive=False), default="info", show_default=True)
@click.option("--log-format", type=click.Choice(log.FORMATS, case_sensitive=False), default="text", show_default=True)
def command(
    database: str | None,
    table: str,
    sources: tuple[str, ...],
    print_table: str | None,
    create_table: bool,
    status: bool,
    as_json: bool,
    once: bool,
    interval: float,
    metrics_port: int | None,
    metrics_host: str,
    log_level: str,
    log_format: str,
) -> None:
    """Move records from an outbox to Kafka until it is stopped.

    Records of one key keep their order, also with several relays. A record is deleted from the table when Kafka has
    acknowledged it. SIGINT, SIGTERM and SIGHUP stop the relay gracefully; the rest of the records stay in the table.
    """
    from flux.cli.load_code import load
    from flux.outbox import open_store
    from flux.outbox.statements import DIALECTS, checked_table, create_outbox

    for dialect in DIALECTS:
        if print_table == dialect:
            click.echo(
                "".join(f"{statement};\n" for statement in create_outbox(checked_table(table), dialect)), nl=False
            )
            return
    if database is None:
        raise click.UsageError("give --database URL, or set FLUX_DATABASE")
    store = open_store(database, table)
    for source in sources:
        load(source)
    if create_table:
        store.create()
        then = "" if status else "; moving its rows, once" if once else "; moving its rows until stopped"
        click.echo(f"table {table} exists{then}", err=True)
    if status:
        _show(_read(store), as_json)
        return
    log.configure(log_level, None, log_format)
    _relay(store, once, interval, metrics_port, metrics_host)


def _relay(store: OutboxStore, once: bool, interval: float, metrics_port: int | None, metrics_host: str) -> None:
    from flux import config
    from flux.core.errors import BrokerError
    from flux.operate.formatting import many
    from flux.outbox import Relay
    from flux.outbox.metrics import serving
    from flux.system.process_end import stop_signals_handled

    adapter = config.resolve_adapter()
    if not adapter.shares_processes:
        raise click.UsageError(
            f"{adapter.cluster} ends with this process, and the records with it: give --adapter another cluster"
        )
    relay = Relay(store, adapter=adapter, interval=interval)
    if once:
        try:
            click.echo(f"{many(relay.run_once(), 'record')} moved")
        except BrokerError as error:
            raise click.ClickException(f"the cluster takes no records: {error}") from None
        return
    signals: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        if signals:
            raise KeyboardInterrupt
        signals.append(number)
        relay.stop()

    with ExitStack() as stack:
        stack.enter_context(stop_signals_handled(stop))
        if metrics_port is not None:
            stack.enter_context(serving(relay, metrics_port, metrics_host))
        relay.run()


def _read(store: OutboxStore) -> OutboxStatus:
    try:
        return store.status()
    finally:
        store.close()


def _show(found: OutboxStatus, as_json: bool) -> None:
    from flux.cli.output import cell, console, table
    from flux.core.ports.outbox import COUNTED
    from flux.operate.formatting import key_of, lasting

    if as_json:
        examples = [attrs.asdict(each) | {"key": key_of(each.key)} for each in found.examples]
        click.echo(json.dumps(attrs.asdict(found, recurse=False) | {"examples": examples}))
        return
    out = console()
    rows = table("rows", "oldest", "refused", numbers=("rows", "refused"))
    more = "+" if found.rows >= COUNTED else ""
    oldest = "" if found.oldest is None else lasting(found.oldest)
    rows.add_row(cell(f"{found.rows:,}{more}"), cell(oldest), cell(found.refused, "red" if found.refused else ""))
    out.print(rows)
    if found.examples:
        refused = table("row", "topic", "key", "age", "error", numbers=("row",))
        for each in found.examples:
            refused.add_row(
                cell(each.id), cell(each.topic), cell(key_of(each.key)), cell(lasting(each.age)), cell(each.error)
            )
        out.print()
        out.print(refused)
