"""What of records a viewer may see."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal

import attrs

from flux.core.text import escape
from flux.operate.formatting import pretty, text_of

logger = logging.getLogger("flux.web")

HIDDEN = "(hidden)"


@attrs.frozen
class Part:
    """One part of a record, or of what is told about it. `name`: a header's; `error` is an error's message or its
    traceback."""

    task: str
    what: Literal["key", "value", "header", "error"]
    data: bytes
    name: str = ""


Mask = Callable[[Part], "bytes | str | None"]
"""What is shown instead: `part.data` itself where nothing is to be hidden; None hides all of it."""


def hide(part: Part) -> None:
    """A mask that hides everything: keys, values, headers, messages of errors."""


@attrs.frozen
class Masking:
    """Shows the records of one task. A mask that fails hides what it was given."""

    task: str
    mask: Mask | None = None

    def key(self, data: bytes | str | None) -> str | None:
        if data is None:
            return None
        given = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
        return escape(self._shown("key", given, text_of))

    def value(self, data: bytes | None) -> str:
        """On several lines where it is JSON, or a dump."""
        return pretty(None) if data is None else escape(self._shown("value", data, pretty))

    def header(self, name: str, data: bytes | None) -> str:
        return "(null)" if data is None else escape(self._shown("header", data, text_of, name))

    def error(self, text: str) -> str:
        return escape(self._shown("error", text.encode("utf-8", "replace"), text_of)) if text else ""

    def _shown(
        self,
        what: Literal["key", "value", "header", "error"],
        data: bytes,
        show: Callable[[bytes], str],
        name: str = "",
    ) -> str:
        if self.mask is None:
            return show(data)
        try:
            found = self.mask(Part(self.task, what, data, name))
        except Exception:
            logger.exception("the mask failed for a %s of %s, which is hidden", what, self.task)
            return HIDDEN
        if isinstance(found, str):
            return found
        return show(found) if isinstance(found, bytes) else HIDDEN
