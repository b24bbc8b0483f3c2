import json
from datetime import timedelta
from unittest.mock import patch

from django.core import mail
from django.core.management import CommandError, call_command
from django.db import OperationalError, transaction
from django.test import TestCase
from django.utils import timezone
from mails.tasks import SendMail
from shop.tasks import find

from flux.testing import Kit, kit
from orders.models import Order
from orders.producers import announce
from orders.tasks import BillOrder


class ShopTestCase(TestCase):
    """Each test has a database and a Kafka in memory."""

    kit: Kit

    def setUp(self) -> None:
        self.kit = self.enterContext(kit())

    def place(self, customer: str = "ada@shop.example") -> int:
        with self.captureOnCommitCallbacks(execute=True):
            answer = self.client.post("/orders", {"customer": customer, "cents": 1999}, "application/json")
        self.assertEqual(answer.status_code, 201)
        return int(json.loads(answer.content)["order"])


class Orders(ShopTestCase):
    def test_an_order_is_billed_and_mailed(self) -> None:
        number = self.place()
        self.kit.run(BillOrder, SendMail)
        self.assertIsNotNone(Order.objects.get(pk=number).billed_at)
        self.assertEqual([each.subject for each in mail.outbox], [f"Order {number} is billed"])

    def test_an_order_that_is_rolled_back_is_told_to_nobody(self) -> None:
        with self.captureOnCommitCallbacks(execute=True), self.assertRaises(OSError), transaction.atomic():
            announce(Order.objects.create(customer="ada@shop.example", cents=1))
            raise OSError
        self.assertEqual(len(self.kit.topic("orders")), 0)

    def test_a_record_that_comes_twice_bills_once(self) -> None:
        number = self.place()
        self.kit.run(BillOrder)
        billed_at = Order.objects.get(pk=number).billed_at
        self.kit.produce("orders", json={"order": number})
        self.assertEqual(self.kit.run(BillOrder).done, 1)
        self.assertEqual(Order.objects.get(pk=number).billed_at, billed_at)

    def test_an_order_that_was_deleted_is_a_dead_letter(self) -> None:
        self.kit.produce("orders", json={"order": 999})
        self.kit.run(BillOrder)
        self.assertEqual(self.kit.dead_letters(BillOrder).one().reason, "rejected")

    def test_a_database_that_is_away_is_tried_again(self) -> None:
        self.place()
        with patch.object(Order.objects, "select_for_update", side_effect=OperationalError("away")):
            self.assertEqual(self.kit.run(BillOrder).retried, 1)
        self.kit.run_to_the_end(BillOrder)
        self.assertIsNotNone(Order.objects.get().billed_at)

    def test_an_order_whose_record_was_lost_is_announced_again(self) -> None:
        lost = Order.objects.create(customer="ada@shop.example", cents=1)
        Order.objects.create(customer="eve@shop.example", cents=1)  # a moment ago: its record is in flight
        Order.objects.filter(pk=lost.pk).update(placed_at=timezone.now() - timedelta(hours=2))
        with self.captureOnCommitCallbacks(execute=True):
            call_command("announce")
        self.assertEqual(self.kit.topic("orders").json(), [{"order": lost.pk}])


class Work(ShopTestCase):
    def test_the_tasks_of_all_apps_are_found(self) -> None:
        self.assertEqual(find(), {"BillOrder": BillOrder, "SendMail": SendMail})

    def test_a_task_that_is_not_there_is_named(self) -> None:
        with self.assertRaisesMessage(CommandError, "no task Bill: there are BillOrder, SendMail"):
            call_command("work", "Bill")
