"""A thread that looks at the runs every few milliseconds while there are any."""

from __future__ import annotations

import threading
from collections.abc import Callable

from flux.core.duties import Duty
from flux.core.runs import Run
from flux.runtime.desk import Desk, Post


class Watcher:
    """`found` is told of each run that is stuck, with the lock held."""

    def __init__(self, desk: Desk, found: Callable[[Post, Run], None] = lambda post, run: None) -> None:
        self._desk = desk
        self._found = found
        self._duty = Duty(f"{desk.posts[0]}: the watching of its calls")

    def start(self) -> None:
        self._desk.system.watch(self._duty)
        self._desk.spawn(f"flux-watch-{self._desk.posts[0]}", self._live)

    def _live(self) -> None:
        desk = self._desk
        while True:
            self._duty.step(threading.get_ident())
            pause = desk.looks_in()
            if pause is None:
                self._duty.end()
                return
            desk.system.sleep(pause)
            desk.look(self._found)
