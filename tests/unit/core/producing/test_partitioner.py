"""Vectors of Apache Kafka's own UtilsTest.testMurmur2."""

from __future__ import annotations

import pytest

from flux.core.producing.partitioner import murmur2, partition_for_key

VECTORS = [
    (b"21", -973932308),
    (b"foobar", -790332482),
    (b"a-little-bit-long-string", -985981536),
    (b"a-little-bit-longer-string", -1486304829),
    (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
    (b"abc", 479470107),
]


@pytest.mark.parametrize(("key", "signed"), VECTORS)
def test_murmur2_is_kafkas(key: bytes, signed: int) -> None:
    assert murmur2(key) == signed % 2**32


@pytest.mark.parametrize(("key", "signed"), VECTORS)
def test_a_key_goes_where_kafkas_positive_modulo_puts_it(key: bytes, signed: int) -> None:
    for partitions in (1, 3, 12):
        assert partition_for_key(key, partitions) == (signed & 0x7FFFFFFF) % partitions


def test_an_empty_key_has_a_place_too() -> None:
    assert 0 <= partition_for_key(b"", 7) < 7
