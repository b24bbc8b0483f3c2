from functools import partial

from django.db import transaction

import flux
from flux.serde import json_serializer
from orders.models import Order


class Orders(flux.Producer):
    topic = "orders"
    serializer = json_serializer


def announce(order: Order) -> None:
    """Produces the order when the transaction is committed, and not if it is rolled back. The worker
    may be quicker than the commit otherwise, and find no order. `send` holds nothing back, as a server may be stopped
    without ceremony; what fails goes to the log, and `manage.py announce` finds it."""
    transaction.on_commit(partial(Orders.send, {"order": order.pk}, key=order.customer))
