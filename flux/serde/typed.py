"""Types of values at run time: the parameter of a class, and what a type is made of."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal
from functools import reduce
from operator import or_
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict
from uuid import UUID

from flux.core.engine.verdicts import Pause, Reject, Retry
from flux.core.errors import ConfigurationError
from flux.core.validation import shown

OUTCOMES = (Pause, Reject, Retry, MemoryError)
"""What users' code in a model may raise to decide about a record, and a failure of the process."""

AS_THEY_ARE = (bytes, datetime, date, time, Decimal, UUID)
"""Types that schemas have, and JSON has not."""


def type_argument(cls: type, base: type) -> Any:
    """The type that `cls` gives to `base`, as in `class Orders(base[Order])`; Any if it gives none. Raises
    ConfigurationError for a name that cannot be found."""
    found = _argument(cls, base)
    return Any if isinstance(found, TypeVar) or found is object else found


def _argument(cls: type, base: type) -> Any:
    """It may be a variable of `cls`, or contain some."""
    for given in cls.__dict__.get("__orig_bases__", cls.__bases__):
        origin = get_origin(given) or given
        if not (isinstance(origin, type) and issubclass(origin, base)):
            continue
        arguments = [evaluated(each, cls) for each in get_args(given)]
        if origin is base:
            found = arguments[0] if arguments else Any
        else:
            found = _argument(origin, base)
            if arguments:
                found = _substituted(found, dict(zip(origin.__parameters__, arguments, strict=True)))  # type: ignore[attr-defined]
        if found is not Any:
            return found
    return Any


def _substituted(found: Any, arguments: dict[Any, Any]) -> Any:
    if isinstance(found, TypeVar):
        return arguments.get(found, found)
    free = getattr(found, "__parameters__", ())
    return found[tuple(arguments.get(each, each) for each in free)] if free else found


def evaluated(hint: Any, owner: Any) -> Any:
    """A type whose names in quotes are looked up in the module of `owner`, a class or function. Raises
    ConfigurationError."""
    if isinstance(hint, type) and not get_args(hint):
        return hint

    def holder() -> None: ...

    holder.__annotations__ = {"value": hint}
    names = dict(vars(sys.modules.get(owner.__module__, types)))
    try:
        return get_type_hints(holder, names, {owner.__name__: owner}, include_extras=True)["value"]
    except Exception as error:
        raise ConfigurationError(
            f"{owner.__qualname__}: the type of its values cannot be found: {error}; import it where the program runs,"
            " in the module's namespace"
        ) from None


def without_none(kind: Any) -> tuple[Any, bool]:
    """The type without None, and whether None was in it."""
    members = get_args(kind) if is_union(kind) else (kind,)
    left = tuple(each for each in members if each is not type(None))
    if len(left) == len(members):
        return kind, kind is Any
    return reduce(or_, left) if left else type(None), True


def is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


def bare(kind: Any) -> Any:
    """The type behind aliases, new types and annotations."""
    while True:
        if get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
        elif hasattr(kind, "__supertype__"):
            kind = kind.__supertype__
        elif type(kind).__name__ == "TypeAliasType":
            kind = kind.__value__
        else:
            return kind


def leaves(kind: Any) -> list[Any]:
    """All types in a type: `dict[str, list[Order]]` has dict, str, list and Order."""
    kind = bare(kind)
    inner = [leaf for each in get_args(kind) for leaf in leaves(each)] if get_args(kind) else []
    return inner if is_union(kind) else [get_origin(kind) or kind, *inner]


def classes_of(kind: Any) -> tuple[type, ...]:
    """The classes of a type's instances."""
    kind = bare(kind)
    if is_union(kind):
        return tuple(cls for each in get_args(kind) for cls in classes_of(each))
    if is_typeddict(get_origin(kind) or kind):
        return (dict,)
    cls = get_origin(kind) or kind
    return (cls,) if isinstance(cls, type) else (object,)


def instance_check(kind: Any) -> Callable[[Any], None]:
    """Raises TypeError for a value that is of none of the type's classes."""
    classes, name = classes_of(kind), type_name(kind)

    def check(value: Any) -> None:
        if not isinstance(value, classes):
            raise TypeError(f"an instance of {name} was expected, not of {type(value).__name__}")

    return check


def type_name(kind: Any) -> str:
    return str(kind.__name__) if isinstance(kind, type) and not get_args(kind) else shown(kind).replace("typing.", "")
