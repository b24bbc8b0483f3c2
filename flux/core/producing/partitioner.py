"""The partitioner of Kafka's Java client: murmur2 of the key, sign bit cleared, modulo the partition count.

Source: org.apache.kafka.common.utils.Utils.murmur2 and
org.apache.kafka.clients.producer.internals.BuiltInPartitioner.partitionForKey.
"""

from __future__ import annotations

_M = 0x5BD1E995
_SEED = 0x9747B28C
_MASK = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """The hash as an unsigned 32-bit number."""
    length = len(data)
    h = (_SEED ^ length) & _MASK
    whole = length & ~3
    for i in range(0, whole, 4):
        k = (int.from_bytes(data[i : i + 4], "little") * _M) & _MASK
        k = ((k ^ (k >> 24)) * _M) & _MASK
        h = ((h * _M) & _MASK) ^ k
    if length > whole:
        h = ((h ^ int.from_bytes(data[whole:], "little")) * _M) & _MASK
    h = ((h ^ (h >> 13)) * _M) & _MASK
    return h ^ (h >> 15)


def partition_for_key(key: bytes, partitions: int) -> int:
    """The partition for a key, which is not None, of a topic with `partitions` partitions."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions
