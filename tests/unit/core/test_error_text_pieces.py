"""What is read of an exception, piece by piece."""

from __future__ import annotations

import pytest

import flux
from flux.core.error_text import (
    NO_TEXT,
    brief,
    cause_of,
    context_of,
    cut,
    error_name,
    exact,
    guarded,
    members_of,
    mro_of,
    notes_of,
    traceback_of,
)


class Panic(BaseException):
    """As pyo3's."""


class NoText(Exception):
    def __str__(self) -> str:
        raise Panic("in Rust")


class OddNotes(Exception):
    __notes__ = property(lambda self: 1 / 0)


class Text(str):
    def __getitem__(self, key: object) -> str:
        raise RuntimeError("no part of it")


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (ValueError, "ValueError"),
        (flux.Retry, "flux.Retry"),
        (flux.BrokerError, "flux.BrokerError"),
        (type("Own", (Exception,), {"__module__": "flux"}), "flux.Own"),
        (type("Other", (Exception,), {"__module__": "fluxes.core"}), "fluxes.core.Other"),
        (type("Bare", (Exception,), {"__module__": ""}), "Bare"),
        (type("Odd", (Exception,), {"__module__": 5}), "Odd"),
        (type("Long" + "x" * 400, (Exception,), {"__module__": "m" * 400}), "m" * 300 + ".Long" + "x" * 296),
        (Panic, f"{__name__}.Panic"),
    ],
)
def test_an_error_type_has_the_name_that_users_import(cls: type[BaseException], name: str) -> None:
    assert error_name(cls) == name
    assert error_name(cls) == name, "from the cache"


def test_an_error_in_brief_is_its_type_and_its_text() -> None:
    assert brief(ValueError("bad")) == "ValueError: bad"
    assert brief(ValueError()) == "ValueError"
    assert brief(NoText()) == f"{__name__}.NoText: {NO_TEXT}"


def test_a_text_is_cut_with_the_number_of_characters_left_out() -> None:
    assert cut("abc", 3) == "abc"
    assert cut("abcd", 3) == "abc… and 1 characters more"
    assert cut("x" * 2003, 3) == "xxx… and 2,000 characters more"
    assert cut("\ud800é", 2) == "\\ud800é"
    assert type(exact(Text("abc"), 2)) is str
    assert exact(Text("abc"), 2) == "ab"


def test_what_an_exception_carries() -> None:
    inner, outer, group = KeyError("a"), ValueError("b"), ExceptionGroup("both", [KeyError("c"), ValueError("d")])
    try:
        try:
            raise inner
        except KeyError:
            raise outer  # noqa: B904
    except ValueError:
        pass
    assert (cause_of(outer), context_of(outer)) == (None, inner)
    assert traceback_of(outer) is outer.__traceback__ is not None
    assert traceback_of(ValueError()) is None
    outer.__cause__ = group
    assert (cause_of(outer), context_of(outer)) == (group, None)
    assert (members_of(group), members_of(outer)) == (group.exceptions, ())
    assert mro_of(KeyError) == KeyError.__mro__


def test_notes_are_those_that_are_text() -> None:
    error = ValueError()
    assert notes_of(error) == []
    error.add_note("one")
    error.__notes__.append(2)  # type: ignore[arg-type]
    error.add_note("three")
    assert notes_of(error) == ["one", "three"]
    error.__notes__ = ("no list",)  # type: ignore[assignment]
    assert notes_of(error) == []
    assert notes_of(OddNotes()) == []


def test_what_raises_has_no_result_unless_it_is_an_interrupt() -> None:
    def fail(error: BaseException) -> None:
        raise error

    assert guarded(lambda: 7) == 7
    assert guarded(lambda: fail(Panic())) is None
    with pytest.raises(KeyboardInterrupt):
        guarded(lambda: fail(KeyboardInterrupt()))
