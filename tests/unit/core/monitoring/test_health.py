"""What probes are told, decided and served."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import attrs
import pytest

import flux
from flux.core.errors import BrokerError, Fault
from flux.core.monitoring.health import Health, Pulse, judge
from flux.observe.server import Answer, Server
from flux.testing.kafka import free_ports
from unit.support.cli_support import Flux, flux_cli, only_line
from unit.support.peers_support import Peer, wait_for

__all__ = ["flux_cli"]

WELL = Pulse("orders", joined=True, left=False, waited=2.0, still=1.0, patience=60.0)


def ask(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    try:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_stage_that_has_joined_and_polls_is_live_and_ready() -> None:
    health = judge([WELL, WELL], starting=None, stopping=False)
    assert health.live
    assert health.ready
    assert health == Health([], [])


@pytest.mark.parametrize(
    ("changes", "starting", "stopping", "says"),
    [
        ({}, "k:9092 cannot be reached", False, "starting: k:9092 cannot be reached"),
        ({}, None, True, "stopping"),
        ({"joined": False}, None, False, "orders has waited for an assignment by its group for 2 s"),
        ({"left": True}, None, False, "orders has left its group"),
    ],
)
def test_what_keeps_it_from_being_ready_does_not_kill_it(
    changes: dict[str, Any], starting: str | None, stopping: bool, says: str
) -> None:
    health = judge([WELL, attrs.evolve(WELL, **changes)], starting, stopping)
    assert health.live
    assert not health.ready
    assert says in health.missing


def test_a_poll_loop_that_stands_still_is_not_live() -> None:
    health = judge([WELL, attrs.evolve(WELL, still=60.0)], starting=None, stopping=False)
    assert not health.live
    assert not health.ready
    assert health.troubles == ["orders: its poll loop has made no progress for 60 s"]


def test_a_stage_that_has_left_is_named_unless_the_worker_stops() -> None:
    left, never = attrs.evolve(WELL, joined=False, left=True), attrs.evolve(WELL, joined=False)
    assert judge([left, never], starting=None, stopping=True).missing == [
        "stopping",
        "orders has waited for an assignment by its group for 2 s",
    ]
    assert judge([left, never], starting="anything", stopping=True).missing == ["stopping"]
    assert judge([left], starting=None, stopping=False).missing == ["orders has left its group"]


@pytest.mark.parametrize("changes", [{"patience": 0}, {"left": True}])
def test_a_stage_that_nobody_waits_for_is_live(changes: dict[str, Any]) -> None:
    assert judge([attrs.evolve(WELL, still=1e6, **changes)], starting=None, stopping=False).live


def test_a_worker_is_live_at_once_and_ready_when_it_has_joined() -> None:
    peer, release = Peer(), threading.Event()
    task = peer.task(lambda message: None, retries=0)
    real = peer.adapter.consumer
    peer.adapter.consumer = lambda *args: (release.wait(60), real(*args))[1]  # type: ignore[method-assign]
    with peer.working(task) as running:
        assert running.worker.health().live
        assert not running.worker.health().ready
        release.set()
        wait_for(lambda: running.worker.health().ready, "ready")
    assert not running.worker.health().ready


def test_what_the_start_of_a_worker_waits_for_is_named() -> None:
    peer, release = Peer(), threading.Event()
    seen: list[str] = []
    task = peer.task(lambda message: None, retries=0)
    real = peer.adapter.admin
    worker: list[flux.Worker] = []

    def admin() -> Any:
        seen.extend(worker[0].health().missing if worker else ())
        if len(seen) == 1:
            raise BrokerError("no route", Fault.UNAVAILABLE)
        return real()

    peer.adapter.admin = admin  # type: ignore[method-assign]

    def setup() -> None:
        seen.extend(worker[0].health().missing)
        release.wait(60)

    task.setup = setup  # type: ignore[method-assign]
    made = flux.Worker(task, adapter=peer.adapter, system=peer.machine)
    worker.append(made)
    thread = threading.Thread(target=made.run, daemon=True)
    thread.start()
    wait_for(lambda: len(seen) >= 3, "its setup runs")
    release.set()
    made.stop()
    thread.join(60)
    name, cluster = type(task).__name__, peer.adapter.cluster
    assert seen == [
        f"starting: {name} checks its topics on {cluster}",
        f"starting: {cluster} cannot be reached (no route)",
        f"starting: the setup of {name} has not ended",
    ]


def test_a_worker_whose_poll_loop_is_stuck_is_not_live(monkeypatch: pytest.MonkeyPatch) -> None:
    peer, release = Peer(), threading.Event()
    real = peer.adapter.consumer

    def consumer(*args: Any) -> Any:
        client = real(*args)
        poll = client.poll
        monkeypatch.setattr(client, "poll", lambda *given: (release.wait(60), poll(*given))[1], raising=False)
        return client

    monkeypatch.setattr(peer.adapter, "consumer", consumer)
    with peer.working(peer.task(lambda message: None, stalled_after=3.0, retries=0)) as running:
        wait_for(lambda: not running.worker.health().live, "the loop is stuck")
        assert "t: its poll loop has made no progress for " in running.worker.health().troubles[0]
        release.set()
        wait_for(lambda: running.worker.health().ready, "it goes on")


def test_a_call_that_takes_long_is_no_reason_to_kill_it() -> None:
    peer, release = Peer(), threading.Event()
    task = peer.task(lambda message: release.wait(60), stalled_after=10.0, retries=0)
    peer.write(b"x")
    with peer.working(task) as running:
        began = peer.machine.now()
        wait_for(lambda: peer.machine.now() - began > 20, "time passes")
        wait_for(lambda: running.worker.health().live, "its poll loop goes on")
        release.set()


def test_the_server_answers_gets_alone_and_says_what_there_is() -> None:
    def broken() -> Answer:
        raise OSError("secret")

    server = Server(0, "127.0.0.1", {"/live": lambda: Answer(503, "no\n"), "/broken": broken})
    try:
        assert ask(server.port, "/live?x=1") == (503, "no\n")
        assert ask(server.port, "/live", "HEAD") == (503, "")
        assert ask(server.port, "/") == (404, "there are /live, /broken\n")
        status, text = ask(server.port, "/broken")
        assert status == 500
        assert "secret" not in text
        assert ask(server.port, "/live", "POST")[0] == 501
    finally:
        server.stop()


def test_a_port_that_is_taken_is_told_in_one_line_and_ends_with_1(flux_cli: Flux) -> None:
    other = Server(0, "127.0.0.1", {})
    task = """
        import flux

        class Billing(flux.Task):
            topic, group_id = "orders", "billing"

            def call(self, message): ...
    """
    try:
        where = ["--metrics-port", str(other.port), "--metrics-host", "127.0.0.1", "--log-level", "error"]
        done = flux_cli("process", "--load", flux_cli.file(task), "--adapter", flux_cli.url, *where)
    finally:
        other.stop()
    assert done.exit_code == 1
    assert "it is in use, give another" in only_line(done.stderr)


@pytest.mark.parametrize(("option", "value"), [("--metrics-port", "70000"), ("--log-format", "xml")])
def test_what_cannot_be_is_wrong_usage(flux_cli: Flux, option: str, value: str) -> None:
    done = flux_cli("process", option, value)
    assert done.exit_code == 2
    assert option in only_line(done.stderr)


def test_what_is_off_is_not_even_imported() -> None:
    code = (
        "import sys, flux, flux.cli.process\n"
        "flux.Worker(flux.task(topic='t', group_id='g')(print), adapter='memory://off')\n"
        "print(sorted(name for name in sys.modules if name.split('.')[0] in ('prometheus_client', 'opentelemetry')"
        " or name in ('http.server', 'flux.observe')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


def test_a_unix_socket_is_made_anew_and_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "0"
    with socket.socket(socket.AF_UNIX) as killed:  # whose file stays
        killed.bind(str(path))
    server = Server(path, "", {})
    assert path.is_socket()
    server.stop()
    assert not path.exists()


def test_without_the_package_probes_are_served_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "flux.observe.prometheus", raising=False)
    servers: list[Server] = []

    def made(*args: Any) -> Server:
        servers.append(Server(*args))
        return servers[0]

    monkeypatch.setattr("flux.observe.server.Server", made)
    peer = Peer()
    task = peer.task(lambda message: None, retries=0)
    with peer.working(task, metrics_port=0, metrics_host="127.0.0.1") as running:
        wait_for(lambda: running.worker.health().ready, "ready")
        assert ask(servers[0].port, "/ready") == (200, "ok\n")
        status, text = ask(servers[0].port, "/metrics")
    assert (status, text) == (404, 'metrics need a package: pip install "super-flux[prometheus]"\n')


def test_a_worker_without_a_port_serves_nothing() -> None:
    peer, before = Peer(), threading.enumerate()
    with peer.working(peer.task(lambda message: None, retries=0)) as running:
        wait_for(lambda: running.worker.health().ready, "ready")
        new = [thread for thread in threading.enumerate() if thread not in before]
        assert not [thread for thread in new if thread.name in ("flux-http", "flux-lag")]


def test_the_port_is_free_again_after_the_end() -> None:
    peer = Peer()
    task = peer.task(lambda message: None, retries=0)
    [port] = free_ports(1)
    for _ in range(2):
        with peer.working(task, metrics_port=port, metrics_host="127.0.0.1") as running:
            wait_for(lambda running=running: running.worker.health().ready, "ready")  # type: ignore[misc]
            assert ask(port, "/live") == (200, "ok\n")
    with pytest.raises(urllib.error.URLError):
        ask(port, "/live")


def test_metrics_port_needs_a_port_that_there_can_be() -> None:
    peer = Peer()
    task = peer.task(lambda message: None)
    for port in (70_000, -1, True, "9464", 9464.0):
        wrong: Any = port
        with pytest.raises(flux.ConfigurationError, match=r"metrics_port = .*: give a whole number"):
            flux.Worker(task, adapter=peer.adapter, metrics_port=wrong)


def test_a_worker_that_has_failed_is_not_live_and_says_why() -> None:
    health = judge([], starting=None, stopping=False, failure="ValueError: no")
    assert (health.live, health.ready) == (False, False)
    assert health.troubles == ["the worker has failed: ValueError: no"]
