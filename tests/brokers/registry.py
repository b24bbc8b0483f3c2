"""A schema registry from its Maven archive, as a child of the test session: Apicurio, in memory."""

from __future__ import annotations

import os
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from brokers.base import NoBroker, free_ports, once
from brokers.jars import found_java, maven, unfinished

VERSION = "2.6.13.Final"
_ARTIFACT = f"io.apicurio:apicurio-registry-app:{VERSION}:tar.gz:all"
_START = 90.0  # seconds
_FETCH = 240.0


class Registry:
    """Has Confluent's API. May be stopped, when its schemas are gone, and started again at the same address."""

    def __init__(self, folder: Path) -> None:
        """`folder`: of `archive`."""
        [port] = free_ports(1)
        java = [found_java(), "-Xmx400m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        address = ["-Dquarkus.http.host=127.0.0.1", f"-Dquarkus.http.port={port}"]
        [program] = folder.glob("*-runner.jar")
        self._command = [*java, *address, "-jar", str(program)]
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self.url = f"http://127.0.0.1:{port}/apis/ccompat/v7"

    def start(self) -> None:
        """Returns when it answers. Raises NoBroker."""
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(self._command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
        # Ends it even when the tests are killed: the guard's input ends with them.
        self._guard = subprocess.Popen(
            ["sh", "-c", 'cat > /dev/null; kill -KILL "$0"', str(self._process.pid)],
            stdin=subprocess.PIPE,
            stderr=quiet,
            start_new_session=True,
        )
        until = time.monotonic() + _START
        while time.monotonic() < until and self._process.poll() is None:
            with suppress(OSError), urllib.request.urlopen(f"{self.url}/subjects", timeout=5):
                return
            time.sleep(0.1)
        self.stop()
        raise NoBroker("the schema registry does not start", surprising=True)

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.wait(15)
        if self._guard is not None:
            self._guard.kill()
            self._guard.communicate()
        self._process = None


@contextmanager
def running_registry() -> Iterator[Registry]:
    """Raises NoBroker."""
    found = Registry(archive())
    try:
        found.start()
        yield found
    finally:
        found.stop()


def archive() -> Path:
    """The folder of the program, fetched once. Raises NoBroker."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "super-flux" / "registry"
    folder = cache / VERSION
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with once(cache / "lock", 2 * _FETCH):
        if not folder.is_dir():
            _fetch(folder)
    return folder


def _fetch(folder: Path) -> None:
    with unfinished(folder) as half:
        copy = ["dependency:copy", f"-Dartifact={_ARTIFACT}", f"-DoutputDirectory={half}"]
        maven(copy, half, "the schema registry", _FETCH)
        packed = next(half.glob("*.tar.gz"), None)
        if packed is None:
            raise NoBroker("Maven did not get the schema registry: there is no archive")
        subprocess.run(["tar", "xzf", packed], cwd=half, check=True, timeout=_FETCH)
        packed.unlink()
        half.rename(folder)
