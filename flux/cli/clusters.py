"""The cluster of a task, for commands that ask it something and end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from flux.core.ports import AdminPort
    from flux.task import Task


@contextmanager
def admin_of(task: type[Task]) -> Iterator[AdminPort]:
    """Raises ConfigurationError without an adapter; what the cluster refuses ends as one line that names it."""
    from flux.config import resolve_adapter
    from flux.core.errors import BrokerError

    adapter = resolve_adapter(task.adapter)
    admin = adapter.admin()
    try:
        yield admin
    except BrokerError as error:
        if error.retriable:
            raise click.ClickException(f"{adapter.cluster} cannot be reached: {error}") from None
        raise click.ClickException(f"{adapter.cluster}: {error}") from None
    finally:
        admin.close()
