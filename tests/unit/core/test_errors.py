"""Errors say what happened to which records, and never show a value."""

from __future__ import annotations

import pytest

from flux.core.errors import BrokerError, DeliveryError, FailedRecord, Fault


@pytest.mark.parametrize("fault", Fault)
def test_only_an_unavailable_cluster_is_worth_a_retry(fault: Fault) -> None:
    assert BrokerError("no", fault).retriable is (fault is Fault.UNAVAILABLE)


def test_a_delivery_error_lists_three_records_and_counts_the_others() -> None:
    failed = [FailedRecord("t", number or None, b"k", b"secret", BrokerError("no")) for number in range(5)]
    error = DeliveryError(failed)
    assert error.failed == tuple(failed)
    assert str(error) == (
        "5 record(s) not delivered: <record for t, key b'k': no>; <record for t[1], key b'k': no>;"
        " <record for t[2], key b'k': no>; and 2 more"
    )
    assert str(DeliveryError(failed[:4])).endswith("; and 1 more")
    assert str(DeliveryError(failed[:3])).endswith("<record for t[2], key b'k': no>")
