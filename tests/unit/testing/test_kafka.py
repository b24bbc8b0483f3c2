"""What the testing kit needs to start a Kafka; tests/integration starts one."""

from __future__ import annotations

import socket

import pytest

from flux.testing import kafka
from flux.testing.kafka import free_ports


def test_free_ports_are_those_of_servers_and_none_is_given_twice() -> None:
    ports = free_ports(100)
    assert len(set(ports)) == 100
    assert all(20_000 <= port < 32_000 for port in ports), "connections come from above"


def test_a_port_that_is_taken_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    [taken, free] = free_ports(2)
    monkeypatch.setattr(kafka, "_SERVERS", [taken, free])
    with socket.create_server(("127.0.0.1", taken)):
        assert free_ports(1) == [free]
        with pytest.raises(OSError, match="fewer than 2 free ports"):
            free_ports(2)
