"""Hands each invoice to the mail service at MAIL_URL. The programs beside it run this task."""

import os
from collections.abc import Iterator

import httpx2
from pydantic import BaseModel

import flux


class Invoice(BaseModel):
    customer: str
    cents: int


class Invoices(flux.Producer[Invoice]):
    topic = "invoices"


class SendInvoice(flux.Task[Invoice]):
    topic = "invoices"
    group_id = "mailing"
    wait = [1, 10, 60]  # seconds; leave it out for waits from 45 seconds to days

    def resources(self) -> Iterator[None]:
        with httpx2.Client(base_url=os.environ["MAIL_URL"], timeout=10) as self.http:
            yield

    def call(self, message: flux.Message[Invoice]) -> None:
        answer = self.http.post("/", json=message.value.model_dump(), headers={"Idempotency-Key": message.id})
        answer.raise_for_status()
