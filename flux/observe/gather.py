"""One port for several processes: requests each one's metrics and health, and answers for all. Samples get a label
`process` and are not added up: a restarted process counts from 0, which only `rate()` of its own series can handle."""

from __future__ import annotations

import enum
import logging
import re
import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory

import attrs

from flux.observe import names
from flux.observe.server import METRICS_TYPE, Answer, Routes, Server

logger = logging.getLogger("flux.observe")

TIMEOUT = 3.0
"""Seconds that a process may take for its answer."""
_MOST_AT_ONCE = 32
_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(\{?)")
_LABEL = re.compile(r'(?<=[{,])process="')  # a quote inside a value is escaped


class NoAnswer(enum.Enum):
    """Why a process does not answer."""

    ABSENT = "is not running yet"
    HUNG = f"has not answered within {TIMEOUT:.0f} s"


class Gatherer:
    """`sockets`: the Unix socket of each process, by its number."""

    def __init__(self, sockets: Mapping[int, Path]) -> None:
        self._sockets = dict(sockets)

    @property
    def routes(self) -> Routes:
        return {
            "/metrics": lambda: metrics(self.request("/metrics")),
            "/live": lambda: live(self.request("/live")),
            "/ready": lambda: ready(self.request("/ready")),
        }

    def request(self, path: str) -> dict[int, Answer | NoAnswer]:
        with ThreadPoolExecutor(min(len(self._sockets), _MOST_AT_ONCE)) as pool:
            return dict(zip(self._sockets, pool.map(partial(_request, path), self._sockets.values()), strict=True))


@contextmanager
def gathering(processes: int, port: int | None, host: str) -> Iterator[Mapping[int, Path]]:
    """A context in which one port answers for all processes; returns the Unix socket on which each must answer. Does
    nothing without a port. Raises ConfigurationError when the port cannot be used."""
    if port is None:
        yield {}
        return
    with TemporaryDirectory(prefix="flux-") as directory:
        sockets = {number: Path(directory) / str(number) for number in range(processes)}
        server = Server(port, host, Gatherer(sockets).routes)
        logger.info("metrics and health are on port %d of %s", server.port, host)
        try:
            yield sockets
        finally:
            server.stop()


def live(answers: Mapping[int, Answer | NoAnswer]) -> Answer:
    """A missing process is being started by the supervisor, so it does not count."""
    return _all({number: answer for number, answer in answers.items() if answer is not NoAnswer.ABSENT})


def ready(answers: Mapping[int, Answer | NoAnswer]) -> Answer:
    return _all(answers)


def metrics(answers: Mapping[int, Answer | NoAnswer]) -> Answer:
    given = {number: answer for number, answer in answers.items() if isinstance(answer, Answer)}
    texts = {number: answer.text for number, answer in given.items() if answer.status == 200}
    refused = [answer for answer in given.values() if answer.status != 200]
    if refused and not texts:
        return refused[0]
    up = "".join(f'{names.UP.name}{{process="{number}"}} {int(number in texts)}\n' for number in answers)
    head = f"# HELP {names.UP.name} {names.UP.help}\n# TYPE {names.UP.name} {names.UP.kind}\n"
    return Answer(200, merge(texts) + head + up, METRICS_TYPE)


def merge(texts: Mapping[int, str]) -> str:
    """Expositions in Prometheus' text format as one: each family once, with the samples of all processes."""
    families: dict[str, _Family] = {}
    for number, text in texts.items():
        family = families.setdefault("", _Family())
        for line in text.splitlines():
            if line.startswith("#"):
                family = families.setdefault(line.split(" ", 3)[2], _Family())
                if line not in family.head:
                    family.head.append(line)
            elif line:
                family.samples.append(_labelled(line, number))
    return "".join(f"{line}\n" for family in families.values() for line in [*family.head, *family.samples])


@attrs.define
class _Family:
    head: list[str] = attrs.field(factory=list)
    samples: list[str] = attrs.field(factory=list)


def _labelled(sample: str, number: int) -> str:
    match = _SAMPLE.match(sample)
    if match is None:
        return sample
    name, brace = match.groups()
    if not brace:
        return f'{name}{{process="{number}"}}{sample[match.end() :]}'
    rest = _LABEL.sub('exported_process="', sample[match.end() - 1 :])[1:]
    comma = "" if rest.startswith("}") else ","
    return f'{name}{{process="{number}"{comma}{rest}'


def _all(answers: Mapping[int, Answer | NoAnswer]) -> Answer:
    reasons = []
    for number, answer in answers.items():
        if isinstance(answer, NoAnswer):
            reasons.append(f"process {number} {answer.value}\n")
        elif answer.status != 200:
            reasons += [f"process {number}: {line}\n" for line in answer.text.splitlines()]
    return Answer(503 if reasons else 200, "".join(reasons) or "ok\n")


class _Connection(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(str(self._path))


def _request(path: str, socket_path: Path) -> Answer | NoAnswer:
    connection = _Connection(socket_path)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return Answer(response.status, response.read().decode())
    except TimeoutError:
        return NoAnswer.HUNG
    except (OSError, HTTPException):
        return NoAnswer.ABSENT
    finally:
        connection.close()
