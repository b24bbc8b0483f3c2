from __future__ import annotations

from billing import Billing

from flux.testing import Kit


def order(kit: Kit, number: int, cents: int) -> None:
    kit.produce("orders", json={"order": number, "cents": cents}, key="ada")


def test_an_order_is_billed_and_receipted(flux_kit: Kit) -> None:
    order(flux_kit, 1, 1999)
    assert flux_kit.run(Billing).done == 1
    flux_kit.assert_produced("receipts", key="ada", json={"order": 1, "paid": 1999}, count=1)


def test_a_provider_that_does_not_answer_is_asked_again(flux_kit: Kit) -> None:
    order(flux_kit, 1, 13)
    flux_kit.run(Billing)
    assert [each.seconds for each in flux_kit.waiting(Billing)] == [2]
    summary = flux_kit.run_to_the_end(Billing)
    assert (summary.done, summary.failed, summary.dead) == (1, 1, 0)
    flux_kit.assert_produced("receipts", json={"order": 1, "paid": 13}, count=1)


def test_a_negative_amount_is_a_dead_letter_at_once(flux_kit: Kit) -> None:
    order(flux_kit, 1, -5)
    assert flux_kit.run(Billing).dead == 1
    assert len(flux_kit.topic("receipts")) == 0
