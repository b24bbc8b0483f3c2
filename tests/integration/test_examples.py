"""The examples as their READMEs start them: processes of their own, on a real Kafka."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from flux.testing.kafka import free_ports

EXAMPLES = Path(__file__).parents[2] / "examples"
SECONDS = 60.0


class Customer(ThreadingHTTPServer):
    """Answers 503 to the first request for each event, and 200 to the next."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, dict[str, Any]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"


class Handler(BaseHTTPRequestHandler):
    server: Customer

    def do_POST(self) -> None:
        key = self.headers["Idempotency-Key"]
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        seen = any(key == each for each, _ in self.server.requests)
        self.server.requests.append((key, body))
        self.send_response(200 if seen else 503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def customer() -> Iterator[Customer]:
    with Customer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def forget_topics(kafka_admin: AdminClient) -> Iterator[Callable[..., None]]:
    """The examples have names of their own: what they made goes before and after. Not on a Kafka that is somebody's."""
    if "FLUX_TEST_BOOTSTRAP" in os.environ:
        pytest.skip("the examples' topics, such as orders, may be somebody's in the Kafka of FLUX_TEST_BOOTSTRAP")
    prefixes: list[str] = []

    def forget(*names: str) -> None:
        prefixes.extend(names)
        made = [name for name in kafka_admin.list_topics(timeout=10).topics if name.startswith(names)]
        for gone in (kafka_admin.delete_topics(made) if made else {}).values():
            gone.result(30)
        until = time.monotonic() + 30
        while any(name in kafka_admin.list_topics(timeout=10).topics for name in made):
            assert time.monotonic() < until, f"not gone in 30 s: {made}"
            time.sleep(0.1)

    yield forget
    with contextlib.suppress(Exception):
        forget(*prefixes)


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.syspath_prepend(EXAMPLES / "pipeline")
    from postgres import postgres_or_skipped

    with postgres_or_skipped() as url:
        yield url


@contextmanager
def running(directory: Path, log: Path, bootstrap: str, *args: str, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """A module as a process in the example's folder; it is stopped as an operator would, and must end well."""
    with start(directory, log, bootstrap, *args, **more) as process:
        yield process
        process.terminate()
        # uvicorn ends orderly, and hands the signal on then
        assert process.wait(SECONDS) in (0, -signal.SIGTERM), log.read_text()


@contextmanager
def start(directory: Path, log: Path, bootstrap: str, *args: str, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """The same, and killed if it still runs at the end."""
    environment = os.environ | {"FLUX_ADAPTER": f"confluent://{bootstrap}"} | more
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *args], cwd=directory, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(true: Callable[[], object], what: str, *logs: Path) -> None:
    until = time.monotonic() + SECONDS
    while not true():
        if time.monotonic() > until:
            pytest.fail(f"not within {SECONDS:g} s: {what}\n" + "\n".join(log.read_text() for log in logs))
        time.sleep(0.1)


def test_a_webhook_goes_from_the_service_to_a_customer_who_was_away(
    bootstrap: str,
    customer: Customer,
    forget_topics: Callable[..., None],
    make_topic: Callable[..., str],
    kafka_admin: AdminClient,
    read_all: Callable[..., list[Any]],
    tmp_path: Path,
) -> None:
    forget_topics("webhook")
    make_topic(name="webhook-receipts")
    (tmp_path / "soon.py").write_text(
        "from webhooks import DeliverWebhook\nDeliverWebhook.wait = 0.5\nDeliverWebhook.retries = 1\n"
    )
    (port,) = free_ports(1)
    api = f"http://127.0.0.1:{port}"
    folder, logs = EXAMPLES / "webhooks", (tmp_path / "service.log", tmp_path / "worker.log")
    work = ["flux.cli.main", "process", "--load", str(tmp_path / "soon.py"), "--create-topics", "DeliverWebhook"]
    serve = ["uvicorn", "service:app", "--port", str(port), "--no-access-log"]

    with (
        running(folder, logs[1], bootstrap, *work, PYTHONPATH=str(folder)),
        running(folder, logs[0], bootstrap, *serve),
    ):
        wait_for(lambda: answers(f"{api}/openapi.json", 200), "the service answers", *logs)
        wait_for(lambda: "webhooks" in kafka_admin.list_topics(timeout=10).topics, "the topics are made", *logs)
        ids = []
        for number in range(5):
            event = {"customer": f"c{number % 2}", "url": customer.url, "data": {"order": number}}
            answer = httpx2.post(f"{api}/events", json=event, timeout=30)
            assert answer.status_code == 202, answer.text
            ids.append(answer.json()["id"])
        wait_for(lambda: len(customer.requests) >= 10, "each event was sent twice", *logs)

    receipts = [json.loads(record.value()) for record in read_all("webhook-receipts")]
    assert sorted(each["webhook"] for each in receipts) == sorted(ids)
    assert {each["attempt"] for each in receipts} == {2}
    assert sorted(key for key, _ in customer.requests) == sorted(ids * 2)
    assert sorted({body["order"] for _, body in customer.requests}) == [0, 1, 2, 3, 4]


def test_orders_are_billed_by_the_threads_of_a_django_worker(
    bootstrap: str, forget_topics: Callable[..., None], make_topic: Callable[..., str], tmp_path: Path
) -> None:
    forget_topics("orders", "mails")
    for name in ("orders", "mails"):
        make_topic(4, name)
    (port,) = free_ports(1)
    folder, logs = EXAMPLES / "django_shop", (tmp_path / "web.log", tmp_path / "worker.log")
    place = f"http://127.0.0.1:{port}/orders"
    environment = {"DATABASE_FILE": str(tmp_path / "shop.sqlite3"), "DJANGO_SETTINGS_MODULE": "shop.settings"}
    migrate = [sys.executable, "manage.py", "migrate"]
    subprocess.run(migrate, cwd=folder, env=os.environ | environment, check=True, timeout=SECONDS, capture_output=True)

    serve = ["django", "runserver", "--noreload", f"127.0.0.1:{port}"]
    work = ["django", "work", "--create-topics"]
    with (
        running(folder, logs[0], bootstrap, *serve, **environment, PYTHONPATH=str(folder)),
        running(folder, logs[1], bootstrap, *work, **environment, PYTHONPATH=str(folder)) as worker,
        contextlib.closing(sqlite3.connect(environment["DATABASE_FILE"], timeout=60)) as database,
    ):
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/", 404), "the site answers", *logs)
        for number in range(20):
            asked = {"customer": f"c{number}@shop.example", "cents": 100 + number}
            assert httpx2.post(place, json=asked, timeout=30).status_code == 201, logs[0].read_text()
        billed = "SELECT count(*) FROM orders_order WHERE billed_at IS NOT NULL"
        wait_for(lambda: database.execute(billed).fetchone() == (20,), "all orders are billed", *logs)
        wait_for(lambda: logs[1].read_text().count("\nSubject: Order ") == 20, "all mails are sent", *logs)
        assert worker.poll() is None
    assert "Traceback" not in logs[1].read_text()


SERVERS = {
    "uvicorn": ["uvicorn", "shop_fastapi:app", "--no-access-log", "--port"],
    "gunicorn": ["gunicorn", "shop_flask:app", "--bind"],
}


@pytest.mark.parametrize("server", SERVERS)
def test_a_web_server_sends_invoices_beside_its_routes_and_stops_its_worker_at_its_end(
    bootstrap: str,
    customer: Customer,
    forget_topics: Callable[..., None],
    kafka_admin: AdminClient,
    tmp_path: Path,
    server: str,
) -> None:
    forget_topics("invoices")
    (port,) = free_ports(1)
    service, log = f"http://127.0.0.1:{port}", tmp_path / "server.log"
    where = str(port) if server == "uvicorn" else f"127.0.0.1:{port}"
    with running(EXAMPLES / "embed", log, bootstrap, *SERVERS[server], where, MAIL_URL=customer.url):
        wait_for(lambda: answers(f"{service}/ready", 200), "it is ready", log)
        assert httpx2.get(f"{service}/live").status_code == 200
        for cents in range(5):
            answer = httpx2.post(f"{service}/invoices", json={"customer": "ada", "cents": cents}, timeout=30)
            assert answer.status_code == 202, answer.text
        wait_for(lambda: len(customer.requests) == 10, "each invoice was sent twice", log)
    assert sorted(body["cents"] for _, body in customer.requests) == sorted([*range(5)] * 2)
    assert members(kafka_admin, "mailing", "mailing-1") == 0


def test_a_script_ends_when_all_invoices_of_its_file_are_sent(
    bootstrap: str, customer: Customer, forget_topics: Callable[..., None], kafka_admin: AdminClient, tmp_path: Path
) -> None:
    forget_topics("invoices")
    file, log = tmp_path / "invoices.jsonl", tmp_path / "script.log"
    file.write_text("".join(json.dumps({"customer": f"c{n}", "cents": n}) + "\n" for n in range(5)))
    with start(EXAMPLES / "embed", log, bootstrap, "shop_script", str(file), MAIL_URL=customer.url) as script:
        assert script.wait(SECONDS) == 0, log.read_text()
    assert log.read_text().endswith("5 invoices sent\n")
    assert sorted(body["cents"] for _, body in customer.requests) == sorted([*range(5)] * 2)
    assert members(kafka_admin, "mailing", "mailing-1") == 0


def members(admin: AdminClient, *groups: str) -> int:
    return sum(len(each.result(30).members) for each in admin.describe_consumer_groups([*groups]).values())


SLOWLY = """
from pipeline import LoadReadings
LoadReadings.max_batch, LoadReadings.max_wait, LoadReadings.rate_limit = 20, 0.1, 50
LoadReadings.retries, LoadReadings.wait = 1, 0.2
"""


def test_readings_are_loaded_once_though_their_worker_is_killed(
    bootstrap: str,
    database: str,
    forget_topics: Callable[..., None],
    make_topic: Callable[..., str],
    read_all: Callable[..., list[Any]],
    tmp_path: Path,
) -> None:
    folder = EXAMPLES / "pipeline"
    forget_topics("readings")
    for name, partitions in [("readings", 3), ("readings-warehouse-try-1", 1), ("readings-warehouse-dlq", 1)]:
        make_topic(partitions, name)
    (tmp_path / "slowly.py").write_text(SLOWLY)
    adapter = f"confluent://{bootstrap}?session.timeout.ms=6000"
    work = ["flux.cli.main", "process", "--load", str(tmp_path / "slowly.py"), "--adapter", adapter, "LoadReadings"]
    environment = {"PYTHONPATH": str(folder), "DATABASE_URL": database}
    logs = tmp_path / "first.log", tmp_path / "second.log"

    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute((folder / "schema.sql").read_bytes())
        write_readings(bootstrap, good=2000, bad=5)
        with start(folder, logs[0], bootstrap, *work, **environment) as first:
            wait_for(lambda: count(connection) >= 200, "some readings are loaded", logs[0])
            first.kill()
        assert count(connection) < 2000, "it was killed too late to say anything"
        with running(folder, logs[1], bootstrap, *work, **environment):
            wait_for(lambda: count(connection) == 2000, "all readings are loaded", *logs)
            wait_for(lambda: len(read_all("readings-warehouse-dlq")) == 5, "the others are dead letters", *logs)
        found = connection.execute("SELECT celsius FROM readings ORDER BY celsius").fetchall()
    assert [celsius for (celsius,) in found] == list(range(2000))


def write_readings(bootstrap: str, good: int, bad: int) -> None:
    """Each good one has a temperature of its own; bad ones are below absolute zero."""
    producer = Producer({"bootstrap.servers": bootstrap})
    for number in range(good + bad):
        celsius = number if number < good else -300
        sensor = f"s{number % 50}"
        reading = {"sensor": sensor, "taken_at": "2026-11-24T12:00:00+00:00", "celsius": celsius}
        producer.produce("readings", json.dumps(reading), key=sensor)
    assert producer.flush(SECONDS) == 0


def count(connection: psycopg.Connection[Any]) -> int:
    found = connection.execute("SELECT count(*) FROM readings").fetchone()
    return int(found[0]) if found else 0


def answers(url: str, status: int) -> bool:
    try:
        return httpx2.get(url, timeout=1).status_code == status
    except httpx2.TransportError:
        return False
