"""Committed offsets as confluent-kafka returns them."""

from __future__ import annotations

import pytest

pytest.importorskip("confluent_kafka")

from flux.adapters.confluent.commits import committed_offset_of
from flux.core.engine.offset_tracker import read_metadata


class BeyondTheEnd:
    """A committed offset whose metadata another client wrote without a NUL, in memory that holds anything."""

    offset = 7

    @property
    def metadata(self) -> str:
        return b"flux1r.00000000.AAAA\xf3\x01".decode()


def test_a_string_that_is_read_beyond_its_end_is_not_flux_s_and_no_failure() -> None:
    committed = committed_offset_of(BeyondTheEnd())
    assert committed is not None
    assert committed.offset == 7
    assert read_metadata(committed.offset, committed.metadata) is None
