"""Sends the invoices of a file, one JSON object a line, and ends when all are sent:
`python shop_script.py invoices.jsonl`."""

import signal
import sys
from pathlib import Path

from shop_tasks import Invoice, Invoices, SendInvoice

import flux


def main(file: Path) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # raises in the block, whose end stops the worker
    with flux.Worker(SendInvoice, create_topics=True, exit_when_idle=3) as worker:
        for line in file.read_text().splitlines():
            invoice = Invoice.model_validate_json(line)
            Invoices.produce(invoice, key=invoice.customer)
        Invoices.flush()
        worker.wait()
    done = sum(stats.done for stats in worker.stats().values())
    print(f"{done} invoices sent")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
