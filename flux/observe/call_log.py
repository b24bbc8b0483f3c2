"""A log line for each call: `flux process --log-calls`. It holds neither keys, values nor messages of errors."""

from __future__ import annotations

import logging

from flux.consuming.hook_dispatch import log_fields
from flux.core.error_text import error_name
from flux.core.hooks import Hooks, StageInfo
from flux.core.message import Message

logger = logging.getLogger("flux.calls")


class CallLog(Hooks):
    """Of a `flux.BatchTask`, a line for each message, with the duration of the whole call."""

    def on_success(self, where: StageInfo, message: Message, seconds: float) -> None:
        self._log(where, message, "done", seconds)

    def on_failure(self, where: StageInfo, message: Message, error: BaseException, seconds: float | None) -> None:
        self._log(where, message, f"failed with {error_name(type(error))}", seconds)

    def _log(self, where: StageInfo, message: Message, how: str, seconds: float | None) -> None:
        took = "" if seconds is None else f" in {seconds * 1000:.1f} ms"
        logger.info(
            "%s: %s[%d]@%d %s%s, attempt %d",
            where.task,
            message.topic,
            message.partition,
            message.offset,
            how,
            took,
            message.attempt,
            extra={**log_fields(where, message), "seconds": seconds},
        )
