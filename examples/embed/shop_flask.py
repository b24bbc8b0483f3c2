"""A service with a worker beside its routes: `gunicorn shop_flask:app`, with gunicorn.conf.py beside it."""

from flask import Flask, request
from pydantic import ValidationError
from shop_tasks import Invoice, Invoices

import flux

app = Flask(__name__)


def accept() -> tuple[str, int]:
    try:
        invoice = Invoice.model_validate_json(request.get_data())
        Invoices.send(invoice, key=invoice.customer).result(30)
    except ValidationError as error:
        return str(error), 422
    except flux.DeliveryError:
        return "not taken: try again", 503
    return "", 202


def live() -> tuple[list[str], int]:
    health = app.extensions["worker"].health()
    return [*health.troubles], 200 if health.live else 503  # 503: restart this process


def ready() -> tuple[list[str], int]:
    health = app.extensions["worker"].health()
    return [*health.troubles, *health.missing], 200 if health.ready else 503


app.add_url_rule("/invoices", view_func=accept, methods=["POST"])
app.add_url_rule("/live", view_func=live)
app.add_url_rule("/ready", view_func=ready)
