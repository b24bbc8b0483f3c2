"""What is wrong with TLS, in words."""

from __future__ import annotations

import ssl

import pytest

from flux.adapters import tls
from flux.core.errors import Fault

OPTIONS = tls.TlsOptions("the_authority", "the_certificate")


def refused(code: int, message: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, message)
    error.verify_code, error.verify_message = code, message
    return error


@pytest.mark.parametrize(
    ("code", "message", "said"),
    [
        (10, "certificate has expired", "the certificate of h:1 has expired"),
        (9, "certificate is not yet valid", "not valid yet: set this machine's clock"),
        (18, "self-signed certificate", "set the_authority to"),
        (19, "self-signed certificate in certificate chain", "set the_authority to"),
        (20, "unable to get local issuer certificate", "set the_authority to"),
        (62, "Hostname mismatch, certificate is not valid for 'h'.", "for another host name (Hostname mismatch"),
        (64, "IP address mismatch, certificate is not valid for '::1'.", "for another host name (IP address"),
        (23, "certificate revoked", "not trusted: certificate revoked"),
    ],
)
def test_a_certificate_that_is_not_trusted_is_named_with_its_remedy(code: int, message: str, said: str) -> None:
    problem = tls.of_certificate(refused(code, message), "h:1", OPTIONS)
    assert said in problem.text
    assert "h:1" in problem.text
    assert problem.fault is Fault.LOGIN


@pytest.mark.parametrize(
    "text",
    [
        "[SSL: SSLV3_ALERT_BAD_CERTIFICATE] sslv3 alert bad certificate (_ssl.c:2580)",
        "[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert certificate required (_ssl.c:2580)",
        "error:0A000412:SSL routines::ssl/tls alert bad certificate: SSL alert number 42",
        "error:0A000410:SSL routines::sslv3 alert handshake failure: SSL alert number 40",
    ],
)
def test_an_alert_says_whether_a_client_certificate_is_missing_or_refused(text: str) -> None:
    missing, wrong = (tls.of_alert(text, "h:1", given, OPTIONS) for given in (False, True))
    assert missing is not None
    assert wrong is not None
    assert missing.text == "h:1 wants a client certificate: set the_certificate"
    assert wrong.text.startswith("h:1 refused the client certificate (")
    assert missing.kind != wrong.kind


def test_where_nobody_knows_of_a_client_certificate_both_are_said() -> None:
    problem = tls.of_alert("tlsv1 alert unknown ca", "h:1", None, OPTIONS)
    assert problem is not None
    assert "set the_certificate" in problem.text
    assert "unknown ca" in problem.text


@pytest.mark.parametrize("text", ["connection reset by peer", "tlsv1 alert internal error", "wrong version number"])
def test_other_ends_of_a_connection_are_no_matter_of_certificates(text: str) -> None:
    assert tls.of_alert(text, "h:1", False, OPTIONS) is None
