"""A service with a worker beside its routes: `uvicorn shop_fastapi:app`."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TypedDict

from fastapi import FastAPI, HTTPException, Request, Response
from shop_tasks import Invoice, Invoices, SendInvoice

import flux


class State(TypedDict):
    worker: flux.Worker


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[State]:
    async with flux.Worker(SendInvoice, create_topics=True) as worker:
        yield {"worker": worker}


app = FastAPI(lifespan=lifespan)


@app.post("/invoices", status_code=202)
async def accept(invoice: Invoice) -> None:
    try:
        await Invoices.send(invoice, key=invoice.customer)
    except flux.DeliveryError as error:
        raise HTTPException(503, "not taken: try again") from error


@app.get("/live")
async def live(request: Request, response: Response) -> Sequence[str]:
    health = request.state.worker.health()
    response.status_code = 200 if health.live else 503  # 503: restart this process
    return [*health.troubles]


@app.get("/ready")
async def ready(request: Request, response: Response) -> Sequence[str]:
    health = request.state.worker.health()
    response.status_code = 200 if health.ready else 503
    return [*health.troubles, *health.missing]
