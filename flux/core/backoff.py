"""How long a record waits in a stage before it is tried again."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from flux.core.error_text import brief
from flux.core.errors import ConfigurationError
from flux.core.text import one_line
from flux.core.validation import LONGEST, Seconds, check_seconds, is_number, shown
from flux.core.validation import seconds as to_seconds

JITTER_STEPS = 30
"""The random part of the default wait is one of 0 … 29, times the stage plus one."""

WaitSetting = Seconds | Sequence[Seconds] | Callable[[int], Seconds] | None
"""What a task's `wait` may be: None, seconds, seconds per stage (the last repeats), or stage -> seconds."""


def default_wait(stage: int, jitter: int) -> int:
    """Seconds that stage `stage` (1, 2, …) waits, `jitter` being 0 … 29.

    Sidekiq's formula, as Super::Flux has it: `stage**4 + 15 + jitter * (stage + 1)`.
    """
    return stage**4 + 15 + jitter * (stage + 1)


@attrs.frozen
class Waits:
    """The waits of a task's stages. Times in seconds."""

    setting: WaitSetting = attrs.field(converter=to_seconds)
    max_delay: float = attrs.field(converter=to_seconds)

    def seconds(self, stage: int, jitter: int) -> float:
        """How long a record waits in `stage`; 0 for the main stage."""
        if stage == 0:
            return 0.0
        setting = self.setting
        if setting is None:
            return float(min(default_wait(stage, jitter), self.max_delay))
        if callable(setting):
            setting = setting(stage)
        elif isinstance(setting, Sequence):
            setting = setting[min(stage, len(setting)) - 1]
        return _checked(setting, stage, self.max_delay)

    def mean(self, stage: int) -> float:
        """The mean of `seconds`: the figure in the published table."""
        if self.setting is None and stage > 0:
            return stage**4 + 15 + (JITTER_STEPS - 1) / 2 * (stage + 1)
        return self.seconds(stage, 0)

    def longest(self, stage: int) -> float:
        """The maximum of `seconds`."""
        return self.seconds(stage, JITTER_STEPS - 1)

    def check(self, stages: int) -> None:
        """Raises ConfigurationError if a wait of stages 1 … `stages` is not a number of seconds, or too long."""
        setting, longest = self.setting, self.max_delay
        check_seconds("max_delay", longest)
        if setting is None:
            for stage in range(1, stages + 1):
                if default_wait(stage, JITTER_STEPS - 1) > longest:
                    raise ConfigurationError(
                        f"retries = {stages}: the default wait of stage {stage} can be longer than max_delay"
                        f" ({longest:g} s); set wait, lower retries or raise max_delay"
                    )
            return
        if isinstance(setting, str | bytes | bool) or not (
            callable(setting) or isinstance(setting, Sequence | int | float)
        ):
            raise ConfigurationError(f"wait = {shown(setting)}: give seconds, a list of seconds, or stage -> seconds")
        if isinstance(setting, Sequence) and not setting:
            raise ConfigurationError("wait = []: give at least one number of seconds")
        for stage in range(1, stages + 1):
            try:
                self.seconds(stage, JITTER_STEPS - 1)
            except ConfigurationError:
                raise
            except Exception as error:
                why = one_line(brief(error))
                raise ConfigurationError(f"wait raised {why} for stage {stage}: make it return seconds") from None


def _checked(wait: Any, stage: int, max_delay: float) -> float:
    if (type(wait) is float or type(wait) is int) and 0 <= wait <= max_delay:
        return float(wait)  # the common case, cheap because it runs for each record that fails
    wait = to_seconds(wait)
    if not is_number(wait, 0, math.inf):
        raise ConfigurationError(f"wait of stage {stage} is {shown(wait)}: give a number of seconds, 0 or more")
    if wait > max_delay:
        named = f"{wait:g}" if wait <= LONGEST else shown(wait)
        raise ConfigurationError(
            f"wait of stage {stage} is {named} s, longer than max_delay ({max_delay:g} s):"
            " shorten it or raise max_delay"
        )
    return float(wait)


def in_words(seconds: float) -> str:
    """A wait as the published table shows it: "45 seconds", "~1.2 minutes", "~4.5 days"."""
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            amount = f"{seconds / size:.1f}"
            return f"~{amount} {unit}{'' if amount == '1.0' else 's'}"
    amount = f"{seconds:g}" if seconds < 10 else f"{seconds:.0f}"
    return f"{amount} second{'' if amount == '1' else 's'}"
