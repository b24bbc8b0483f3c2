"""A PostgreSQL of a test's own, in a temporary folder."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from flux.testing.kafka import free_ports

SECONDS = 60


class NoPostgres(Exception):
    """Says what to install."""


@contextmanager
def postgres() -> Iterator[str]:
    """Its URL. On 127.0.0.1 alone, without logins, and gone at the end. Raises NoPostgres."""
    programs = found_programs()
    directory = Path(tempfile.mkdtemp(prefix="postgres-"))
    user = unprivileged()
    if user is not None:
        shutil.chown(directory, user)
    as_user = {"user": user, "cwd": directory, "stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
    data, [port] = directory / "data", free_ports(1)
    try:
        made = [programs / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "-E", "UTF8", "--no-locale", "-N"]
        subprocess.run(made, check=True, timeout=SECONDS, **as_user)  # type: ignore[call-overload]
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off", "port": port}
        started = [programs / "postgres", "-D", data, *(f"--{name}={value}" for name, value in settings.items())]
        server = subprocess.Popen(started, **as_user)  # type: ignore[call-overload]
        try:
            url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
            wait_until_it_answers(url, server)
            yield url
        finally:
            server.terminate()
            server.wait(SECONDS)
    finally:
        shutil.rmtree(directory)


def found_programs() -> Path:
    """Debian keeps them off PATH, in a folder for each version."""
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if not versions:
        raise NoPostgres("install PostgreSQL's server (on Debian: postgresql)")
    return versions[-1].parent


def unprivileged() -> str | None:
    """Whom it runs as when this is root, which it refuses to."""
    if os.getuid() != 0:
        return None
    known = {each.pw_name for each in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


def wait_until_it_answers(url: str, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + SECONDS
    while True:
        try:
            psycopg.connect(url).close()
            return
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > until:
                raise
            time.sleep(0.05)


@contextmanager
def postgres_or_skipped() -> Iterator[str]:
    """`postgres`, for a fixture: without one its tests are skipped, but in CI, where they fail."""
    try:
        with postgres() as url:
            yield url
    except NoPostgres as reason:
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(f"nothing tested against PostgreSQL: {reason}", pytrace=False)
        pytest.skip(f"nothing tested against PostgreSQL: {reason}")
