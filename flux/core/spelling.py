"""Finds the setting that a misspelt attribute means.

A class has attributes of its own beside its settings, so a name must differ from a setting as typing errors do: not as
other words do, such as `topics`, `tonic`, `retried` or `rate_limiter`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from flux.core.errors import ConfigurationError

_SHORTEST = 4
"""Letters of a word in which an error is taken for a misspelling."""
_KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_SOUNDS = ("ae", "ei", "eo", "iy", "sz", "cs", "ck")
_CLOSE = {frozenset(pair) for row in _KEYS for pair in pairwise(row)} | {frozenset(pair) for pair in _SOUNDS}
"""Letters that are typed for each other, being neighbours or sounding alike."""

# What an error costs. A short word may have one slip or one swap, a longer one two slips, a long one any one error.
_SLIP, _SWAP, _OTHER = 2, 3, 5
_MOST = {4: 3, 5: 3, 6: 3, 7: 4}
_MOST_OF_LONG = 5
_OTHERWISE = {"rate_limit_per_key": "rate_limit_key"}
"""Names that nobody gives an attribute of their own, as they are made like those of other settings."""
_FORMS = "sdr"
"""Last letters without which a word may be another one: header, produce, serialize."""


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
    if _OTHERWISE.get(name) in known:
        return _OTHERWISE[name]
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
    if len(right) < _SHORTEST or word[:1] != right[0]:
        return False
    if word == right[:-1]:
        return len(right) > _SHORTEST and right[-1] not in _FORMS
    if word != right + right[-1] and (word.startswith(right[:-1]) or right.startswith(word)):
        return False  # another ending makes another word
    cost = _cost(word, right)
    return cost <= _SWAP or (cost <= _MOST.get(len(right), _MOST_OF_LONG) and word[-1] == right[-1])


def _cost(word: str, right: str) -> int:
    """Of the cheapest errors that make `word` of `right`: letters left out, doubled, typed for a close one (slips);
    swapped with the next one; or added or replaced otherwise, which mostly makes another word."""
    before: list[int] = []
    row = [_SLIP * left_out for left_out in range(len(right) + 1)]
    for at, letter in enumerate(word, 1):
        doubled = letter in (word[at - 2 : at - 1], word[at : at + 1])
        earlier, before = before, row
        row = [_OTHER * at]
        for to, other in enumerate(right, 1):
            close = _SLIP if frozenset((letter, other)) in _CLOSE else _OTHER
            best = min(
                before[to] + (_SLIP if doubled else _OTHER),
                row[to - 1] + _SLIP,
                before[to - 1] + (0 if letter == other else close),
            )
            if at > 1 and to > 1 and letter == right[to - 2] and word[at - 2] == other:
                best = min(best, earlier[to - 2] + _SWAP)
            row.append(best)
    return row[-1]
