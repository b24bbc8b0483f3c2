from smtplib import SMTPRecipientsRefused

from django.core.mail import send_mail

import flux
from flux.serde import json_deserializer, json_serializer


class Mails(flux.Producer):
    topic = "mails"
    serializer = json_serializer


class SendMail(flux.Task):
    topic = "mails"
    group_id = "mails"
    retries = 10  # the default waits add up to seven hours
    reject_on = (SMTPRecipientsRefused,)
    deserializer = json_deserializer

    def call(self, message: flux.Message) -> None:
        mail = message.value
        send_mail(mail["subject"], "Thank you.", "shop@shop.example", [mail["to"]])
