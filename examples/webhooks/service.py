"""Accepts events over HTTP, and answers when Kafka has stored them: `uvicorn service:app`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, HttpUrl
from webhooks import Webhooks, notify

import flux


class Event(BaseModel):
    customer: str
    url: HttpUrl
    data: dict[str, Any]


class Accepted(BaseModel):
    id: str
    """The customer gets it as Idempotency-Key, the same for each attempt."""


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    yield
    await Webhooks.aclose()


app = FastAPI(lifespan=lifespan)


@app.post("/events", status_code=202)
async def accept(event: Event) -> Accepted:
    try:
        landed = await notify(event.customer, str(event.url), event.data)
    except flux.DeliveryError as error:
        raise HTTPException(503, "not taken: try again", headers={"Retry-After": "5"}) from error
    return Accepted(id=f"{landed.topic}/{landed.partition}/{landed.offset}")
