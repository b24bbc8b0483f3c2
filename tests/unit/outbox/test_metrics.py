from __future__ import annotations

import logging
import re
import sys
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

import flux
from flux.adapters.memory import Broker
from flux.core.errors import BrokerError, Fault
from flux.core.ports import ProducerRecord
from flux.observe import names
from flux.outbox import Relay
from flux.outbox.metrics import serving
from flux.testing import Kit
from unit.support.outbox_support import Database


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


def port_of(caplog: pytest.LogCaptureFixture) -> int:
    return int(re.findall(r"are on port (\d+)", caplog.text)[-1])


def refuse_bad(broker: Broker) -> None:
    def refuse(topic: str, partition: int, record: ProducerRecord) -> BrokerError | None:
        return BrokerError("too large", Fault.TOO_LARGE) if record.value == b"bad" else None

    broker.fail_writes(refuse)


def test_a_relay_is_counted_and_its_table_is_measured(
    flux_kit: Kit, sqlite: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    refuse_bad(flux_kit.broker())
    sqlite.produce("bad", "behind", key="ada")
    sqlite.produce("fine", key="bob")
    relay = Relay(sqlite.store())
    with serving(relay, 0, "127.0.0.1"):
        port = port_of(caplog)
        assert get(port, "/ready") == (503, "starting\n")
        _, before = get(port, "/metrics")
        assert "flux_outbox_rows " not in before
        relay.run_once()
        relay.look()
        assert get(port, "/live") == (200, "ok\n")
        _, text = get(port, "/metrics")
    found = dict(re.findall(r"^(\w+(?:\{.*\})?) (\S+)$", text, re.MULTILINE))
    assert float(found.pop("flux_outbox_oldest_seconds")) >= 0
    assert found == {
        "flux_outbox_rows": "2.0",
        "flux_outbox_refused_rows": "1.0",
        'flux_outbox_relayed_total{topic="invoices"}': "1.0",
        'flux_outbox_refusals_total{topic="invoices"}': "1.0",
        "flux_ready": "0.0",
        "flux_live": "1.0",
    }
    named = {name.partition("{")[0] for name in found} | {"flux_outbox_oldest_seconds"}
    assert named == {metric.name for metric in (*names.OUTBOX, names.READY, names.LIVE)}


def test_metrics_without_their_package_are_refused(
    flux_kit: Kit, sqlite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(flux.ConfigurationError, match="metrics need a package"), serving(Relay(sqlite.store()), 0, ""):
        pass
