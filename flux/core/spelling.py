"""Finds the setting that a misspelt attribute means.

A class has attributes of its own beside its settings, so a name must differ from a setting as typing errors do: not as
other words do, such as `topics`, `retried` or `rate_limiter`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flux.core.errors import ConfigurationError

_LONG = 7
"""Letters of a word in which two errors are taken for a misspelling."""
_SHORT = 4
"""Letters of a word in which one is."""


def check_names(task: object, bases: Sequence[type], methods: Sequence[str]) -> None:
    """Raises ConfigurationError for an attribute of a class, or of an instance, that misspells one of `bases`, which
    are flux's own. `methods`: those that users write. See `meant`."""
    cls = task if isinstance(task, type) else type(task)
    known = [name for each in cls.__mro__ if each in bases for name in vars(each) if not name.startswith("_")]
    of_class = [name for each in cls.__mro__ if each not in bases for name in vars(each)]
    for name in of_class if cls is task else vars(task):
        right = meant(name, [each for each in known if each not in methods], methods)
        if right is not None:
            raise ConfigurationError(
                f"{cls.__name__}.{name} is not a setting: did you mean {right}? For an attribute of your own choose"
                f" another name, such as _{name}"
            )


def meant(name: str, settings: Iterable[str], methods: Iterable[str] = ()) -> str | None:
    """What `name` misspells of the settings and of the methods, which are shorter and so count only if they differ in
    capitals and underscores, as `setUp` and `setup`. None: it is a name of its own, or right."""
    known, called = list(settings), list(methods)
    if name in known or name in called or name.startswith("_"):
        return None
    for right in (*known, *called):
        if _bare(name) == _bare(right) or (right in known and _misspells(name, right)):
            return right
    return None


def _bare(name: str) -> str:
    return name.replace("_", "").lower()


def _misspells(name: str, setting: str) -> bool:
    words, right = name.split("_"), setting.split("_")
    return len(words) == len(right) and all(a == b or _is_typo(a, b) for a, b in zip(words, right, strict=True))


def _is_typo(word: str, right: str) -> bool:
    if len(right) < _SHORT or word[:1] != right[0]:
        return False
    if word.startswith(right[:-1]) or right.startswith(word):
        return False  # another ending makes another word
    errors = _errors(word, right)
    return errors == 1 or (errors == 2 and len(right) >= _LONG and word[-1] == right[-1])


def _errors(word: str, right: str) -> int:
    """Letters that are left out, added, replaced, or swapped with the next one."""
    before: list[int] = []
    row = list(range(len(right) + 1))
    for at, letter in enumerate(word, 1):
        earlier, before = before, row
        row = [at]
        for to, other in enumerate(right, 1):
            best = min(before[to] + 1, row[to - 1] + 1, before[to - 1] + (letter != other))
            if at > 1 and to > 1 and letter == right[to - 2] and word[at - 2] == other:
                best = min(best, earlier[to - 2] + 1)
            row.append(best)
    return row[-1]
