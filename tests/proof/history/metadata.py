"""What a commit's metadata says is done above its offset, read by the format's description alone.

    flux1 KIND . CRC . PAYLOAD

KIND `r`: run lengths, alternately undone and done, as LEB128 varints; `b`: one bit for each offset, lowest first. CRC:
CRC-32 of "OFFSET:KIND" and the payload's bytes, in hex. PAYLOAD: base64url without padding.
"""

from __future__ import annotations

import base64
import itertools
import zlib
from collections.abc import Iterator


def ranges(offset: int, metadata: str) -> list[tuple[int, int]]:
    """(first offset, offset after the last) of each range. Raises ValueError for what is not of this format."""
    if not metadata:
        return []
    head, crc, text = metadata.split(".")
    payload = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    kind = head.removeprefix("flux1")
    if head not in ("flux1r", "flux1b") or zlib.crc32(f"{offset}:{kind}".encode() + payload) != int(crc, 16):
        raise ValueError(f"metadata that is damaged, or of another commit: {metadata!r} at {offset}")
    return list(_runs(offset, payload) if kind == "r" else _bits(offset, payload))


def _runs(offset: int, payload: bytes) -> Iterator[tuple[int, int]]:
    lengths, length, shift = [], 0, 0
    for byte in payload:
        length += (byte & 127) << shift
        shift += 7
        if byte < 128:
            lengths.append(length)
            length = shift = 0
    ends = list(itertools.accumulate(lengths, initial=offset))
    yield from zip(ends[1::2], ends[2::2], strict=False)


def _bits(offset: int, payload: bytes) -> Iterator[tuple[int, int]]:
    done = (offset + at for at in range(8 * len(payload)) if payload[at // 8] >> at % 8 & 1)
    for _, group in itertools.groupby(enumerate(done), lambda pair: pair[1] - pair[0]):
        each = [place for _, place in group]
        yield each[0], each[-1] + 1
