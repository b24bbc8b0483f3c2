"""The parts of what the drivers of one task share."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

import flux.consuming
from flux.consuming.coordinator import Coordinator
from flux.system import OperatingSystem, forks
from unit.support.engine_support import Driver

CONSUMING = Path(flux.consuming.__file__).parent
PARTS = sorted((CONSUMING / "coordinator").glob("*.py"))


def made() -> Coordinator:
    driver = Driver()
    return Coordinator(driver.policy, [driver.engine], cast(Any, None), OperatingSystem())


def parts_of(coordinator: Coordinator) -> list[Any]:
    return [coordinator, *(part for part in vars(coordinator).values() if hasattr(part, "ENTRANCES"))]


@pytest.mark.parametrize("index", range(len(parts_of(made()))))
def test_in_a_forked_child_nobody_comes_back_to_an_entrance(index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[Any] = []
    monkeypatch.setattr(forks, "end_of_child", lambda *given: ends.append(given))
    coordinator = made()
    part = parts_of(coordinator)[index]
    assert all(callable(getattr(type(part), name)) for name in part.ENTRANCES)
    coordinator.forked()
    for name in part.ENTRANCES:
        getattr(part, name)("what", "it", "is", "told")
        assert ends.pop() == ("what", "it", "is", "told")


# ---- the lock: what needs it says so


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def is_lock(node: ast.expr, *others: str) -> bool:
    return isinstance(node, ast.Attribute) and node.attr in ("lock", "_lock", *others)


def unlocked_calls(node: ast.AST, held: bool) -> Iterator[str]:
    """Calls of methods that need the lock, where nothing shows that it is held."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef):
            yield from unlocked_calls(child, child.name.endswith("_locked"))
            continue
        takes = isinstance(child, ast.With) and any(is_lock(item.context_expr, "_condition") for item in child.items)
        if isinstance(child, ast.Call) and not held:
            name = getattr(child.func, "attr", getattr(child.func, "id", ""))
            if name.endswith("_locked"):
                yield f"{name} in line {child.lineno}"
        yield from unlocked_calls(child, held or takes)


FILES = [
    *PARTS,
    *(CONSUMING / name for name in ("forwarder.py", "threads.py", "callers.py", "pollers.py")),
    CONSUMING.parent / "processes" / "heartbeat.py",
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_method_that_needs_the_lock_is_called_with_it(path: Path) -> None:
    assert list(unlocked_calls(ast.parse(path.read_text("utf-8")), False)) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_method_that_needs_the_lock_does_not_take_it(path: Path) -> None:
    for function in functions(ast.parse(path.read_text("utf-8"))):
        if function.name.endswith("_locked"):
            taken = [node for node in ast.walk(function) if isinstance(node, ast.With)]
            assert not any(is_lock(item.context_expr) for node in taken for item in node.items), function.name


def test_only_the_threads_take_the_lock_beside_the_parts() -> None:
    takers = set()
    for path in CONSUMING.parent.rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == "lock"]
        owners = {ast.unparse(node.value).rpartition(".")[2] for node in attributes}
        if owners & {"coordinator", "_coordinator"}:
            takers.add(path.name)
    assert takers - {path.name for path in PARTS} == {"threads.py"}
