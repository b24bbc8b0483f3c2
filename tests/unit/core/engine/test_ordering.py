"""What orders records: their key, their partition, or nothing."""

from __future__ import annotations

from typing import Any

import pytest

from flux.core.engine.ordering import key_queue_name
from unit.support.engine_support import assignment, entry

OWNER = assignment()


@pytest.mark.parametrize(
    ("ordering", "key", "name"),
    [
        ("key", b"x", (OWNER, b"x")),
        ("key", b"", (OWNER, b"")),
        ("key", None, None),
        ("partition", None, OWNER),
        ("partition", b"x", OWNER),
        ("none", b"x", None),
    ],
)
def test_a_record_is_ordered_by_its_key_or_its_partition(ordering: Any, key: bytes | None, name: Any) -> None:
    assert key_queue_name(ordering, entry(OWNER, 0, key)) == name
