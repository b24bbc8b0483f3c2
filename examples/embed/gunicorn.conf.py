"""Starts a worker in each process of gunicorn, and stops it before the process ends."""

from contextlib import ExitStack
from typing import Any

import flux

threads = 8
graceful_timeout = 40  # seconds; more than the task's shutdown_timeout
_blocks = ExitStack()


def post_worker_init(server: Any) -> None:
    from shop_flask import app
    from shop_tasks import SendInvoice

    app.extensions["worker"] = _blocks.enter_context(flux.Worker(SendInvoice, create_topics=True))


def worker_exit(arbiter: Any, server: Any) -> None:
    _blocks.close()
