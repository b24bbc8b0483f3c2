"""Somebody else's objects cannot break what describes them: their records move, the log says what could not be had."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest

import flux
from flux.cli.load_code import load
from flux.cli.log import _Formatter, _JsonFormatter
from flux.core.error_text import NO_TEXT, TypeCache, brief, error_name, module_of, number_of, text_of
from flux.system import tracebacks as traces
from flux.testing import Kit
from unit.support.peers_support import Peer, wait_for


class Panic(BaseException):
    """As pyo3's."""


class NoText(Exception):
    def __str__(self) -> str:
        raise Panic("in Rust")


class NoCause(Exception):
    @property
    def __cause__(self) -> BaseException | None:  # type: ignore[override]
        raise RuntimeError("no cause")


class NoAttributes(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


def of_a_closed_class() -> Exception:
    """Made here, as pytest would look at it otherwise."""

    class Closed(type):
        def __getattribute__(cls, name: str) -> Any:
            raise RuntimeError(name)

        def __eq__(cls, other: object) -> bool:
            raise RuntimeError("no comparison")

        __hash__ = None  # type: ignore[assignment]

    class OfAClosedClass(Exception, metaclass=Closed): ...

    return OfAClosedClass()


class OddRetry(flux.Retry):
    after = property(lambda self: 1 / 0, lambda self, seconds: None)


class Never(Exception):
    """Neither true nor false, and equal to nothing."""

    def __bool__(self) -> bool:
        raise RuntimeError("no truth")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")

    def __hash__(self) -> int:
        raise RuntimeError("no hash")

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class Text(str):
    def __getitem__(self, key: Any) -> str:
        raise RuntimeError("no part of it")

    def __str__(self) -> str:
        return self

    def encode(self, *given: Any) -> bytes:
        raise RuntimeError("no bytes of it")


class OddText(Exception):
    def __str__(self) -> str:
        return Text("odd")


class OddNotes(Exception):
    __notes__ = property(lambda self: 1 / 0)


class Circle(Exception):
    def __init__(self) -> None:
        super().__init__("round")
        self.__cause__ = ValueError("inner")
        self.__cause__.__context__ = self


HOSTILE: dict[str, Callable[[], Exception]] = {
    "SyntaxError with bytes": lambda: SyntaxError("bad", ("f.py", 1, 1, b"text")),  # type: ignore[arg-type]
    "no module": lambda: type("NoModule", (Exception,), {"__module__": None})("x"),
    "a module that is none": lambda: type("OddModule", (Exception,), {"__module__": 5})("x"),
    "no text": NoText,
    "no cause": NoCause,
    "no attributes": NoAttributes,
    "a closed class": of_a_closed_class,
    "no truth": Never,
    "odd text": OddText,
    "odd notes": OddNotes,
    "a circle": Circle,
    "a lone surrogate": lambda: ValueError("\udcff"),
    "a group of them": lambda: ExceptionGroup("both", [NoText(), Never()]),
    "a retry that answers nothing": OddRetry,
}
hostile = pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE.keys())


@hostile
def test_whatever_is_raised_can_be_described(make: Callable[[], Exception]) -> None:
    try:
        raise make()
    except Exception as raised:
        error = raised
    assert error_name(type(error))
    assert brief(error).startswith(error_name(type(error)))
    assert "test_error_text.py" in traces.trace_of(error)
    assert brief(error) in traces.text_of(error)


def said(run: Callable[[], Any]) -> Any:
    """Such an exception would break pytest's own report too."""
    failed = ""
    try:
        return run()
    except BaseException as error:
        failed = str(type.__dict__["__qualname__"].__get__(type(error)))
    raise AssertionError(f"the worker failed with {failed}")


def raising(make: Callable[[], Exception], asynchronous: bool) -> Callable[[flux.Message], Any]:
    def call(message: flux.Message) -> None:
        if message.value == b"bad":
            raise make()

    async def call_async(message: flux.Message) -> None:
        call(message)

    return call_async if asynchronous else call


@pytest.mark.parametrize("asynchronous", [False, True])
@hostile
def test_its_record_moves_and_hooks_hear_of_it(
    flux_kit: Kit, make: Callable[[], Exception], asynchronous: bool
) -> None:
    heard: list[str] = []

    class Hearing(flux.Hooks):
        def on_failure(
            self, where: flux.StageInfo, message: flux.Message, error: BaseException, seconds: float | None
        ) -> None:
            heard.append(error_name(type(error)))

    task = flux.task(topic="orders", group_id="g", retries=1, wait=1, hooks=[Hearing()])(raising(make, asynchronous))
    for value in ("bad", "good"):
        flux_kit.produce("orders", value)
    done = said(lambda: flux_kit.run_to_the_end(task))
    assert (done.done, done.failed, done.dead) == (1, 2, 1)
    assert heard == [error_name(type(make()))] * 2
    assert repr(flux_kit.failures[0])


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("name", ["SyntaxError with bytes", "no attributes", "a closed class", "no truth"])
def test_a_worker_goes_on_behind_it(name: str, asynchronous: bool) -> None:
    peer = Peer()
    task = peer.task(raising(HOSTILE[name], asynchronous))
    peer.write(b"bad", b"good")
    with peer.working(task):
        wait_for(lambda: peer.values("t-g-dlq"), "the dead letter")
        wait_for(lambda: peer.position() == 2, "the position behind both")


