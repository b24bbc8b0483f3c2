"""The log of `flux process`."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from flux.cli import log

CLIENTS = ("httpx", "httpx2", "httpcore")


@contextmanager
def configured(level: str) -> Iterator[None]:
    """The log of a command that has just begun; afterwards as before."""
    root = logging.getLogger()
    handlers, before = root.handlers[:], root.level
    root.handlers.clear()
    try:
        log.configure(level)
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(before)
        for name in CLIENTS:
            logging.getLogger(name).setLevel(logging.NOTSET)


def test_each_line_has_its_time_in_utc(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with configured("info"), monkeypatch.context() as patched:
        patched.setattr("time.localtime", lambda *_: (2001, 1, 1, 0, 0, 0, 0, 1, 0))
        logging.getLogger("flux.worker").info("hello")
    said = capsys.readouterr().err
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ INFO    hello\n", said)
    assert not said.startswith("2001")


@pytest.mark.parametrize(("level", "shown"), [("info", False), ("debug", True)])
def test_requests_to_a_registry_are_no_lines(level: str, shown: bool, capsys: pytest.CaptureFixture[str]) -> None:
    with configured(level):
        for name in CLIENTS:
            logging.getLogger(name).info("HTTP Request: GET http://registry/schemas/ids/1")
            logging.getLogger(name).warning("slow")
    said = capsys.readouterr().err
    assert ("HTTP Request" in said) is shown
    assert said.count("slow") == len(CLIENTS)


def test_each_line_about_a_task_names_it_once(capsys: pytest.CaptureFixture[str]) -> None:
    with configured("info"):
        logger = logging.getLogger("flux.worker")
        logger.info("orders[0] is out of range", extra={"task": "Billing"})
        logger.info("Billing: assigned orders[0]", extra={"task": "Billing"})
        logger.info("stopping at once")
    said = [line.partition("INFO    ")[2] for line in capsys.readouterr().err.splitlines()]
    assert said == ["Billing: orders[0] is out of range", "Billing: assigned orders[0]", "stopping at once"]
