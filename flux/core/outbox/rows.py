"""How a record is stored in a row of the outbox, and which rows keep their order."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from hashlib import blake2b

from flux.core.ports import Headers

ID_HEADER = "outbox-id"
"""Identifies a row in the records made of it: a row may be sent twice. Without the prefix of flux's own headers, which
are dropped from records of main topics."""
LANES = 32
"""A relay takes whole lanes, so this many relays can work at once."""


def key_hash(topic: str, key: bytes | None, partition_key: bytes | None, partition: int | None, unordered: int) -> int:
    """A signed 64-bit number, the same for records that keep their order: those of a topic with the same partition key
    or key, or, if they have none, with the same explicit partition. `unordered`: a random number of 64 bits, for a
    record that has none of these."""
    placing = key if partition_key is None else partition_key
    if placing is not None:
        data = b"key\0" + placing
    elif partition is not None:
        data = b"partition\0%d" % partition
    else:
        return int.from_bytes(unordered.to_bytes(8, "big"), "big", signed=True)
    digest = blake2b(topic.encode() + b"\0" + data, digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def lane_of(hashed: int) -> int:
    return hashed % LANES


def dump_headers(headers: Iterable[tuple[str, bytes | None]]) -> str:
    """JSON that people can read: pairs of a name and a text, null, or `{"base64": …}`."""
    return json.dumps([[name, _dumped(value)] for name, value in headers])


def load_headers(text: str) -> Headers:
    return [(name, _loaded(value)) for name, value in json.loads(text)]


def _dumped(value: bytes | None) -> object:
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def _loaded(value: str | dict[str, str] | None) -> bytes | None:
    if isinstance(value, dict):
        return base64.b64decode(value["base64"])
    return None if value is None else value.encode()
