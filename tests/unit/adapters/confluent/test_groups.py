"""Requests to a group's coordinator that have no answer in time."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Mapping
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from flux.adapters.confluent import answers
from flux.adapters.confluent.admin import ConfluentAdmin
from flux.adapters.confluent.log import ClientLog
from flux.core.errors import BrokerError, Fault
from flux.system import SYSTEM


class Client:
    """confluent_kafka's AdminClient, of which the first `silent` ones answer nothing."""

    made: int
    silent: int
    error: KafkaError | None = None
    limits: list[float]

    def __init__(self, _: dict[str, Any]) -> None:
        Client.made += 1
        self.answers = Client.made > Client.silent

    def poll(self, _: float) -> None: ...

    def describe_consumer_groups(
        self, groups: list[str], request_timeout: float, **_: Any
    ) -> Mapping[str, Future[Any]]:
        Client.limits.append(request_timeout)
        future: Future[Any] = Future()
        if self.error is not None:
            future.set_exception(KafkaException(self.error))
        elif self.answers:
            future.set_result(SimpleNamespace(members=[], authorized_operations=[]))
        return dict.fromkeys(groups, future)


@pytest.fixture
def admin(monkeypatch: pytest.MonkeyPatch) -> ConfluentAdmin:
    Client.made, Client.silent, Client.limits, Client.error = 0, 1, [], None
    monkeypatch.setattr(answers, "AdminClient", Client)
    return ConfluentAdmin({}, ClientLog(str, SYSTEM), SYSTEM)


def test_a_client_whose_coordinator_does_not_answer_is_replaced(admin: ConfluentAdmin) -> None:
    with pytest.raises(BrokerError, match="cannot describe group g: no answer in time") as raised:
        admin.members("g", 0.01)
    assert raised.value.fault is Fault.UNAVAILABLE
    assert admin.members("g", 10.0) == []
    assert Client.made == 2


def test_another_client_is_tried_in_the_same_time(admin: ConfluentAdmin) -> None:
    assert admin.members("g", 1.0) == []
    assert Client.made == 2


def test_the_replaced_client_is_closed_even_while_its_error_is_kept(admin: ConfluentAdmin) -> None:
    first = weakref.ref(admin._client)
    gc.disable()
    try:
        with pytest.raises(BrokerError) as raised:
            admin.members("g", 0.01)
        assert raised.value.__context__ is not None
        assert first() is None
    finally:
        gc.enable()


def test_the_client_itself_never_gives_up_a_request_to_a_coordinator(admin: ConfluentAdmin) -> None:
    with pytest.raises(BrokerError):
        admin.group_protocol("g", 0.01)
    Client.silent = 2
    with pytest.raises(BrokerError, match="cannot read the permissions"):
        admin.permissions([], ["g"], 0.01)
    assert Client.limits == [3600.0, 3600.0]


def test_a_client_whose_coordinator_answers_stays(admin: ConfluentAdmin) -> None:
    Client.error = KafkaError(KafkaError.GROUP_ID_NOT_FOUND)
    assert admin.members("g", 10.0) == []
    Client.error = KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED)
    with pytest.raises(BrokerError, match="needs DESCRIBE on group g"):
        admin.members("g", 10.0)
    assert Client.made == 1


def test_a_closed_admin_makes_no_client(admin: ConfluentAdmin) -> None:
    admin.close()
    with pytest.raises(BrokerError, match="closed") as raised:
        admin.members("g", 1.0)
    assert raised.value.fault is Fault.FATAL
    assert Client.made == 1
