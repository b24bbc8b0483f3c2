from django.db import models


class Order(models.Model):
    customer = models.EmailField()
    cents = models.PositiveIntegerField()
    placed_at = models.DateTimeField(auto_now_add=True)
    billed_at = models.DateTimeField(null=True)
