"""What would block an event loop is done on threads of flux's own."""

from __future__ import annotations

import asyncio
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from flux.consuming import side_threads
from flux.consuming.side_threads import SideThreads
from flux.system import SYSTEM


def test_it_gives_what_the_function_returns_or_raises() -> None:
    def fail() -> None:
        raise LookupError("not there")

    async def main() -> None:
        aside = SideThreads(SYSTEM)
        assert await aside.run(divmod, 7, 2) == (3, 1)
        with pytest.raises(LookupError, match="not there"):
            await aside.run(fail)

    asyncio.run(main())


def test_it_needs_no_thread_of_the_loops_executor() -> None:
    release = threading.Event()

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        held = asyncio.create_task(asyncio.to_thread(release.wait, 10))
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(60):
                assert await SideThreads(SYSTEM).run(lambda: 1) == 1
        finally:
            release.set()
            await held

    asyncio.run(main())


def test_as_much_as_is_asked_is_done_at_once_and_threads_are_used_again() -> None:
    meet = threading.Barrier(20)

    async def main() -> None:
        aside = SideThreads(SYSTEM)
        for _ in range(3):
            async with asyncio.timeout(60):
                await asyncio.gather(*(aside.run(meet.wait, 10) for _ in range(20)))
        names = [thread.name for thread in threading.enumerate()]
        assert names.count("flux-beside") <= 40

    asyncio.run(main())


def test_what_nobody_waits_for_any_more_ends_quietly() -> None:
    release = threading.Event()

    async def main() -> None:
        asked = SideThreads(SYSTEM).run(release.wait, 10)
        await asyncio.sleep(0)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        release.set()
        await asyncio.sleep(0.01)

    asyncio.run(main())


def test_it_begins_although_the_loop_ends_before_anybody_waits_for_it() -> None:
    begun = threading.Event()

    async def main() -> None:
        SideThreads(SYSTEM).run(begun.set)

    asyncio.run(main())
    assert begun.wait(60)


def test_an_idle_thread_keeps_nothing_of_its_last_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_threads, "_IDLE", 60.0)
    freed = threading.Event()

    class Held:
        pass

    held = Held()
    weakref.finalize(held, freed.set)
    SideThreads(SYSTEM).post(partial(id, held))
    del held
    assert freed.wait(60)
