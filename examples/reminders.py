"""A clinic reminds its patients: a day before an appointment, which may be moved or cancelled until then, and the whole
team each morning.

Try it against a Kafka at localhost:9092 (`pip install "super-flux[cron]"`):

    export FLUX_ADAPTER=confluent://localhost:9092
    flux process --load examples/reminders.py --create-topics
    flux waiting --load examples/reminders.py Remind
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import TypedDict

import flux

logger = logging.getLogger("reminders")


class Reminder(TypedDict):
    patient: str
    text: str


class Remind(flux.Task[Reminder]):
    topic = "reminders"
    group_id = "clinic"
    retries = 5
    max_delay = 365 * 24 * 3600  # appointments are made up to a year ahead

    def call(self, message: flux.Message[Reminder]) -> None:
        send_text(message.value["patient"], message.value["text"])


Remind.every(
    "0 7 * * 1-5",
    timezone="Europe/Berlin",
    name="morning",
    value={"patient": "team", "text": "Today's list is ready."},
    max_late=2 * 3600,  # not at noon, if the worker was down in the morning
)


def appointment_made(number: int, patient: str, starts: datetime) -> None:
    """Also for one that was moved: the reminder with this id replaces the former one."""
    text = f"Your appointment is on {starts:%d %B at %H:%M}."
    Remind.enqueue({"patient": patient, "text": text}, at=starts - timedelta(days=1), id=f"appointment-{number}")


def appointment_cancelled(number: int) -> None:
    Remind.cancel(f"appointment-{number}")


def send_text(patient: str, text: str) -> None:
    logger.info("to %s: %s", patient, text)
