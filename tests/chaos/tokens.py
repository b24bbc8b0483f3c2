"""Logins with tokens that live for 15 s: sessions end while records flow, the issuer goes away, brokers refuse."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from aiokafka.abc import AbstractTokenProvider
from brokers import cloud

from flux.adapters.aiokafka import AiokafkaAdapter
from flux.adapters.confluent import ConfluentAdapter

if TYPE_CHECKING:
    from chaos.trial import Trial

SECONDS = 15.0

LISTENER = {
    "listener.name.tokens.sasl.enabled.mechanisms": "OAUTHBEARER",
    "listener.name.tokens.oauthbearer.connections.max.reauth.ms": str(round(SECONDS * 1000)),
    **cloud.validated("tokens"),
}
"""Of a listener TOKENS, in server.properties."""


class Issuer(AbstractTokenProvider):  # type: ignore[misc]
    """As the file `state` says: "good", "bad" (brokers refuse what it gives) or "away"."""

    def __init__(self, state: Path) -> None:
        self._state = state

    def __call__(self, config: str | None) -> tuple[str, float]:
        state = self._state.read_text()
        if state == "away":
            raise ConnectionError("the issuer is away")
        return cloud.token(seconds=SECONDS if state == "good" else -1), time.time() + SECONDS

    async def token(self) -> str:
        return self(None)[0]


def adapter(scheme: str, bootstrap: str, options: str, state: str) -> Any:
    given: dict[str, Any] = dict(parse_qsl(options))
    issuer = Issuer(Path(state))
    if scheme == "aiokafka":
        login = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "OAUTHBEARER"}
        return AiokafkaAdapter(bootstrap, {**given, **login, "sasl_oauth_token_provider": issuer})
    login = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "OAUTHBEARER"}
    return ConfluentAdapter(bootstrap, {**given, **login, "oauth_cb": issuer})


def renewals(trial: Trial) -> None:
    """Sessions end and are renewed; then there are no tokens for longer than one lives, then refused ones; workers are
    replaced meanwhile. None of them ends by it."""
    state = trial.tokens
    assert state is not None
    state.write_text("good")
    trial.feed()
    for _ in range(2):
        trial.start()
    trial.working()
    time.sleep(2 * SECONDS)
    for fault in ("away", "bad"):
        with trial.noted(f"tokens {fault}"):
            state.write_text(fault)
            time.sleep(1.5 * SECONDS)
            state.write_text("good")
            time.sleep(SECONDS)
        assert all(worker.alive for worker in trial.workers if worker.works), "a worker ended for want of a token"
        old = next(worker for worker in trial.workers if worker.works)
        old.ask_to_end()
        trial.start()
        trial.working()
    log = trial.log()
    for said in ("the broker refused the token: invalid_token", "cannot get a token: the token provider failed"):
        assert said in log, f"the log does not say: {said}"
    assert "never retrieved" not in log
    assert "eyJ" not in log, "a token is in the log"
