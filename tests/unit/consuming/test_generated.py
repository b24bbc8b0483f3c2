"""What is awaited and what blocks are decided once: `flux/consuming/blocking` is what its source gives."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
GENERATE = runpy.run_path(str(ROOT / ".ci" / "generate.py"))
BLOCKING = ROOT / "flux" / "consuming" / "blocking"


def test_each_file_that_blocks_is_what_its_source_gives() -> None:
    wanted = GENERATE["generated"]()
    found = {path.name: path.read_text("utf-8") for path in BLOCKING.glob("*.py")}
    assert found == wanted, "run: make generate"


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        (
            "async def call(message):\n    return await handler(message)",
            "def call(message):\n    return handler(message)",
        ),
        ("async with limit, each:\n    pass", "with limit, each:\n    pass"),
        ("rest: Callable[[float], Awaitable[None]]", "rest: Callable[[float], None]"),
        ("import Awaitable, Callable", "import Callable"),
        ("await adapter.async_consumer(AsyncAdapter)", "adapter.consumer(Adapter)"),
        ("from flux.consuming.awaited.executor import work", "from flux.consuming.blocking.executor import work"),
        ("asyncio, awaited, awaitable", "asyncio, awaited, awaitable"),
    ],
)
def test_of_what_is_awaited_nothing_is_left(source: str, wanted: str) -> None:
    assert GENERATE["blocking"](source) == wanted


def test_nothing_that_blocks_awaits() -> None:
    for name, text in GENERATE["generated"]().items():
        words = set(text.replace("(", " ").split())
        assert not words & {"await", "async", "asyncio"}, name
