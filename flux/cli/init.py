"""`flux init`."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from flux.core.text import escape


@click.command(
    epilog="""\b
Examples:
  flux init
  flux init shop
  flux init shop --outbox"""
)
@click.option(
    "--outbox", is_flag=True, help="Also write a program that produces in the transactions of a database, and its test."
)
@click.argument("directory", default=".", type=click.Path(path_type=Path), metavar="[DIR]")
def command(outbox: bool, directory: Path) -> None:
    """Write a first task, its test, and a compose file with Kafka.

    DIR is created if needed; the default is the current directory. Files are never overwritten.
    """
    wanted = files(outbox)
    there = [name for name in wanted if (directory / name).exists() or (directory / name).is_symlink()]
    if there:
        raise click.ClickException(f"{directory} already has {', '.join(there)}: choose another directory")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in wanted.items():
            with (directory / name).open("x", encoding="utf-8") as file:
                file.write(text)
            click.echo(f"wrote {_shown(directory / name)}")
    except OSError as error:
        raise click.ClickException(f"cannot write to {directory}: {error.strerror}") from None
    steps = commands(outbox)
    if directory.resolve() != Path.cwd():
        steps[0] = f"cd {shlex.quote(_shown(directory))} && {steps[0]}"
    click.echo("\nNext:\n" + "\n".join(f"  {step}" for step in steps))


def _shown(path: Path) -> str:
    """Without what an encoding lacks, and without control characters."""
    return escape(click.format_filename(path))


TASK = '''\
r"""Sends invoices.

Produce some, with this in one terminal and `flux process` in another:

    printf 'ada:hello\\nbob:flaky\\neve:broken\\n' | flux produce invoices --adapter {adapter} --key-separator :
"""

import flux


class Invoices(flux.Producer[str]):
    topic = "invoices"


class SendInvoice(flux.Task[str]):
    topic = "invoices"
    group_id = "billing"
    retries = 3
    wait = 5  # seconds; leave it out for the default backoff
    # exactly_once = True  # for calls that only write to Kafka; a mail may still be sent twice

    def call(self, message: flux.Message[str]) -> None:
        if message.value == "broken":
            raise flux.Reject("no such customer")  # a dead letter at once
        if message.value == "flaky" and message.attempt == 1:
            raise ConnectionError("mail server unavailable")  # the next stage
        print(f"sent {{message.value}} to {{message.key}} (attempt {{message.attempt}})")
'''

TEST = '''\
"""Without Kafka: the fixture `flux_kit` comes with flux."""

from billing import Invoices, SendInvoice


def test_an_invoice_is_sent(flux_kit, capsys):
    Invoices.produce("hello", key="ada")
    assert flux_kit.run(SendInvoice).done == 1
    assert capsys.readouterr().out == "sent hello to b'ada' (attempt 1)\\n"


def test_an_unavailable_mail_server_is_a_retry(flux_kit):
    Invoices.produce("flaky", key="bob")
    assert flux_kit.run(SendInvoice).failed == 1
    flux_kit.clock.advance(5)
    assert flux_kit.run(SendInvoice).done == 1
    assert flux_kit.dead_letters(SendInvoice) == []


def test_an_invoice_for_nobody_is_a_dead_letter(flux_kit):
    Invoices.produce("broken", key="eve")
    flux_kit.run(SendInvoice)
    (dead_letter,) = flux_kit.dead_letters(SendInvoice)
    assert dead_letter.key == b"eve"
'''

OUTBOX = '''\
"""Takes orders. Each is a row of the database and an invoice's record, or neither of them."""

import sqlite3
import sys
from contextlib import closing

from billing import Invoices
from flux.outbox import Outbox

DATABASE = "orders.db"


def order(customer: str, text: str) -> None:
    with closing(sqlite3.connect(DATABASE)) as db, db:  # the end of the block commits, an exception rolls back
        db.execute("CREATE TABLE IF NOT EXISTS orders (customer TEXT NOT NULL, text TEXT NOT NULL)")
        db.execute("INSERT INTO orders VALUES (?, ?)", (customer, text))
        Outbox.produce(db, Invoices, text, key=customer)


if __name__ == "__main__":
    order(*sys.argv[1:])
'''

OUTBOX_TEST = '''\
"""Without Kafka: the relay writes to the broker of the fixture `flux_kit`."""

import sqlite3

import pytest
from flux.outbox import Relay, open_store

import orders
from billing import SendInvoice


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(orders, "DATABASE", str(tmp_path / "orders.db"))
    store = open_store(f"sqlite:///{orders.DATABASE}")
    store.create()
    return store


def test_an_order_is_invoiced(flux_kit, store, capsys):
    orders.order("ada", "hello")
    Relay(store).run_once()
    assert flux_kit.run(SendInvoice).done == 1
    assert capsys.readouterr().out == "sent hello to b'ada' (attempt 1)\\n"


def test_an_order_that_is_rolled_back_is_not_invoiced(flux_kit, store):
    with pytest.raises(sqlite3.IntegrityError):
        orders.order("ada", None)
    assert Relay(store).run_once() == 0
'''

COMPOSE = """\
# A Kafka of one broker, for development: {address} on this machine. Its records are deleted with the container.
services:
  kafka:
    image: {image}
    ports:
      - "127.0.0.1:9092:9092"
    healthcheck:
      test: ["CMD", "/opt/kafka/bin/kafka-topics.sh", "--bootstrap-server", "localhost:9092", "--list"]
      interval: 5s
      timeout: 10s
      retries: 12
"""

IMAGE = "apache/kafka:4.3.0"
ADDRESS = "localhost:9092"
ADAPTER = f"confluent://{ADDRESS}"


def files(outbox: bool = False) -> dict[str, str]:
    """Texts by file name."""
    found = {
        "billing.py": TASK.format(adapter=ADAPTER),
        "test_billing.py": TEST,
        "compose.yaml": COMPOSE.format(address=ADDRESS, image=IMAGE),
    }
    return found | {"orders.py": OUTBOX, "test_orders.py": OUTBOX_TEST} if outbox else found


def commands(outbox: bool = False) -> list[str]:
    """The next steps."""
    relay = f"flux relay --database sqlite:///orders.db --adapter {ADAPTER}"
    return [
        "python -m pytest",
        "docker compose up --detach --wait",
        *([f"{relay} --create-table --once", "python orders.py ada hello", f"{relay} &"] if outbox else []),
        f"flux process --load billing.py --adapter {ADAPTER} --create-topics",
    ]
