"""Metrics and health of a relay."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from flux.core.errors import ConfigurationError
from flux.observe import names
from flux.observe.names import Metric
from flux.observe.server import METRICS_TYPE, MISSING, Answer, Server, live, ready
from flux.outbox.relay import Relay, logger


@contextmanager
def serving(relay: Relay, port: int, host: str) -> Iterator[None]:
    """A context in which they are served. Raises ConfigurationError without prometheus-client."""
    text = _text(relay)
    server = Server(
        port,
        host,
        {
            "/metrics": lambda: Answer(200, text(), METRICS_TYPE),
            "/live": lambda: live(relay.health),
            "/ready": lambda: ready(relay.health),
        },
    )
    logger.info("metrics and health are on port %d of %s", server.port, host)
    try:
        yield
    finally:
        server.stop()


def _text(relay: Relay) -> Callable[[], str]:
    try:
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
        from prometheus_client.metrics_core import Metric as Family
        from prometheus_client.registry import Collector
    except ImportError:
        raise ConfigurationError(MISSING) from None

    class RelayMetrics(Collector):
        def collect(self) -> Iterator[Family]:
            for metric, values in _values(relay).items():
                made = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
                family = made(metric.name, metric.help, labels=metric.labels)
                for labels, value in values.items():
                    family.add_metric(labels, value)
                yield family

    registry = CollectorRegistry()
    registry.register(RelayMetrics())
    return lambda: str(generate_latest(registry), "utf-8")


def _values(relay: Relay) -> dict[Metric, Mapping[tuple[str, ...], float]]:
    """By metric, the value for each of its labels' values. Of the table nothing until it was read."""
    health, status = relay.health(), relay.status
    found: dict[Metric, Mapping[tuple[str, ...], float]] = {
        names.OUTBOX_RELAYED: {(topic,): number for topic, number in list(relay.relayed.items())},
        names.OUTBOX_REFUSALS: {(topic,): number for topic, number in list(relay.refused.items())},
        names.READY: {(): float(health.ready)},
        names.LIVE: {(): float(health.live)},
    }
    if status is not None:
        found |= {
            names.OUTBOX_ROWS: {(): status.rows},
            names.OUTBOX_OLDEST: {(): status.oldest or 0.0},
            names.OUTBOX_REFUSED: {(): status.refused},
        }
    return found
