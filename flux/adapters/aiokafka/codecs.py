"""Which compressions aiokafka can read and write here: most need a library that it does not install."""

from __future__ import annotations

import aiokafka.codec

NAMES = {1: "gzip", 2: "snappy", 3: "lz4", 4: "zstd"}
"""By the lowest bits of a batch's attributes."""

_ATTRIBUTES_AT = 21
_CODEC = 0b111


def remedy(codec: str) -> str | None:
    """How to install what a compression lacks; None: nothing."""
    has = getattr(aiokafka.codec, f"has_{codec}", None)
    return f"pip install 'aiokafka[{codec}]'" if has is not None and not has() else None


def best() -> str:
    """The one that makes records smallest; gzip is always available."""
    return next(codec for codec in ("zstd", "lz4", "gzip") if remedy(codec) is None)


def lacking() -> dict[str, str]:
    """Compressions that lack a library, with their remedies."""
    found = {codec: remedy(codec) for codec in NAMES.values()}
    return {codec: what for codec, what in found.items() if what is not None}


def codec_of(batch: bytes) -> str | None:
    """The compression of a batch, or of its beginning; None: not compressed, or too short to know."""
    end = _ATTRIBUTES_AT + 2
    return NAMES.get(int.from_bytes(batch[_ATTRIBUTES_AT:end], "big") & _CODEC) if len(batch) >= end else None
