import json

from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from orders.models import Order
from orders.producers import announce


@csrf_exempt  # a service for other programs
@require_POST
def place(request: HttpRequest) -> JsonResponse:
    asked = json.loads(request.body)
    with transaction.atomic():
        order = Order.objects.create(customer=asked["customer"], cents=asked["cents"])
        announce(order)
    return JsonResponse({"order": order.pk}, status=201)
