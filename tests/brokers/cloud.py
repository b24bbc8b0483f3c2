"""What brokers in a cloud ask of a login, at one broker: passwords, SCRAM and short-lived tokens over TLS, client
certificates, and servers whose certificates are not to be trusted."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping

from brokers.tls import TLS_USERS, Authority

CLOUD_USERS = {"$ConnectionString": "Endpoint=sb://shop/;SharedAccessKey=k3y=", "API-KEY": "api-s3cret/+="}
"""Who may log in with PLAIN besides, as clouds name them, and do everything."""

SESSION = 4.0
"""Seconds after which a connection that logged in with a token must do so again (connections.max.reauth.ms)."""

_SASL = "org.apache.kafka.common.security"


def cloud_properties(authority: Authority) -> Mapping[str, str]:
    """For `brokers.jars.node`. `Node.at`: `tls` (SASL_SSL: PLAIN, SCRAM-SHA-512 and OAUTHBEARER), `mtls` (SSL with a
    client certificate of the authority's), `expired` and `misnamed` (SSL)."""
    users = " ".join(f'user_{name}="{secret}"' for name, secret in (TLS_USERS | CLOUD_USERS).items())
    certificates = {
        "sasl_ssl": authority.server,
        "mtls": authority.server,
        "expired": authority.signed("expired", "127.0.0.1", "IP:127.0.0.1", days=0),
        "misnamed": authority.signed("misnamed", "elsewhere", "DNS:elsewhere"),
    }
    listeners = "SASL_SSL://{tls},MTLS://{mtls},EXPIRED://{expired},MISNAMED://{misnamed}"
    found = {
        "listeners": "{usual}," + listeners,
        "advertised.listeners": "{usual}," + listeners,
        "listener.security.protocol.map": "{usual},SASL_SSL:SASL_SSL,MTLS:SSL,EXPIRED:SSL,MISNAMED:SSL",
        "sasl.enabled.mechanisms": "{usual},SCRAM-SHA-512,OAUTHBEARER",
        "listener.name.sasl_plaintext.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl_ssl.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512,OAUTHBEARER",
        "listener.name.sasl_ssl.plain.sasl.jaas.config": f"{_SASL}.plain.PlainLoginModule required {users};",
        "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": f"{_SASL}.scram.ScramLoginModule required;",
        **validated("sasl_ssl"),
        "listener.name.sasl_ssl.oauthbearer.connections.max.reauth.ms": str(round(SESSION * 1000)),
        "listener.name.mtls.ssl.client.auth": "required",
        "listener.name.mtls.ssl.truststore.type": "PEM",
        "listener.name.mtls.ssl.truststore.location": str(authority.certificate),
        "super.users": ";".join(["{usual}", "User:CN=boss", *(f"User:{name}" for name in CLOUD_USERS)]),
    }
    for listener, file in certificates.items():
        found[f"listener.name.{listener}.ssl.keystore.type"] = "PEM"
        found[f"listener.name.{listener}.ssl.keystore.location"] = str(file)
    return found


def validated(listener: str) -> dict[str, str]:
    """Of a listener with OAUTHBEARER: it takes any `token` that has not expired."""
    oauth = f"listener.name.{listener}.oauthbearer.sasl"
    module = f"{_SASL}.oauthbearer.OAuthBearerLoginModule"
    handler = f"{_SASL}.oauthbearer.internals.unsecured.OAuthBearerUnsecuredValidatorCallbackHandler"
    return {
        f"{oauth}.jaas.config": f'{module} required unsecuredLoginStringClaim_sub="broker";',
        f"{oauth}.server.callback.handler.class": handler,
    }


def token(user: str = "boss", seconds: float = SESSION) -> str:
    """An unsigned one, which the broker takes until it expires."""
    now = time.time()
    claims = {"sub": user, "iat": now - 1, "exp": now + seconds}
    return ".".join([*(_coded(part) for part in ({"alg": "none"}, claims)), ""])


def _coded(part: Mapping[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
