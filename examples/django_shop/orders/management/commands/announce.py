"""`manage.py announce`, from a timer: a process that dies between a commit and Kafka's answer leaves an order that
was not produced. Producing it twice is harmless, because an order is billed once."""

from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

import flux
from orders.models import Order
from orders.producers import Orders, announce


class Command(BaseCommand):
    help = "Tells Kafka again of orders that nobody has billed for an hour."

    def handle(self, *_: object, **options: Any) -> None:
        late = Order.objects.filter(billed_at=None, placed_at__lt=timezone.now() - timedelta(hours=1))
        for order in late.iterator():
            announce(order)
        try:
            Orders.flush()
        except flux.DeliveryError as error:
            raise CommandError(str(error)) from None
