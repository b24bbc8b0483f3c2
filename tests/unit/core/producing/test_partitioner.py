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


@pytest.mark.parametrize(
    ("key", "partition"),
    [(b"", 681), (b"a", 524), (b"ab", 434), (b"abc", 107), (b"123456789", 566), (b"\x00 ", 742)],
)
def test_keys_of_any_length_go_where_the_java_client_puts_them(key: bytes, partition: int) -> None:
    assert partition_for_key(key, 1000) == partition
