"""A SQLAlchemy session for each call, committed when the call returns and rolled back when it raises."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from sqlalchemy.orm import Session, sessionmaker

import flux

_SESSION: ContextVar[Session] = ContextVar("session")


def session() -> Session:
    """The session of the running call."""
    return _SESSION.get()


class InSession:
    """Middleware of a task."""

    def __init__(self, maker: sessionmaker[Session]) -> None:
        self._maker = maker

    def __call__(self, message: flux.Message, call_next: Callable[[flux.Message], Any]) -> None:
        with self._maker.begin() as opened:
            token = _SESSION.set(opened)
            try:
                call_next(message)
            finally:
                _SESSION.reset(token)
