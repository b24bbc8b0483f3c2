"""The thread driver: a client that blocks, and handlers that do.

Threads are alike. Polling one stage is a role that one of them holds at a time; it makes the calls itself while they
are quick. A watcher tells the engine how runs get on; when the poller is stuck in a call, the role goes to another
thread. While calls are slow, the threads without a role take runs.
"""

from __future__ import annotations

import attrs

from flux.core.ports import Adapter, AdminPort
from flux.core.runs import Run
from flux.runtime.beside import directly
from flux.runtime.blocking.consumer_loop import ConsumerLoop
from flux.runtime.call_results import Call
from flux.runtime.caller_threads import CallerThreads
from flux.runtime.desk import Desk, Post
from flux.runtime.resting import RestingThreads
from flux.runtime.watching import Watcher

_IDLE = 1.0


@attrs.define(eq=False)
class _Role:
    """Polling one stage."""

    loop: ConsumerLoop
    holder: object | None = None
    """The token of the thread that has it; None: free."""
    inline: Run | None = None
    """The run that the holder is in."""


class Threads:
    """Works a desk's stages. `call`: makes the calls of a run."""

    def __init__(self, desk: Desk, call: Call, adapter: Adapter, admin: AdminPort) -> None:
        self._desk = desk
        self._callers = CallerThreads(desk, call)
        self._watcher = Watcher(desk, self._stuck)
        self._resting = RestingThreads(desk)
        self._roles = {
            post: _Role(
                ConsumerLoop(
                    desk,
                    post,
                    adapter,
                    admin,
                    rest=self._resting.rest,
                    write=desk.write,
                    ask=directly,
                    begin=self._inline,
                )
            )
            for post in desk.posts
        }
        self._most = desk.policy.concurrency + len(desk.posts)
        self._threads = 0
        self._idle = 0
        desk.wake = self._wake
        desk.freed = self._freed

    def start(self) -> None:
        """Joins the groups and begins to work."""
        with self._desk.lock:
            self._wake(len(self._roles))
        self._watcher.start()

    def _wake(self, needed: int) -> None:
        """Wakes or makes threads for `needed` jobs. With the lock held.

        Pollers that rest wait on the same condition: they are woken too, lest they take an idle thread's turn."""
        self._resting.wake_locked()
        free = any(role.holder is None and not post.left for post, role in self._roles.items())
        if not (free or self._desk.stop_at is not None or self._desk.ready()):
            return
        if self._idle:
            self._desk.lock.notify(needed)
        for _ in range(min(needed - self._idle, self._most - self._threads)):
            self._desk.spawn(f"flux-{self._desk.posts[0]}-{self._threads}", self._live)
            self._threads += 1

    def _live(self) -> None:
        desk, token = self._desk, object()
        while True:
            with desk.lock:
                role = next((role for post, role in self._roles.items() if role.holder is None and not post.left), None)
                taken = None
                if role is not None:
                    role.holder = token
                elif desk.ended:
                    return
                else:
                    taken = desk.take_any()
                    if taken is None:
                        self._idle += 1
                        desk.lock.wait(_IDLE)
                        self._idle -= 1
                        continue
            if role is not None:
                role.loop.poll(lambda role=role: role.holder is token)  # type: ignore[misc]
            elif taken is not None:
                self._callers.work(*taken)

    def _freed(self, thread: int) -> None:
        with self._desk.lock:
            for role in self._roles.values():
                if role.loop.writes == thread:
                    role.loop.writes = role.holder = None
                    self._most += 1
                    self._wake(1)
            self._most += self._callers.excuse(thread)

    def _inline(self, post: Post, run: Run) -> None:
        role = self._roles[post]
        role.inline = run
        self._callers.work(post, run, writes=False)  # the script does it next, as a poller
        with self._desk.lock:
            if role.inline is run:
                role.inline = None

    def _stuck(self, post: Post, run: Run) -> None:
        """The poller of a stage is stuck in a call: its role goes to another thread. With the lock held."""
        role = self._roles[post]
        if role.inline is run:
            role.inline = role.holder = None
            self._wake(1)
