from __future__ import annotations

import importlib.util
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx2
import pytest
import shop_fastapi
import shop_flask
import shop_script
from fastapi.testclient import TestClient
from shop_tasks import SendInvoice

import flux
from flux.testing import Kit

HERE = Path(__file__).parent
INVOICE = {"customer": "ada", "cents": 1999}


@pytest.fixture
def sent(flux_kit: Kit) -> list[dict[str, Any]]:
    """What the mail service has got."""
    bodies: list[dict[str, Any]] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        bodies.append(json.loads(request.content))
        return httpx2.Response(200)

    http = httpx2.Client(transport=httpx2.MockTransport(answer), base_url="http://mail")
    flux_kit.provide(SendInvoice, http=http)
    return bodies


@pytest.fixture
def fastapi() -> Iterator[TestClient]:
    with TestClient(shop_fastapi.app) as client:
        yield client


@pytest.fixture
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gunicorn_conf", HERE / "gunicorn.conf.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def flask(hooks: ModuleType) -> Iterator[Any]:
    hooks.post_worker_init(None)
    yield shop_flask.app.test_client()
    hooks.worker_exit(None, None)


def test_fastapi_takes_an_invoice_that_the_task_sends(
    flux_kit: Kit, sent: list[dict[str, Any]], fastapi: TestClient
) -> None:
    assert fastapi.post("/invoices", json=INVOICE).status_code == 202
    assert flux_kit.run(SendInvoice).done == 1
    assert sent == [INVOICE]


def test_flask_takes_an_invoice_that_the_task_sends(flux_kit: Kit, sent: list[dict[str, Any]], flask: Any) -> None:
    assert flask.post("/invoices", json=INVOICE).status_code == 202
    assert flux_kit.run(SendInvoice).done == 1
    assert sent == [INVOICE]


@pytest.mark.parametrize("framework", ["fastapi", "flask"])
def test_what_kafka_does_not_take_is_refused(flux_kit: Kit, framework: str, request: pytest.FixtureRequest) -> None:
    client = request.getfixturevalue(framework)
    flux_kit.broker().fail_writes(lambda *_: flux.BrokerError("no permission"))
    assert client.post("/invoices", json=INVOICE).status_code == 503


@pytest.mark.parametrize("framework", ["fastapi", "flask"])
def test_probes_see_the_worker(
    flux_kit: Kit, framework: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = request.getfixturevalue(framework)
    assert [client.get(path).status_code for path in ("/live", "/ready")] == [200, 200]

    monkeypatch.setattr(flux.Worker, "failure", MemoryError("no room"))
    answers = [client.get(path) for path in ("/live", "/ready")]
    assert [each.status_code for each in answers] == [503, 503]
    assert all("the worker has failed: MemoryError: no room" in each.text for each in answers)


def test_the_script_produces_what_the_file_holds(
    flux_kit: Kit, sent: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    file = tmp_path / "invoices.jsonl"
    file.write_text("".join(json.dumps(INVOICE | {"cents": cents}) + "\n" for cents in range(3)))
    shop_script.main(file)
    assert flux_kit.run(SendInvoice).done == 3
    assert [each["cents"] for each in sent] == [0, 1, 2]


def test_a_mail_service_that_fails_gets_the_invoice_again(flux_kit: Kit) -> None:
    answers = [503, 200]
    transport = httpx2.MockTransport(lambda _: httpx2.Response(answers.pop(0)))
    flux_kit.provide(SendInvoice, http=httpx2.Client(transport=transport, base_url="http://mail"))
    flux_kit.produce("invoices", json=INVOICE)
    summary = flux_kit.run_to_the_end(SendInvoice)
    assert (summary.done, summary.retried) == (1, 1)


def test_the_page_shows_these_files() -> None:
    page = (HERE.parents[1] / "docs" / "how-to" / "embed.md").read_text()
    for name in ("shop_fastapi.py", "gunicorn.conf.py"):
        code = (HERE / name).read_text().partition('"""\n\n')[2]
        assert f"```python\n{code}```" in page, name
