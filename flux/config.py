"""Settings of the whole process: its cluster, its producers and hooks."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Literal, cast, get_args

import attrs

from flux.core.errors import ConfigurationError
from flux.core.hooks import Hooks, check_hooks
from flux.core.ports import Adapter, AsyncAdapter, ProducerSettings
from flux.core.producing.buffer import Limits
from flux.core.validation import check_switch, is_number, is_whole, plain, plainly, seconds, shown
from flux.processes.sigterm import ignore_sigterm
from flux.producing.registry import PRODUCERS
from flux.system import Lock

Acks = Literal["all", "1", "0"]
Compression = Literal["none", "gzip", "snappy", "lz4", "zstd"]
AdapterChoice = Adapter | AsyncAdapter | str | None

ENTRY_POINTS = "flux.adapters"
_LONGEST = 86_400
_MOST_COUNTED = 2**40  # librdkafka's limit for its queue
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*\Z")
_BUILT_IN = {
    "memory": "flux.adapters.memory",
    "confluent": "flux.adapters.confluent",
    "kafka": "flux.adapters.confluent",
    "aiokafka": "flux.adapters.aiokafka",
}
_EXTRAS = {"aiokafka"}


def _count(_: object, field: attrs.Attribute[Any], value: object) -> None:
    if not is_whole(value, 1, _MOST_COUNTED):
        raise ConfigurationError(
            f"ProducerOptions.{field.name} must be a whole number from 1 to {_MOST_COUNTED}, not {shown(value)}"
        )


def _seconds(_: object, field: attrs.Attribute[Any], value: object) -> None:
    if not is_number(value, 0, _LONGEST) or value == 0:
        raise ConfigurationError(
            f"ProducerOptions.{field.name} must be seconds above 0 and to {_LONGEST}, not {shown(value)}"
        )


def _one_of(choices: object) -> Callable[[object, attrs.Attribute[Any], object], None]:
    known = get_args(choices)

    def check(_: object, field: attrs.Attribute[Any], value: object) -> None:
        if type(value) is not str or value not in known:
            raise ConfigurationError(
                f"ProducerOptions.{field.name} must be one of {', '.join(known)}, not {shown(value)}"
            )

    return check


@attrs.frozen(kw_only=True, cache_hash=True, field_transformer=plainly)
class ProducerOptions:
    """How producers buffer and write. Times in seconds. Raises ConfigurationError for an invalid value."""

    max_buffer_size: int = attrs.field(default=1000, validator=_count)
    """Records that a producer buffers before it passes them to its client."""
    max_buffer_bytes: int = attrs.field(default=1_000_000, validator=_count)
    """Bytes of keys and values that it buffers."""
    flush_interval: float = attrs.field(default=1.0, converter=seconds, validator=_seconds)
    """How long a record waits in the buffer at most."""
    compression: Compression = attrs.field(default="none", validator=_one_of(Compression))
    acks: Acks = attrs.field(default="all", validator=_one_of(Acks))
    delivery_timeout: float = attrs.field(default=30.0, converter=seconds, validator=_seconds)
    """How long the client tries to deliver a record, and how long `produce` waits for room."""
    max_queue_bytes: int = attrs.field(default=256 * 1024 * 1024, validator=_count)
    """Bytes that a client holds at most, including unacknowledged records; producers with the same settings share
    one."""

    @property
    def limits(self) -> Limits:
        return Limits(self.max_buffer_size, self.max_buffer_bytes, self.flush_interval)

    @property
    def settings(self) -> ProducerSettings:
        return ProducerSettings(
            acks=self.acks,
            compression=self.compression,
            delivery_timeout=self.delivery_timeout,
            max_queue_bytes=self.max_queue_bytes,
        )


@attrs.frozen
class Settings:
    """What `configure` has set."""

    adapter: AdapterChoice = None
    producer: ProducerOptions = attrs.field(factory=ProducerOptions)
    hooks: Sequence[Hooks] = ()
    flush_on_sigterm: bool = True
    override: AdapterChoice = None
    substitute: Callable[[AdapterChoice, AdapterChoice], Adapter] | None = None


current = Settings()
_adapters: dict[str, Adapter] = {}
_lock = Lock()
if hasattr(os, "register_at_fork"):
    # A fork waits while an adapter is imported and made: the child could neither use nor repeat that.
    os.register_at_fork(
        before=lambda: _lock.acquire(), after_in_parent=lambda: _lock.release(), after_in_child=lambda: _lock.release()
    )


def configure(
    *,
    adapter: AdapterChoice = None,
    producer: ProducerOptions | None = None,
    hooks: Sequence[Hooks] | None = None,
    flush_on_sigterm: bool | None = None,
) -> None:
    """Sets the given settings for the whole process, and leaves the others. `adapter`: an adapter or its URL. `hooks`:
    event callbacks of every task of workers that are made afterwards. `flush_on_sigterm` (default True): if SIGTERM has
    no handler when a producer is first used in the main thread, that signal delivers buffered records, in up to 25 s,
    before it ends the process. Raises ConfigurationError."""
    if flush_on_sigterm is not None:
        check_switch("flux.configure: flush_on_sigterm", flush_on_sigterm)
    if producer is not None and not isinstance(producer, ProducerOptions):
        raise ConfigurationError("flux.configure(producer=…) takes a flux.ProducerOptions")
    if adapter is not None:
        _change(adapter=as_adapter(adapter))
    if producer is not None:
        _change(producer=producer)
    if hooks is not None:
        _change(hooks=check_hooks(hooks, "flux.configure(hooks=…)"))
    if flush_on_sigterm is not None:
        _change(flush_on_sigterm=flush_on_sigterm)
        if not flush_on_sigterm:
            ignore_sigterm()


def override_adapter(adapter: AdapterChoice) -> None:
    """Sets the command line's choice, which overrides the environment's and `configure`'s; None removes it."""
    _change(override=None if adapter is None else as_adapter(adapter))


