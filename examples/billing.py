"""Bills orders and sends a receipt for each.

Try it against a Kafka at localhost:9092:

    export FLUX_ADAPTER=confluent://localhost:9092
    flux process --load examples/billing.py --create-topics
    echo 'ada|{"order": 1, "cents": 1999}' | flux produce orders --key-separator '|'
"""

import logging

import flux
from flux.serde import json_deserializer, json_serializer

logger = logging.getLogger("billing")


class Receipts(flux.Producer):
    topic = "receipts"
    serializer = json_serializer


class Billing(flux.Task):
    topic = "orders"
    group_id = "billing"
    retries = 3
    wait = [2, 10, 60]  # seconds; leave it out for waits from 45 seconds to days
    deserializer = staticmethod(json_deserializer)

    def call(self, message: flux.Message) -> None:
        order = message.value
        if order["cents"] < 0:
            raise flux.Reject("a negative amount cannot be charged")  # a dead letter at once
        if order["cents"] == 13 and message.attempt < 3:
            raise TimeoutError("the payment provider does not answer")  # tried again after a wait, twice
        logger.info("billed order %s at attempt %d", order["order"], message.attempt)
        # The order counts as done when its receipt is acknowledged.
        Receipts.produce({"order": order["order"], "paid": order["cents"]}, key=message.key)


if __name__ == "__main__":
    raise SystemExit(flux.Worker(Billing, create_topics=True).run())
