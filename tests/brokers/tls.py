"""A certificate authority and what it signs, and a listener that wants TLS and SCRAM-SHA-512."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import attrs
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialAlteration,
    UserScramCredentialUpsertion,
)

from brokers.base import NoBroker

TLS_USERS = {"boss": "the boss's tls-secret:/?#@+%&", "guest": "a guest's tls-secret ä"}
"""Who may log in on the TLS listener. The boss may do everything, the guest nothing."""


@attrs.frozen
class Authority:
    """A CA of its own, made by openssl, in `directory`."""

    directory: Path

    @property
    def certificate(self) -> Path:
        """The CA's own: what clients are to trust."""
        return self.directory / "ca.pem"

    @property
    def server(self) -> Path:
        """Key and certificate of a server at 127.0.0.1."""
        return self.directory / "server.pem"

    @classmethod
    def made(cls, directory: Path) -> Authority:
        """Raises NoBroker without openssl."""
        if shutil.which("openssl") is None:
            raise NoBroker("install openssl")
        directory.mkdir(parents=True)
        own = cls(directory)
        own._openssl("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=flux-tests -keyout ca.key -out ca.pem")
        own.signed("server", "127.0.0.1", "IP:127.0.0.1,DNS:localhost")
        return own

    def signed(self, file: str, name: str, alternatives: str | None = None, days: int = 2) -> Path:
        """Key and certificate of `name`, in one file. It expires after `days`: 0 is at once."""
        self._openssl(f"req -newkey rsa:2048 -nodes -subj /CN={name} -keyout {file}.key -out {file}.csr")
        (self.directory / "extensions").write_text(f"subjectAltName={alternatives}\n" if alternatives else "")
        self._openssl(
            f"x509 -req -in {file}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days {days}"
            f" -extfile extensions -out {file}.crt"
        )
        both = self.directory / f"{file}.pem"
        both.write_text((self.directory / f"{file}.key").read_text() + (self.directory / f"{file}.crt").read_text())
        return both

    def _openssl(self, arguments: str) -> None:
        subprocess.run(["openssl", *arguments.split()], cwd=self.directory, check=True, capture_output=True)


def tls_properties(authority: Authority) -> Mapping[str, str]:
    """For `brokers.jars.node`: a third listener, at `Node.at["tls"]`."""
    return {
        "listeners": "{usual},SASL_SSL://{tls}",
        "advertised.listeners": "{usual},SASL_SSL://{tls}",
        "listener.security.protocol.map": "{usual},SASL_SSL:SASL_SSL",
        "sasl.enabled.mechanisms": "{usual},SCRAM-SHA-512",
        "listener.name.sasl_plaintext.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl_ssl.sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        ),
        "listener.name.sasl_ssl.ssl.keystore.type": "PEM",
        "listener.name.sasl_ssl.ssl.keystore.location": str(authority.server),
    }


def add_users(admin: AdminClient) -> None:
    """Those of TLS_USERS; they may be used once this returns."""
    wanted: list[UserScramCredentialAlteration] = [
        UserScramCredentialUpsertion(name, ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096), password.encode())
        for name, password in TLS_USERS.items()
    ]
    for added in admin.alter_user_scram_credentials(wanted).values():
        added.result(30)
