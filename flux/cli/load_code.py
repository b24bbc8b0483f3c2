"""Loads the user's code and finds the tasks in it."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import attrs
import click

from flux.core.error_text import brief, guarded, traceback_of
from flux.core.errors import ConfigurationError
from flux.function_tasks import FunctionTask
from flux.task import Task

_FLUX = str(Path(__file__).resolve().parents[1])
_MAX_LINES = 3


@attrs.frozen
class LoadedCode:
    """A task, and where it was found."""

    name: str
    module: str
    task: type[Task]

    def __str__(self) -> str:
        return f"{self.module}:{self.name}"


def find_tasks(sources: Iterable[str], names: Sequence[str], one: bool = False) -> list[type[Task]]:
    """The tasks called `names`, each a class name in `sources` (files or modules) or `module:Class`; without names, all
    tasks that have a topic, or `one`, which must be the only one. Raises UsageError with the tasks that were found, and
    ClickException for code that fails."""
    modules = [load(source) for source in sources]
    found = [each for module in modules for each in tasks_in(module)]
    if not names:
        if not modules:
            raise click.UsageError("name a task: --load FILE TASK, or module:Class")
        concrete = dict.fromkeys(each.task for each in found if each.task.topic)
        if not concrete or (one and len(concrete) > 1):
            raise click.UsageError(f"name {'a' if found else 'another file or a'} task: {_listed(found)}")
        return list(concrete)
    return list(dict.fromkeys(_named(name, found, modules) for name in names))


def find_task(sources: Iterable[str], name: str | None) -> type[Task]:
    return find_tasks(sources, [name] if name else [], one=True)[0]


def _named(name: str, found: list[LoadedCode], modules: Sequence[ModuleType]) -> type[Task]:
    module, separator, wanted = name.rpartition(":")
    if separator:
        loaded = next((each for each in modules if each.__name__ == module), None)
        found = tasks_in(loaded or load(module))
    matching = {each.task: each for each in found if wanted in (each.name, each.task.__name__)}
    if len(matching) > 1:
        raise click.UsageError(f"{wanted} could be {' or '.join(map(str, matching.values()))}: write one of these")
    if not matching:
        if not separator and not modules:
            raise click.UsageError(
                f"no code was loaded to find {wanted} in: give --load FILE, or write module:{wanted}"
            )
        raise click.UsageError(f"there is no task {wanted}: {_listed(found)}")
    return next(iter(matching))


def _listed(found: Sequence[LoadedCode]) -> str:
    if not found:
        return "no subclass of flux.Task and no @flux.task was found"
    unique = {each.task: each for each in found}.values()
    names = [each.name for each in unique]
    return "found " + ", ".join(each.name if names.count(each.name) == 1 else str(each) for each in unique)


def tasks_in(module: ModuleType) -> list[LoadedCode]:
    """Subclasses of Task and functions that are tasks in a module's namespace, also imported ones, in the order of
    definition."""
    return [
        LoadedCode(name, module.__name__, cls)
        for name, value in vars(module).items()
        if isinstance(cls := type(value) if isinstance(value, FunctionTask) else value, type)
        and issubclass(cls, Task)
        and not cls.__module__.startswith("flux.")
    ]


def load(source: str) -> ModuleType:
    """The module of a file or a dotted name. Adds its directory and the current one to sys.path. Raises UsageError when
    there is none, ClickException with the line when its code fails."""
    path = Path(source)
    is_file = source.endswith(".py") or os.sep in source or path.is_file()
    if is_file and not path.is_file():
        raise click.UsageError(f"there is no file {source}")
    try:
        return _load_file(path.resolve()) if is_file else _load_module(source)
    except (ConfigurationError, click.UsageError):
        raise
    except SystemExit as end:
        raise click.ClickException(f"cannot load {source}: it ends the process (exit code {end.code})") from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise click.ClickException(f"cannot load {source}: {explain(error)}") from None


def _load_module(name: str) -> ModuleType:
    _on_path(Path.cwd())
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise click.UsageError(f"there is no module {error.name!r} here or on PYTHONPATH") from None
        raise
    except (TypeError, ValueError) as error:
        if raised_by_user(error):
            raise
        raise click.UsageError(f"{name!r} is neither a file nor a module's name") from None


def _load_file(path: Path) -> ModuleType:
    root, parts = path.parent, [path.stem]
    while (root / "__init__.py").is_file():
        parts.insert(0, root.name)
        root = root.parent
    _on_path(root)
    _on_path(Path.cwd())
    if parts[-1] == "__init__":
        parts.pop()
    name = ".".join(parts)
    if len(parts) > 1 or path.stem == "__init__":
        return import_module(name)
    known = sys.modules.get(name)
    if known is not None:
        if getattr(known, "__file__", None) == str(path):
            return known
        name = f"loaded_{name}"  # such as queue.py: a module of that name is loaded already
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise click.UsageError(f"{path.name} is not a Python file")
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _on_path(directory: Path) -> None:
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))


def explain(error: BaseException) -> str:
    """`file:line: Error: message`, and below it the last lines of the user's own code in the traceback."""
    return guarded(lambda: _explain(error)) or brief(error)


def _explain(error: BaseException) -> str:
    what = brief(error)
    if isinstance(error, SyntaxError) and error.filename:
        line = (error.text or "").strip()
        return f"{_short(error.filename)}:{error.lineno}: {type(error).__name__}: {error.msg}" + (
            f"\n    {line}" if line else ""
        )
    frames = [frame for frame in traceback.extract_tb(traceback_of(error)) if _is_users(frame.filename)]
    if not frames:
        return what
    lines = [f"    {_short(f.filename)}:{f.lineno}: {f.line}" for f in frames[-_MAX_LINES:]]
    return f"{_short(frames[-1].filename)}:{frames[-1].lineno}: {' '.join(what.split())}\n" + "\n".join(lines)


def raised_by_user(error: BaseException) -> bool:
    """Whether the user's code, or a library that it called, raised it."""
    return any(_is_users(frame.filename) for frame in traceback.extract_tb(traceback_of(error)))


def _is_users(filename: str) -> bool:
    if filename.startswith("<"):
        return False
    path = os.path.realpath(filename)
    library = os.path.realpath(os.path.dirname(os.__file__)) + os.sep
    return not path.startswith((_FLUX + os.sep, library)) and f"{os.sep}site-packages{os.sep}" not in path


def _short(filename: str) -> str:
    short = os.path.relpath(filename)
    return filename if short.startswith("..") else short
