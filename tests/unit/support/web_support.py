"""The pages of one task on an in-memory broker, in time that nobody waits for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import unescape
from typing import Any

from starlette.testclient import TestClient

import flux
from flux.core.monitoring.report import TOPIC, Call, Report, StageReport
from flux.web.app import app_of
from flux.web.options import WebOptions
from flux.web.page_context import PageContext
from unit.support.operate_support import OperateKit

ORIGIN = "http://127.0.0.1:7373"
TOKEN = "a-token-of-enough-letters"
EVIL = "<script>alert(1)</script>\"'\u202e"


class Web:
    """`context` without its sampler: `take_sample` takes a sample. `client` follows no redirects."""

    def __init__(self, partitions: int = 1, **options: Any) -> None:
        self.yard = OperateKit(partitions)
        adapter_ = self.yard.adapter

        class Billing(flux.Task):
            topic, group_id, retries, wait = "orders", "billing", 2, 60
            adapter = adapter_

            def call(self, message: flux.Message) -> None: ...

        self.context = PageContext([Billing], WebOptions(**options), system=self.yard.system)
        self.app = app_of(self.context)
        self.client = self.browser()

    def browser(self, origin: str = ORIGIN) -> TestClient:
        return TestClient(self.app, base_url=origin, raise_server_exceptions=False, follow_redirects=False)

    def take_sample(self) -> None:
        for watch in self.context.watches.values():
            watch.take()
        self.context.sampler.add_up()

    def get(self, path: str, code: int = 200) -> str:
        answer = self.client.get(path)
        assert answer.status_code == code, (answer.status_code, text_of(answer.text))
        return answer.text

    def post(self, path: str, fields: dict[str, str] | None = None, code: int = 303) -> Any:
        """As a form of one of its pages does."""
        proof = self.context.sessions.proof(self.visitor())
        answer = self.client.post(path, data={"proof": proof, **(fields or {})}, headers={"origin": ORIGIN})
        assert answer.status_code == code, (answer.status_code, text_of(answer.text))
        return answer

    def visitor(self) -> str:
        if "flux-web" not in self.client.cookies:
            self.client.get("/static/flux.css")
            self.client.get("/login")
        return self.client.cookies["flux-web"]

    def work(self) -> None:
        """Lets the jobs that were begun come to their end."""
        self.yard.system.run_spawned()

    def report(self, *calls: Call, **more: Any) -> None:
        self.publish(self.report_of(*calls, **more))

    def publish(self, report: Report) -> None:
        self.yard.kit.write(flux_outgoing(report), topic=TOPIC)

    def report_of(self, *calls: Call, host: str = "host", memory: int | None = 80_000_000, **more: Any) -> Report:
        counts: dict[str, Any] = dict.fromkeys(("done", "failed", "retried", "dead", "waiting", "on_their_way"), 0)
        stage = StageReport(
            task="Billing",
            stage=0,
            topic="orders",
            group="billing",
            partitions="0",
            **{
                **counts,
                "done_rate": 12.34,
                "failed_rate": 0.5,
                "due_in": None,
                "in_flight": len(calls),
                "calls": calls,
                "open": (),
                **more,
            },
        )
        return Report(host, 7, 0, "1.2", int(self.yard.system.now() * 1000) - 60_000, 5.0, memory, (stage,))


def flux_outgoing(report: Report) -> Any:
    from flux.core.ports import ProducerRecord

    return ProducerRecord(report.to_json(), report.key, partition=0)


def text_of(page: str) -> str:
    """What a reader sees, in one line."""
    page = re.sub(r"(?s)<(head|svg|script)\b.*?</\1>", " ", page)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", page)).split())


def links_of(page: str) -> Sequence[str]:
    return [unescape(link) for link in re.findall(r'href="([^"]*)"', page)]


def fields_of(page: str) -> dict[str, str]:
    """The hidden fields of its forms."""
    return {name: unescape(value) for name, value in re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page)}
