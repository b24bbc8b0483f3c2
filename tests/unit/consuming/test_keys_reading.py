"""What the topic of keys says is passed to all stages of a task."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import pytest

from flux.adapters.memory import forget
from flux.consuming.keys_reading import KeysReading
from flux.core.engine import Engine
from flux.core.engine.key_order import KeyOrder, OrderEntry, entry_name
from flux.core.ports import ProducerRecord
from unit.support.engine_support import policy
from unit.support.memory_support import Kit

ORDERED = policy(retry_order="key")
KEYS = ORDERED.stages.keys_topic


@attrs.define(eq=False)
class Runtime:
    engine: Engine

    def now_locked(self) -> float:
        return 0.0


@attrs.define(eq=False)
class Common:
    lock: Any
    runtimes: list[Runtime]
    policy: Any = ORDERED
    woken: int = 0

    def wake_all_locked(self) -> None:
        self.woken += 1


@pytest.fixture
def kit() -> Iterator[Kit]:
    made = Kit()
    made.broker.create_topic(KEYS, 1)
    yield made
    forget("kit")


def common(kit: Kit, view: KeyOrder | None) -> Any:
    return Common(kit.system.condition(), [Runtime(Engine(ORDERED, ORDERED.stages[0], key_order=view))])


def enter(kit: Kit, offset: int) -> None:
    entry = OrderEntry(b"k", 1, 0, 1)
    kit.write(ProducerRecord(entry.value(), entry_name((0, offset)), (), 0), topic=KEYS)


def test_it_reads_in_a_thread_of_its_own(kit: Kit) -> None:
    view = KeyOrder()
    shared = common(kit, view)
    keys = KeysReading(shared)
    enter(kit, 3)
    keys.follow(kit.adapter, kit.admin, kit.system)
    assert keys.read(1.0) is None
    kit.system.after(5, keys.close)
    kit.system.run_spawned()
    assert (view.head((0, b"k")), shared.woken) == (3, 1)
    assert keys.read(1.0) == 1


def test_the_testing_kit_reads_in_its_own_thread(kit: Kit) -> None:
    view = KeyOrder()
    keys = KeysReading(common(kit, view))
    keys.follow_here(kit.adapter)
    enter(kit, 3)
    assert keys.poll()
    assert not keys.poll()
    enter(kit, 4)
    assert keys.read(1.0) == 0
    assert len(view) == 2
    keys.close()


def test_a_task_that_keeps_no_order_reads_nothing(kit: Kit) -> None:
    keys = KeysReading(common(kit, None))
    keys.follow(kit.adapter, kit.admin, kit.system)
    keys.follow_here(kit.adapter)
    assert not keys.poll()
    assert keys.read(1.0) is None
    keys.close()
