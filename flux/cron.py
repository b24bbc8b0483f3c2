"""The times of a cron expression, computed by cronsim as Debian's cron does."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from flux.core.errors import ConfigurationError
from flux.core.schedules import NextTick
from flux.core.validation import shown


def cron_ticks(expression: str, timezone: str) -> tuple[str, NextTick]:
    """A cron expression as text with its time zone, and its ticks."""
    try:
        from cronsim import CronSim, CronSimError
    except ImportError:
        raise ConfigurationError(
            'a cron expression needs a package: pip install "super-flux[cron]"; or give seconds=…'
        ) from None
    if not isinstance(expression, str):
        raise ConfigurationError(f'every({shown(expression)}): give a cron expression, such as "0 2 * * *"')
    try:
        if not isinstance(timezone, str):
            raise TypeError
        zone = UTC if timezone == "UTC" else ZoneInfo(timezone)
    except (KeyError, ValueError, TypeError, OSError):
        raise ConfigurationError(
            f"every(timezone={shown(timezone)}): give a name such as 'Europe/Berlin'; where the system has no time"
            " zones, install the package tzdata"
        ) from None

    def next_tick(after: int) -> int:
        ticks = CronSim(expression, datetime.fromtimestamp(after / 1000, zone))
        # in the hour that a clock is set back, the next tick by the wall clock may be in the past
        return next(ms for ms in (round(tick.timestamp() * 1000) for tick in ticks) if ms > after)

    try:
        next_tick(0)
    except CronSimError as error:
        raise ConfigurationError(
            f'every({expression!r}): {error}: give minute, hour, day, month and weekday, such as "0 2 * * *"'
        ) from None
    except StopIteration:
        raise ConfigurationError(f"every({expression!r}): there is no such time") from None
    return f"{' '.join(expression.split())} {timezone}", next_tick