def reset() -> None:
    """Forgets the settings and the adapters that were made: for tests."""
    global current
    with _lock:
        current = Settings()
        _adapters.clear()
    PRODUCERS.reroute()


@contextmanager
def substituting(substitute: Callable[[AdapterChoice, AdapterChoice], Adapter]) -> Iterator[None]:
    """A context for tests in which `substitute(own, common)` returns every adapter. `own`: the choice of the task or
    producer; `common`: that of the process. Settings that are changed meanwhile are restored at the end."""
    global current
    before = current
    _change(substitute=substitute)
    try:
        yield
    finally:
        with _lock:
            current = before
        PRODUCERS.reroute()


def resolve_adapter(*candidates: AdapterChoice) -> Adapter:
    """The first that is not None of: `candidates` (an instance's, then its class's), the command line's, the
    environment variable FLUX_ADAPTER, `configure`'s. Raises ConfigurationError when there is none."""
    settings = current
    own = _first(candidates)
    common = _first((settings.override, os.environ.get("FLUX_ADAPTER") or None, settings.adapter))
    if settings.substitute is not None:
        return settings.substitute(own, common)
    chosen = common if own is None else own
    if chosen is not None:
        return as_adapter(chosen)
    raise ConfigurationError(
        'no adapter: call flux.configure(adapter="confluent://HOST:PORT"), set FLUX_ADAPTER, or give --adapter'
    )


def as_adapter(choice: Adapter | AsyncAdapter | str) -> Adapter:
    """The adapter itself, or the one for a URL. Raises ConfigurationError."""
    if isinstance(choice, str):
        return adapter_from_url(plain(choice))
    if not (hasattr(choice, "cluster") and hasattr(choice, "producer")):
        raise ConfigurationError(f"an adapter or its URL was expected, not a {type(choice).__name__}")
    return cast(Adapter, choice)


def adapter_from_url(url: str) -> Adapter:
    """The adapter for `SCHEME://…`; the same one for the same URL. Schemes are memory, confluent, kafka, aiokafka, and
    those of installed packages: an entry point `SCHEME = "package.module:function"` in the group `flux.adapters`, whose
    function takes the URL. Raises ConfigurationError, which never shows the URL: it may contain a password."""
    if not isinstance(url, str):
        raise ConfigurationError("an adapter's URL is a text such as confluent://HOST:PORT")
    with _lock:
        if url not in _adapters:
            scheme, separator, _ = url.partition("://")
            if not separator or not _SCHEME.match(scheme):
                raise ConfigurationError("an adapter's URL looks like confluent://HOST:PORT")
            _adapters[url] = _factory(scheme)(url)
        return _adapters[url]


def _first(choices: Iterable[AdapterChoice]) -> AdapterChoice:
    return next((choice for choice in choices if choice is not None), None)


def _factory(scheme: str) -> Callable[[str], Adapter]:
    found = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    try:
        if scheme in _BUILT_IN:
            return cast(Callable[[str], Adapter], import_module(_BUILT_IN[scheme]).from_url)
        if scheme in found:
            return cast(Callable[[str], Adapter], found[scheme].load())
    except ImportError as error:
        if scheme in _EXTRAS and error.name == scheme:
            raise ConfigurationError(f'{scheme}:// needs a package: pip install "super-flux[{scheme}]"') from error
        raise ConfigurationError(f"the adapter for {scheme}:// cannot be loaded: {error}") from error
    known = ", ".join(sorted({*_BUILT_IN, *found}))
    raise ConfigurationError(f"no adapter for {scheme}://; known are {known}")


def _change(**changes: Any) -> None:
    global current
    with _lock:
        current = attrs.evolve(current, **changes)
    PRODUCERS.reroute()
