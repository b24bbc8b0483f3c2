"""What a purge would delete."""

from __future__ import annotations

import pytest

from flux.adapters.memory.admin import MemoryAdmin
from flux.core.errors import BrokerError
from flux.core.ports import TopicPartition
from flux.operate.dlq.purge import plan_purge
from unit.support.operate_support import DEAD, NOW_MS, OperateKit, policy


def test_younger_dead_letters_stay_where_the_broker_does_not_find_them_by_their_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As Kafka answers after a deletion, until it has removed the segment."""
    yard = OperateKit()
    yard.bury({}, {}, {})
    yard.broker.delete_records(TopicPartition(DEAD, 0), 1)
    adapter, admin = yard.adapter, yard.adapter.admin()
    monkeypatch.setattr(MemoryAdmin, "offsets_at", lambda *_: {0: 3})
    assert plan_purge(adapter, admin, policy(), until_ms=NOW_MS + 60_000).before == {0: 3}
    with pytest.raises(BrokerError, match=r"has younger dead letters.*: try again in ten minutes"):
        plan_purge(adapter, admin, policy(), until_ms=NOW_MS - 60_000)
