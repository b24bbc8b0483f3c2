"""Which compressions aiokafka can deal with here: for most it needs a library that it does not bring."""

from __future__ import annotations

import aiokafka.codec

NAMES = {1: "gzip", 2: "snappy", 3: "lz4", 4: "zstd"}
"""By the lowest bits of a batch's attributes."""

_ATTRIBUTES_AT = 21
_CODEC = 0b111


def remedy(codec: str) -> str | None:
    """What to do for one; None: nothing lacks."""
    has = getattr(aiokafka.codec, f"has_{codec}", None)
    return f"pip install 'aiokafka[{codec}]'" if has is not None and not has() else None


def best() -> str:
    """Of those that are here; gzip is Python's own."""
    return next(codec for codec in ("zstd", "lz4", "gzip") if remedy(codec) is None)


def lacking() -> dict[str, str]:
    """Those that are, with their remedies."""
    found = {codec: remedy(codec) for codec in NAMES.values()}
    return {codec: what for codec, what in found.items() if what is not None}


def codec_of(batch: bytes) -> str | None:
    """Of a batch, or the beginning of one; None: it is not compressed, or too short to tell."""
    end = _ATTRIBUTES_AT + 2
    return NAMES.get(int.from_bytes(batch[_ATTRIBUTES_AT:end], "big") & _CODEC) if len(batch) >= end else None
