from django.db import transaction
from django.utils import timezone
from mails.tasks import Mails
from shop.connections import fresh_connections

import flux
from flux.serde import json_deserializer
from orders.models import Order


class BillOrder(flux.Task):
    topic = "orders"
    group_id = "billing"
    concurrency = 4  # each thread has its own database connection
    reject_on = (Order.DoesNotExist,)  # the order was deleted meanwhile
    deserializer = json_deserializer
    middleware = (fresh_connections,)

    def call(self, message: flux.Message) -> None:
        with transaction.atomic():
            order = Order.objects.select_for_update().get(pk=message.value["order"])
            if order.billed_at is None:  # a record may be delivered twice: an order is billed once
                order.billed_at = timezone.now()
                order.save(update_fields=["billed_at"])
        # Outside the transaction, and also the second time: the process may have died in between.
        Mails.produce({"to": order.customer, "subject": f"Order {order.pk} is billed"}, key=order.customer)
