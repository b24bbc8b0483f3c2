"""Reads payments on the shop's cluster, and writes what the ledger needs of them to another one.

Each class has the cluster that is injected into it; the two know nothing of each other.
"""

import logging
import os

import flux
from flux.adapters.confluent import ConfluentAdapter
from flux.config import AdapterChoice
from flux.serde import json_deserializer, json_serializer


class LedgerEntries(flux.Producer):
    topic = "ledger-entries"
    serializer = json_serializer


class BookPayment(flux.Task):
    topic = "payments"
    group_id = "bookkeeping"  # its retry topics and dead letters are on the cluster that it reads
    pause_on = (flux.DeliveryError,)  # the ledger's cluster is unavailable: no payment is at fault
    deserializer = json_deserializer

    def call(self, message: flux.Message) -> None:
        payment = message.value
        if payment["cents"] <= 0:
            raise flux.Reject(f"{payment['cents']} cents")
        # The payment counts as done on the one cluster when its entry is acknowledged on the other.
        LedgerEntries.produce(
            {"payment": message.id, "cents": payment["cents"]}, key=message.key, headers={"payment-id": message.id}
        )


def inject(shop: AdapterChoice, ledger: AdapterChoice) -> None:
    """Sets an adapter, or its URL, for each class. This does not connect."""
    BookPayment.adapter = shop
    LedgerEntries.adapter = ledger
    LedgerEntries.options = flux.ProducerOptions(compression="lz4", delivery_timeout=60)


def login() -> dict[str, str]:
    """librdkafka's properties for the ledger's cluster."""
    password = os.environ.get("LEDGER_PASSWORD")
    if password is None:
        return {}
    return {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "bookkeeping",
        "sasl.password": password,
    }


def main() -> int:
    logging.basicConfig(level=logging.INFO)
    # a URL if that is enough; an object for callables, files or secrets
    ledger = ConfluentAdapter(os.environ["LEDGER_KAFKA"], {"client.id": "bookkeeping", **login()})
    inject(os.environ["SHOP_KAFKA"], ledger)
    return flux.Worker(BookPayment, create_topics=True).run()


if __name__ == "__main__":
    raise SystemExit(main())
