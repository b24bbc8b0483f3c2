from collections.abc import Callable

from django.db import close_old_connections

import flux


def fresh_connections(message: flux.Message, call_next: Callable[[flux.Message], object]) -> None:
    """Does for a call what Django does for a request: drops a connection that the database has closed, or that is older
    than CONN_MAX_AGE. Threads of a worker live as long as the worker."""
    close_old_connections()
    try:
        call_next(message)
    finally:
        close_old_connections()