@pytest.mark.parametrize("setting", [{"pause_on": (Exception,)}, {"in_place_retries": 1}])
@hostile
def test_outages_and_tries_in_place_bear_it_too(
    flux_kit: Kit, make: Callable[[], Exception], setting: dict[str, Any]
) -> None:
    tried: list[int] = []

    def call(message: flux.Message) -> None:
        tried.append(message.offset)
        if len(tried) < 2:
            raise make()

    flux_kit.produce("orders", "x")
    task = flux.task(topic="orders", group_id="g", wait=1, **setting)(call)
    done = said(lambda: flux_kit.run_to_the_end(task))
    assert done.done == 1


@hostile
def test_in_a_batch_it_is_one_of_many(flux_kit: Kit, make: Callable[[], Exception]) -> None:
    class Storing(flux.BatchTask):
        topic, group_id, retries, wait, max_wait = "orders", "g", 0, 1, 0.0

        def call(self, messages: Any) -> None:
            raise flux.BatchFailure({message: make() for message in messages if message.value == b"bad"})

    for value in ("bad", "good"):
        flux_kit.produce("orders", value)
    assert said(lambda: flux_kit.run(Storing)).done == 1
    assert len(flux_kit.dead_letters(Storing)) == 1


def test_what_a_subclass_of_failed_hides_fails_the_whole_batch(flux_kit: Kit) -> None:
    class Hiding(flux.BatchFailure):
        failures = property(lambda self: 1 / 0, lambda self, value: None)

        def __init__(self) -> None: ...

    class Storing(flux.BatchTask):
        topic, group_id, retries, max_wait = "orders", "g", 0, 0.0

        def call(self, messages: Any) -> None:
            raise Hiding

    flux_kit.produce("orders", "x")
    assert flux_kit.run(Storing).failed == 1


def test_what_a_deserializer_raises_is_described_by_its_cause(flux_kit: Kit) -> None:
    def refuse(data: bytes | None) -> Any:
        raise NoText

    task = flux.task(topic="orders", group_id="g", deserializer=refuse)(lambda message: None)
    flux_kit.produce("orders", "x")
    flux_kit.run(task)
    [letter] = flux_kit.dead_letters(task)
    assert letter.header("flux-error-type") == f"{__name__}.NoText"
    assert letter.header("flux-error-message") == NO_TEXT


def test_a_long_text_is_cut_in_the_log_and_in_the_headers(flux_kit: Kit, caplog: pytest.LogCaptureFixture) -> None:
    def call(message: flux.Message) -> None:
        try:
            raise ValueError("y" * 5_000_000)
        except ValueError as error:
            raise KeyError("x" * 5_000_000) from error

    flux_kit.produce("orders", "x")
    with caplog.at_level(logging.DEBUG, "flux"):
        flux_kit.run(flux.task(topic="orders", group_id="g", retries=0)(call))
    assert 100 < sum(len(record.getMessage()) for record in caplog.records) < 40_000
    assert "characters more" in caplog.text


def test_a_text_that_fits_is_whole() -> None:
    assert text_of(ValueError("x" * 4_000)) == "x" * 4_000
    assert text_of(ValueError("x" * 4_001)).endswith("… and 1 characters more")


def test_a_text_that_no_file_takes_is_written_out() -> None:
    assert text_of(ValueError("é \udcff")) == "é \\udcff"


def test_causes_notes_and_groups_are_shown() -> None:
    def fail() -> None:
        try:
            raise KeyError("first")
        except KeyError as error:
            both = ExceptionGroup("both", [ValueError("one"), ValueError("two")])
            both.add_note("a note")
            raise both from error

    try:
        fail()
    except ExceptionGroup as error:
        shown = traces.text_of(error)
    order = [
        "KeyError: 'first'",
        "direct cause",
        "ExceptionGroup: both (2",
        "a note",
        "ValueError: one",
        "ValueError: two",
    ]
    places = [shown.index(part) for part in order]
    assert places == sorted(places)


