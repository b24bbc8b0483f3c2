"""Values of a cluster are shown as Kafka people write them."""

from __future__ import annotations

from flux.core.ports import TopicPartition


def test_a_partition_is_shown_with_its_topic() -> None:
    assert str(TopicPartition("orders", 3)) == "orders[3]"
