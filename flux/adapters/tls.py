"""Describes what is wrong with a TLS connection, in one line with its remedy."""

from __future__ import annotations

import re
import socket
import ssl
from typing import NamedTuple

from flux.adapters.authentication import Problem
from flux.core.errors import Fault

PROBE_TIMEOUT = 3.0  # seconds


class TlsOptions(NamedTuple):
    """An adapter's names of the options that fix TLS."""

    authority: str
    certificate: str


_EXPIRED, _NOT_YET, _NO_ISSUER, _WRONG_NAME = {10}, {9}, {2, 18, 19, 20, 21}, {62, 64}
"""Codes of X509_V_ERR_…: https://docs.openssl.org/3.0/man3/X509_STORE_CTX_get_error/"""

_ALERT = re.compile(
    r"alert[ _](bad[ _]certificate|certificate[ _]\w+|unsupported[ _]certificate|unknown[ _]ca|access[ _]denied"
    r"|handshake[ _]failure)",
    re.IGNORECASE,
)


def of_certificate(error: ssl.SSLCertVerificationError, where: str, options: TlsOptions) -> Problem:
    """For a certificate of the broker at `where` (host:port) that was not trusted."""
    code, said = error.verify_code, error.verify_message
    whose = f"the certificate of {where}"
    if code in _EXPIRED:
        return Problem("certificate expired", f"{whose} has expired: it must be renewed there, or this clock is wrong")
    if code in _NOT_YET:
        return Problem("certificate not valid yet", f"{whose} is not valid yet: set this machine's clock")
    if code in _WRONG_NAME:
        remedy = "connect by a name that it is for, or have one made that has this name"
        return Problem("wrong host name", f"{whose} is for another host name ({said.rstrip('.')}): {remedy}")
    if code in _NO_ISSUER:
        remedy = f"set {options.authority} to the certificate of that authority"
        return Problem("unknown authority", f"{whose} is signed by an authority that is not known here: {remedy}")
    return Problem("certificate not trusted", f"{whose} is not trusted: {said}")


def of_alert(text: str, where: str, given: bool | None, options: TlsOptions) -> Problem | None:
    """For a broker that refused the client certificate, or that there is none; None where `text` says neither. `given`:
    whether there is one; None: not known."""
    found = _ALERT.search(text)
    if found is None:
        return None
    alert = found[1].lower().replace("_", " ")
    missing = f"{where} wants a client certificate: set {options.certificate}"
    refused = (
        f"{where} refused the client certificate ({alert}): give one that has not expired, and that an authority has"
        " signed that the broker trusts"
    )
    if given is None:
        return Problem("client certificate", f"{missing}; or, if one is given, {refused}")
    return Problem("client certificate refused", refused) if given else Problem("client certificate missing", missing)


def no_tls(where: str) -> Problem:
    """For a connection that ended in the handshake."""
    remedy = "it may be one without TLS (see security.protocol), or the broker is going down"
    return Problem("handshake", f"the listener at {where} ended the TLS handshake: {remedy}", Fault.UNAVAILABLE)


def probe(host: str, port: int, context: ssl.SSLContext) -> ssl.SSLCertVerificationError | None:
    """Makes a handshake and returns what is wrong with the certificate; None: nothing, or no answer in time."""
    try:
        with (
            socket.create_connection((host, port), PROBE_TIMEOUT) as connection,
            context.wrap_socket(connection, server_hostname=host),
        ):
            return None
    except ssl.SSLCertVerificationError as error:
        return error
    except OSError:
        return None
