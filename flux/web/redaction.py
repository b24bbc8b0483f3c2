"""What a viewer may see of records."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal

import attrs

from flux.core.text import escape
from flux.operate.formatting import pretty, text_of
from flux.system import forks

logger = logging.getLogger("flux.web")

HIDDEN = "(hidden)"


@attrs.frozen
class RecordPart:
    """One part of a record. `name`: a header's name; `error`: an error's message or its traceback."""

    task: str
    what: Literal["key", "value", "header", "error"]
    data: bytes
    name: str = ""


RedactionFunction = Callable[[RecordPart], "bytes | str | None"]
"""Returns what is shown instead: `part.data` itself to hide nothing, None to hide all of it."""


def hide(part: RecordPart) -> None:
    """Hides everything: keys, values, headers, messages of errors."""


@attrs.frozen
class Redaction:
    """Shows the records of one task. A function that fails hides the part."""

    task: str
    function: RedactionFunction | None = None

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
        if self.function is None:
            return show(data)
        try:
            found = forks.calling(self.function, RecordPart(self.task, what, data, name))
        except Exception:
            logger.exception("the redaction function failed for a %s of %s, which is hidden", what, self.task)
            return HIDDEN
        if isinstance(found, str):
            return found
        return show(found) if isinstance(found, bytes) else HIDDEN
