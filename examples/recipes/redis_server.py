"""A Redis server for tests, in a temporary folder."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis

from flux.testing.kafka import free_ports

SECONDS = 60


class NoRedis(Exception):
    """Says what to install."""


@contextmanager
def redis_server() -> Iterator[str]:
    """Its URL. It listens on 127.0.0.1 without a login, and is stopped at the end. Raises NoRedis."""
    program = shutil.which("redis-server")
    if program is None:
        raise NoRedis("install Redis' server (on Debian: redis-server)")
    [port] = free_ports(1)
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:
        options = {"bind": "127.0.0.1", "port": port, "dir": directory, "save": "", "appendonly": "no"}
        command = [program, *(word for name, value in options.items() for word in (f"--{name}", str(value)))]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        try:
            wait_until_it_answers(port, server)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()
            server.wait(SECONDS)


def wait_until_it_answers(port: int, server: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + SECONDS
    with redis.Redis(port=port) as client:
        while True:
            try:
                client.ping()
            except redis.ConnectionError as error:
                if server.poll() is not None or time.monotonic() > until:
                    raise NoRedis(f"redis-server does not answer on port {port}: {error}") from error
                time.sleep(0.02)
            else:
                return


@contextmanager
def redis_or_skipped() -> Iterator[str]:
    """`redis_server`, for a fixture: without one its tests are skipped, but in CI, where they fail."""
    try:
        with redis_server() as url:
            yield url
    except NoRedis as reason:
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(f"nothing tested against Redis: {reason}", pytrace=False)
        pytest.skip(f"nothing tested against Redis: {reason}")
