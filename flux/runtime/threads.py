"""The thread driver: a client that blocks, and handlers that do.

Threads are alike. Polling one stage is a role that one of them holds at a time; it makes the calls itself while they
are quick. A watcher tells the engine how runs get on; when the poller is stuck in a call, the role goes to another
thread. While calls are slow, the threads without a role take runs.
"""

from __future__ import annotations

import threading

import attrs

from flux.core.duties import Duty
from flux.core.pace import LOOK
from flux.core.ports import Adapter, AdminPort
from flux.core.runs import Run
from flux.runtime.call_results import Call
from flux.runtime.desk import Desk, Post
from flux.runtime.member import Member
from flux.system import stack_of_thread

_IDLE = 1.0
_PAUSE = 0.02  # seconds between two looks whether there is anything to watch


@attrs.define(eq=False)
class _Role:
    """Polling one stage."""

    member: Member
    holder: object | None = None
    """The token of the thread that has it; None: free."""
    inline: Run | None = None
    """The run that the holder is in."""


class Threads:
    """Works a desk's stages. `call`: makes the calls of a run."""

    def __init__(self, desk: Desk, call: Call, adapter: Adapter, admin: AdminPort) -> None:
        self._desk = desk
        self._call = call
        self._roles = {
            post: _Role(Member(desk, post, adapter, admin, rest=self._rest, begin=self._inline)) for post in desk.posts
        }
        self._most = desk.policy.concurrency + len(desk.posts)
        self._threads = 0
        self._idle = 0
        self._resting = 0
        self._callers: dict[Run, tuple[Post, int]] = {}
        """The thread that is in a run, by its identifier."""
        self._watching = Duty(f"{desk.posts[0]}: the watching of its calls")
        desk.wake = self._wake
        desk.stack_of = self._stack
        desk.freed = self._freed

    def start(self) -> None:
        """Joins the groups and begins to work."""
        with self._desk.lock:
            self._wake(len(self._roles))
        self._desk.system.watch(self._watching)
        self._desk.spawn(f"flux-watch-{self._desk.posts[0]}", self._watch)

    def _wake(self, needed: int) -> None:
        """Wakes or makes threads for `needed` jobs. With the lock held.

        Pollers that rest wait on the same condition: they are woken too, lest they take an idle thread's turn."""
        lock = self._desk.lock
        if self._resting:
            lock.notify_all()
        free = any(role.holder is None and not post.left for post, role in self._roles.items())
        if not (free or self._desk.stop_at is not None or self._desk.ready()):
            return
        if self._idle:
            lock.notify(needed)
        for _ in range(min(needed - self._idle, self._most - self._threads)):
            self._desk.spawn(f"flux-{self._desk.posts[0]}-{self._threads}", self._live)
            self._threads += 1

    def _rest(self, timeout: float) -> None:
        self._resting += 1
        self._desk.lock.wait(timeout)
        self._resting -= 1

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
                role.member.poll(lambda role=role: role.holder is token)  # type: ignore[misc]
            elif taken is not None:
                self._work(*taken)

    def _freed(self, thread: int) -> None:
        with self._desk.lock:
            for role in self._roles.values():
                if role.member.writes == thread:
                    role.member.writes = role.holder = None
                    self._most += 1
                    self._wake(1)
            for run, (post, caller) in list(self._callers.items()):
                if caller == thread:
                    self._most += 1
                    self._desk.excuse(post, run)

    def _inline(self, post: Post, run: Run) -> None:
        role = self._roles[post]
        role.inline = run
        self._work(post, run, writes=False)  # the script does it next, as a poller
        with self._desk.lock:
            if role.inline is run:
                role.inline = None

    def _work(self, post: Post, run: Run, writes: bool = True) -> None:
        self._callers[run] = post, threading.get_ident()
        try:
            failure = self._call(post, run)
            self._desk.finished(post, run, failure, writes)
        except BaseException as error:
            self._desk.broke(post, run, error)
        finally:
            del self._callers[run]

    def _stack(self, run: Run) -> str:
        _, thread = self._callers.get(run, (None, None))
        return stack_of_thread(thread)

    def _watch(self) -> None:
        """Looks at the runs every few milliseconds while there are any."""
        desk = self._desk
        while True:
            self._watching.step(threading.get_ident())
            with desk.lock:
                if desk.ended:
                    self._watching.end()
                    return
                watching = desk.permits.used
            desk.system.sleep(LOOK if watching else _PAUSE)
            with desk.lock:
                for post, run in desk.looked():
                    role = self._roles[post]
                    if role.inline is run:
                        role.inline = role.holder = None
                        self._wake(1)
            desk.inspect()
