from __future__ import annotations

from collections.abc import Callable, Iterator

import bridge
import pytest
from bridge import BookPayment, LedgerEntries

import flux
from flux.adapters.memory import MemoryAdapter, forget
from flux.testing import Kit

SHOP, LEDGER = "memory://shop", "memory://ledger"


@pytest.fixture
def clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    for cls, name in [(BookPayment, "adapter"), (LedgerEntries, "adapter"), (LedgerEntries, "options")]:
        monkeypatch.setattr(cls, name, None)  # so that it is restored at the end
    bridge.inject(SHOP, LEDGER)


@pytest.mark.usefixtures("clusters")
class TestWithTheKit:
    """The kit gives each cluster its own broker, whatever its adapter is."""

    def pay(self, kit: Kit, cents: int) -> None:
        kit.produce(BookPayment, json={"cents": cents}, key="ada")

    def test_a_payment_of_the_one_cluster_is_an_entry_of_the_other(self, flux_kit: Kit) -> None:
        self.pay(flux_kit, 1999)
        assert flux_kit.run(BookPayment).done == 1
        flux_kit.assert_produced(LedgerEntries, key="ada", json={"payment": "payments/0/0", "cents": 1999}, count=1)
        assert flux_kit.topic(LedgerEntries.topic, adapter=SHOP) == []

    def test_retries_and_dead_letters_stay_on_the_cluster_that_is_read(self, flux_kit: Kit) -> None:
        self.pay(flux_kit, -5)
        flux_kit.run(BookPayment)
        assert flux_kit.dead_letters(BookPayment).one().json() == {"cents": -5}
        assert flux_kit.topic("payments-bookkeeping-dlq", adapter=LEDGER) == []

    def test_an_outage_of_the_ledgers_cluster_moves_no_payment(self, flux_kit: Kit) -> None:
        flux_kit.broker(LedgerEntries).fail_writes(away_twice())
        self.pay(flux_kit, 1999)
        flux_kit.run_to_the_end(BookPayment)
        flux_kit.assert_produced(LedgerEntries, json={"payment": "payments/0/0", "cents": 1999}, count=1)
        assert flux_kit.topic("payments-bookkeeping-try-1", adapter=SHOP) == []


def away_twice() -> Callable[..., flux.BrokerError | None]:
    left = [flux.BrokerError("away"), flux.BrokerError("away")]
    return lambda *_: left.pop() if left else None


@pytest.fixture
def shop() -> Iterator[MemoryAdapter]:
    yield MemoryAdapter("shop")
    forget("shop")
    forget("ledger")


@pytest.mark.usefixtures("clusters")
def test_a_worker_works_both(shop: MemoryAdapter) -> None:
    class Payments(flux.Producer):
        topic = "payments"
        adapter = shop

    ledger = MemoryAdapter("ledger")
    ledger.broker.create_topic(LedgerEntries.topic)
    worker = flux.Worker(BookPayment, create_topics=True, exit_when_idle=0.1)
    shop.broker.create_topic("payments")
    for cents in (1, 2, 3):
        Payments.produce(f'{{"cents": {cents}}}')
    Payments.close(5)
    assert worker.run() == 0
    assert len(ledger.broker.records(LedgerEntries.topic)) == 3
    LedgerEntries.close(5)