def test_an_interrupt_is_nobodys_text() -> None:
    class Interrupting(Exception):
        def __str__(self) -> str:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        text_of(Interrupting())


# ---- what is no exception class


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_panic_that_is_named_moves_its_record(flux_kit: Kit, asynchronous: bool) -> None:
    def panic(message: flux.Message) -> None:
        raise Panic("called unwrap on None")

    async def panic_async(message: flux.Message) -> None:
        panic(message)

    task = flux.task(topic="orders", group_id="g", reject_on=(Panic,))(panic_async if asynchronous else panic)
    flux_kit.produce("orders", "x")
    flux_kit.run(task)
    [letter] = flux_kit.dead_letters(task)
    assert letter.header("flux-error-message") == "called unwrap on None"
    assert letter.header("flux-error-trace")
    assert [type(failure.error) for failure in flux_kit.failures] == [Panic]


def test_a_panic_that_is_not_named_is_the_processs(flux_kit: Kit) -> None:
    def panic(message: flux.Message) -> None:
        raise Panic

    flux_kit.produce("orders", "x")
    with pytest.raises(Panic):
        flux_kit.run(flux.task(topic="orders", group_id="g")(panic))


@pytest.mark.parametrize("where", ["retry_on", "reject_on", "pause_on"])
@pytest.mark.parametrize("cls", [KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError, asyncio.CancelledError])
def test_a_failure_of_the_process_cannot_be_named(where: str, cls: type[BaseException]) -> None:
    rules: dict[str, Any] = {where: (ValueError, cls)}
    task = flux.task(topic="orders", group_id="g", **rules)(lambda message: None)
    with pytest.raises(
        flux.ConfigurationError, match=f"{where} names .*{cls.__name__}, which is a failure of the proc"
    ):
        task.policy()


@pytest.mark.parametrize("form", ["text", "json"])
@hostile
def test_a_line_of_a_command_about_it_is_whole(make: Callable[[], Exception], form: str) -> None:
    formatter = _Formatter("%(message)s") if form == "text" else _JsonFormatter(None)
    try:
        raise make()
    except Exception as error:
        name = error_name(type(error))
        record = logging.LogRecord("flux", logging.ERROR, "", 0, "it failed", (), sys.exc_info())
    assert name in said(lambda: formatter.format(record))


@hostile
def test_a_module_that_raises_it_is_refused_in_one_line(
    make: Callable[[], Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "raising.py").write_text("import test_described\nraise test_described.made\n")
    monkeypatch.setitem(sys.modules, "test_described", SimpleNamespace(made=make()))
    with pytest.raises(click.ClickException) as refused:
        load("raising.py")
    assert refused.value.format_message().startswith("cannot load raising.py: ")


def test_a_place_that_raises_has_one_trace_and_each_place_its_own() -> None:
    def fail(where: int) -> str:
        try:
            if where:
                raise ValueError("one")
            raise ValueError("two")
        except ValueError as error:
            return traces.trace_of(error)

    assert fail(0) is fail(0)
    assert fail(0) != fail(1)
    assert [line for line in fail(1).splitlines() if "raise" in line] == ['    raise ValueError("one")']


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("plain"), "plain"),
        (ValueError(), ""),
        (ValueError("a", 1), "('a', 1)"),
        (ValueError(7), "7"),
        (KeyError("key"), "'key'"),
        (OSError(2, "gone"), "[Errno 2] gone"),
        (ValueError("\ud800"), "\\ud800"),
        (ValueError("x" * 9), "xxxxx… and 4 characters more"),
    ],
)
def test_a_text_is_what_str_makes_of_the_exception(error: BaseException, text: str) -> None:
    assert text_of(error, most=5 if "x" in text else 100) == text


class NoNumber:
    @property
    def seconds(self) -> float:
        raise ValueError


def test_a_number_of_an_object_is_a_float_or_none() -> None:
    assert [number_of(lambda value=value: value) for value in (1, 0.5, True, "1", None)] == [1.0, 0.5, 1.0, None, None]  # type: ignore[misc]
    assert number_of(lambda: NoNumber().seconds) is None


def test_a_cache_by_type_is_bounded() -> None:
    cache: TypeCache[int] = TypeCache()
    kinds = [type(f"Error{number}", (Exception,), {}) for number in range(501)]
    for number, kind in enumerate(kinds):
        assert cache.get(kind) is None
        assert cache.keep(kind, number) == number
    assert cache.get(kinds[-1]) == 500
    assert cache.get(kinds[0]) is None


def test_a_class_without_a_module_has_an_empty_one() -> None:
    bare = eval("type('Bare', (Exception,), {})", {})  # whose globals have no __name__
    assert module_of(bare) == ""
    assert error_name(bare) == "Bare"
