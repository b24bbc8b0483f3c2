from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any

import pytest

from flux import config
from flux.adapters.memory import MemoryAdapter
from flux.config import ProducerOptions, adapter_from_url, configure, override_adapter, resolve_adapter
from flux.core.errors import ConfigurationError


@pytest.fixture(autouse=True)
def unconfigured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("FLUX_ADAPTER", raising=False)
    config.reset()
    yield
    config.reset()


def install(monkeypatch: pytest.MonkeyPatch, **schemes: str) -> None:
    points = [EntryPoint(name, value, "flux.adapters") for name, value in schemes.items()]
    monkeypatch.setattr(config, "entry_points", lambda group: [point for point in points if point.group == group])


def test_a_memory_url_needs_no_installed_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    assert adapter_from_url("memory://plain").cluster == "memory://plain"


@pytest.mark.parametrize("scheme", ["confluent", "kafka"])
def test_kafka_and_confluent_are_the_confluent_adapter(scheme: str) -> None:
    from flux.adapters.confluent import ConfluentAdapter

    assert isinstance(adapter_from_url(f"{scheme}://localhost:1"), ConfluentAdapter)


def test_the_same_url_is_the_same_adapter() -> None:
    assert adapter_from_url("memory://same") is adapter_from_url("memory://same")
    assert adapter_from_url("memory://same") is not adapter_from_url("memory://not-the-same")


def test_an_unknown_scheme_lists_the_known_ones_and_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, pigeon="nowhere:fly")
    with pytest.raises(ConfigurationError) as raised:
        adapter_from_url("rabbit://alice:hunter2@host")
    assert str(raised.value) == "no adapter for rabbit://; known are aiokafka, confluent, kafka, memory, pigeon"


@pytest.mark.parametrize("url", ["", "localhost:9092", "alice:hunter2@host://x", "://x"])
def test_what_is_no_url_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        adapter_from_url(url)
    assert str(raised.value) == "an adapter's URL looks like confluent://HOST:PORT"


def test_an_installed_package_adds_a_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("pigeon_adapter")
    module.fly = lambda url: MemoryAdapter(url.partition("://")[2])
    monkeypatch.setitem(sys.modules, "pigeon_adapter", module)
    install(monkeypatch, pigeon="pigeon_adapter:fly")
    assert adapter_from_url("pigeon://coop").cluster == "memory://coop"


def test_an_adapter_whose_package_is_missing_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, pigeon="no_such_pigeon:fly")
    with pytest.raises(ConfigurationError, match="pigeon:// cannot be loaded: No module named 'no_such_pigeon'"):
        adapter_from_url("pigeon://coop")


def test_without_any_adapter_the_error_says_what_to_do() -> None:
    with pytest.raises(ConfigurationError, match=r"flux\.configure.*FLUX_ADAPTER.*--adapter"):
        resolve_adapter()


def test_who_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    configure(adapter="memory://configured")
    assert resolve_adapter().cluster == "memory://configured"
    monkeypatch.setenv("FLUX_ADAPTER", "memory://environment")
    assert resolve_adapter().cluster == "memory://environment"
    override_adapter("memory://command-line")
    assert resolve_adapter().cluster == "memory://command-line"
    assert resolve_adapter(None, "memory://class").cluster == "memory://class"
    assert resolve_adapter(MemoryAdapter("instance"), "memory://class").cluster == "memory://instance"
    override_adapter(None)
    assert resolve_adapter().cluster == "memory://environment"


def test_an_empty_variable_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX_ADAPTER", "")
    configure(adapter="memory://configured")
    assert resolve_adapter().cluster == "memory://configured"


def test_configure_leaves_what_it_is_not_given() -> None:
    configure(adapter="memory://kept", producer=ProducerOptions(acks="1"))
    configure(producer=ProducerOptions(flush_interval=2))
    assert resolve_adapter().cluster == "memory://kept"
    configure(adapter="memory://new")
    assert config.current.producer == ProducerOptions(flush_interval=2)


def test_configure_refuses_at_once_what_is_no_adapter_or_no_options() -> None:
    wrong: Any = {"flush_interval": 1}
    with pytest.raises(ConfigurationError, match=r"flux\.ProducerOptions"):
        configure(producer=wrong)
    with pytest.raises(ConfigurationError, match="not a dict"):
        configure(adapter=wrong)
    with pytest.raises(ConfigurationError, match="no adapter for rabbit://"):
        configure(adapter="rabbit://x")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_buffer_size", 0),
        ("max_buffer_size", 2.5),
        ("max_buffer_size", True),
        ("max_buffer_bytes", -1),
        ("max_queue_bytes", "1"),
        ("flush_interval", 0),
        ("flush_interval", float("nan")),
        ("flush_interval", float("inf")),
        ("delivery_timeout", "30"),
        ("compression", "brotli"),
        ("acks", 2),
    ],
)
def test_options_that_cannot_be_meant_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"ProducerOptions.{name} must be"):
        ProducerOptions(**{name: value})


def test_options_become_the_client_s_settings() -> None:
    settings = ProducerOptions(acks="1", compression="lz4", delivery_timeout=7, max_queue_bytes=99).settings
    assert (settings.acks, settings.compression, settings.delivery_timeout, settings.max_queue_bytes) == (
        "1",
        "lz4",
        7,
        99,
    )
