"""`flux process --reload`: restarts a worker whenever a Python file changes. For development.

The user's code runs only in the child, so that a mistake in it does not end the watching.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs
import click

from flux.consuming.supervision import RESTART
from flux.system.process_end import stop_signals_handled

logger = logging.getLogger("flux.reload")

_LOOK_MS = 200
MISSING = '--reload needs a package: pip install "super-flux[reload]"'

Command = Callable[[int], list[str]]
"""File descriptor of the child's lifeline -> its command line."""


def reload(arguments: Sequence[str], sources: Sequence[str]) -> int:
    """Runs `flux process ARGUMENTS` until a signal asks it to end, and returns its last exit code. Watches the current
    directory and those of the files in `sources`."""
    try:
        from watchfiles import PythonFilter, watch
    except ImportError:
        raise click.ClickException(MISSING) from None
    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # the names of the files are logged below
    files = [Path(source) for source in sources]
    directories = {Path.cwd(), *(file.resolve().parent for file in files if file.is_file())}

    def command(lifeline: int) -> list[str]:
        return [sys.executable, "-P", "-m", "flux.cli.main", "process", f"--lifeline={lifeline}", *arguments]

    changes = watch(*directories, watch_filter=PythonFilter(), rust_timeout=_LOOK_MS, yield_on_timeout=True)
    return Reloader(command).run({path for _, path in changed} for changed in changes)


@attrs.define(eq=False)
class Reloader:
    """Run it in the main thread. It passes on the first signal, and the second, at which a worker stops at once; the
    third kills the worker."""

    command: Command
    _process: subprocess.Popen[bytes] | None = None
    _code: int = 0
    _stopping: bool = False
    _signals: deque[int] = attrs.field(factory=deque)
    _received: int = 0

    def run(self, changes: Iterable[Collection[str]]) -> int:
        """`changes`: several times a second, the files that changed since the last time; mostly none."""
        reader, writer = os.pipe()  # its end shows the child that this process has ended
        try:
            with self._handlers():
                looks = iter(changes)
                next(looks, None)  # the first begins the watching: a change while the worker starts is seen
                self._start(reader)
                for changed in looks:
                    if self._turn(changed, reader):
                        break
        finally:
            os.close(writer)
            os.close(reader)
            if self._process is not None:
                self._process.wait()
        return self._code

    def _turn(self, changed: Collection[str], lifeline: int) -> bool:
        """Whether to end."""
        self._pass_on_signals()
        if self._process is not None and (code := self._process.poll()) is not None:
            self._process, self._code = None, code if code >= 0 else 1
            if code == RESTART and not self._stopping:
                self._start(lifeline)
            elif not self._stopping:
                logger.warning("the worker ended with exit code %d: waiting for a change", code)
        if self._stopping:
            return self._process is None
        if changed:
            logger.info("%s changed: restarting", ", ".join(sorted(map(os.path.relpath, changed))))
            self._end()
            if self._stopping:
                return True
            self._start(lifeline)
        return False

    def _start(self, lifeline: int) -> None:
        # In its own process group: Ctrl-C at the terminal reaches it only through this process.
        self._process = subprocess.Popen(
            self.command(lifeline),
            stdin=subprocess.DEVNULL,
            pass_fds=[lifeline],
            process_group=0,
            # else a change of the same size within the same second runs the old bytecode
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )

    def _end(self) -> None:
        """Stops it gracefully: newer code starts after running calls have ended and are committed."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        while self._process is not None:
            try:
                self._process.wait(_LOOK_MS / 1000)
                self._process = None
            except subprocess.TimeoutExpired:
                self._pass_on_signals()

    def _pass_on_signals(self) -> None:
        while self._signals:
            number = self._signals.popleft()
            self._received += 1
            self._stopping = True
            if self._process is not None:
                self._process.send_signal(number if self._received < 3 else signal.SIGKILL)

    @contextmanager
    def _handlers(self) -> Iterator[None]:
        with stop_signals_handled(lambda number, _: self._signals.append(number)):
            yield
