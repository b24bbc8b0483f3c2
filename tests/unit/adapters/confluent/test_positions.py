"""Positions as confluent-kafka gives them."""

from __future__ import annotations

import pytest

pytest.importorskip("confluent_kafka")

from flux.adapters.confluent.consumer import position_of
from flux.core.engine.offset_tracker import read_metadata


class BeyondTheEnd:
    """A position whose string another client wrote without a NUL, in memory that holds anything."""

    offset = 7

    @property
    def metadata(self) -> str:
        return b"flux1r.00000000.AAAA\xf3\x01".decode()


def test_a_string_that_is_read_beyond_its_end_is_not_flux_s_and_no_failure() -> None:
    position = position_of(BeyondTheEnd())
    assert position is not None
    assert position.offset == 7
    assert read_metadata(position.offset, position.metadata) is None
