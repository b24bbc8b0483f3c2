"""Describes exceptions that users' code raised: type name, text, causes. Nothing here raises, except KeyboardInterrupt.

An exception's class may override `__getattribute__`, properties or its metaclass. So attributes are read through the
descriptors of `type` and `BaseException` where possible. Everything else is called once, and a call that fails is
replaced by a note. Texts are cut before they are copied.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, TypeVar

T = TypeVar("T")

MOST_CHARS = 4_000
"""Maximum length of an exception's text."""
_MOST_NAME = 300
_MOST_TYPES = 500
NO_TEXT = "(its message cannot be read)"

_mro = type.__dict__["__mro__"].__get__
_module = type.__dict__["__module__"].__get__
_qualname = type.__dict__["__qualname__"].__get__
_cause = BaseException.__dict__["__cause__"].__get__
_context = BaseException.__dict__["__context__"].__get__
_suppressed = BaseException.__dict__["__suppress_context__"].__get__
_traceback = BaseException.__dict__["__traceback__"].__get__
_names = type.__dict__["__dict__"].__get__
_args = BaseException.__dict__["args"].__get__
_exceptions = BaseExceptionGroup.__dict__["exceptions"].__get__


class TypeCache(Generic[T]):
    """A bounded cache by type. Types are compared by identity, because a metaclass may define `__eq__`."""

    __slots__ = ("_found",)

    def __init__(self) -> None:
        self._found: dict[int, tuple[type, T]] = {}

    def get(self, cls: type) -> T | None:
        found = self._found.get(id(cls))
        return found[1] if found is not None and found[0] is cls else None

    def keep(self, cls: type, value: T) -> T:
        if len(self._found) >= _MOST_TYPES:
            self._found.clear()
        self._found[id(cls)] = cls, value
        return value


_plain: TypeCache[bool] = TypeCache()
"""Whether `str()` of an exception of this type is its only argument."""
_error_names: TypeCache[str] = TypeCache()


def error_name(cls: type[BaseException]) -> str:
    """The name of an error type in headers, metrics and the log; flux's own types have the name that users import."""
    return _error_names.get(cls) or _error_names.keep(cls, _error_name(cls))


def _error_name(cls: type[BaseException]) -> str:
    name = exact(_qualname(cls), _MOST_NAME)
    module = module_of(cls)
    if module.startswith("flux."):
        return f"flux.{name}"
    return name if module in ("builtins", "") else f"{module}.{name}"


def module_of(cls: type) -> str:
    """The class's `__module__`; empty if it has none."""
    try:
        module = _module(cls)
    except AttributeError:
        return ""
    return exact(module, _MOST_NAME) if issubclass(type(module), str) else ""


def text_of(error: BaseException, most: int = MOST_CHARS) -> str:
    """`str(error)`, cut to `most` characters."""
    kind = type(error)
    plain = _plain.get(kind)
    if plain is None:
        plain = _plain.keep(kind, not _has_own_str(kind))
    if plain:
        given = _args(error)
        if len(given) == 1:
            text = given[0]
            if type(text) is str and len(text) <= most and text.isascii():
                return text
    text = guarded(lambda: str(error))
    return NO_TEXT if text is None else cut(text, most)


def _has_own_str(cls: type) -> bool:
    return next(each for each in _mro(cls) if "__str__" in _names(each)) is not BaseException


def brief(error: BaseException) -> str:
    """The error's type name and text."""
    name, text = error_name(type(error)), text_of(error)
    return f"{name}: {text}" if text else name


def guarded(read: Callable[[], Any]) -> Any:
    """The result of `read`, which may run users' code; None if it raises."""
    try:
        return read()
    except KeyboardInterrupt:
        raise
    except BaseException:
        return None


def exact(text: str, most: int) -> str:
    """The first `most` characters as a plain `str` that can be encoded; `text` may be of a subclass of `str`."""
    plain = str.__getitem__(text, slice(0, most))
    return plain if plain.isascii() else plain.encode("utf-8", "backslashreplace").decode()


def cut(text: str, most: int) -> str:
    """As `exact`, followed by the number of characters left out."""
    more = str.__len__(text) - most
    return exact(text, most) + (f"… and {more:,} characters more" if more > 0 else "")


def mro_of(cls: type) -> tuple[type, ...]:
    return _mro(cls)  # type: ignore[no-any-return]


def cause_of(error: BaseException) -> BaseException | None:
    """The exception's `__cause__`."""
    return _cause(error)  # type: ignore[no-any-return]


def context_of(error: BaseException) -> BaseException | None:
    """The exception's `__context__`, unless `__suppress_context__` is set."""
    return None if _suppressed(error) else _context(error)


def traceback_of(error: BaseException) -> TracebackType | None:
    return _traceback(error)  # type: ignore[no-any-return]


def members_of(error: BaseException) -> tuple[BaseException, ...]:
    """The exceptions of a group; empty for another exception."""
    return _exceptions(error) if issubclass(type(error), BaseExceptionGroup) else ()


def notes_of(error: BaseException) -> list[str]:
    notes = guarded(lambda: error.__notes__)
    return [each for each in notes if type(each) is str] if type(notes) is list else []


def number_of(read: Callable[[], Any]) -> float | None:
    """The result of `read` as a float; None if it is not a number."""

    def number() -> float | None:
        found = read()
        return float(found) if issubclass(type(found), int | float) else None

    return guarded(number)  # type: ignore[no-any-return]
