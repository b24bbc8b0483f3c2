"""Translates aiokafka's errors.

Codes: https://kafka.apache.org/protocol.html#protocol_error_codes
"""

from __future__ import annotations

import asyncio
import ssl

from aiokafka import errors as theirs

from flux.core.errors import BrokerError, Fault

_FAULTS: dict[Fault, tuple[type[Exception], ...]] = {
    # In this order: aiokafka calls an unknown topic retriable, and a failed commit a Kafka error like any other.
    Fault.UNKNOWN_TOPIC: (theirs.UnknownTopicOrPartitionError,),
    Fault.TOO_LARGE: (theirs.MessageSizeTooLargeError, theirs.RecordListTooLargeError),
    Fault.DENIED: (
        theirs.TopicAuthorizationFailedError,
        theirs.GroupAuthorizationFailedError,
        theirs.ClusterAuthorizationFailedError,
        theirs.TransactionalIdAuthorizationFailed,
        theirs.DelegationTokenAuthorizationFailed,
    ),
    Fault.LOGIN: (
        theirs.AuthenticationFailedError,
        theirs.AuthenticationMethodNotSupported,
        theirs.SaslAuthenticationFailed,
        theirs.UnsupportedSaslMechanismError,
        theirs.IllegalSaslStateError,
        ssl.SSLCertVerificationError,
    ),
    Fault.METADATA: (theirs.OffsetMetadataTooLargeError, theirs.InvalidCommitOffsetSizeError),
    Fault.UNAVAILABLE: (
        theirs.RebalanceInProgressError,
        theirs.BrokerNotAvailableError,
        theirs.ReplicaNotAvailableError,
        theirs.KafkaConnectionError,
        theirs.KafkaTimeoutError,
        theirs.KafkaUnavailableError,
        asyncio.TimeoutError,
        OSError,
    ),
    Fault.FENCED: (
        theirs.CommitFailedError,
        theirs.IllegalGenerationError,
        theirs.UnknownMemberIdError,
        theirs.ProducerFenced,
        theirs.InvalidProducerEpoch,
    ),
}

FENCED_INSTANCE_ID = 82
_RETRIABLE_CODES = {
    72: "LISTENER_NOT_FOUND",
    74: "FENCED_LEADER_EPOCH",
    75: "UNKNOWN_LEADER_EPOCH",
    78: "OFFSET_NOT_AVAILABLE",
    80: "PREFERRED_LEADER_NOT_AVAILABLE",
    81: "GROUP_MAX_SIZE_REACHED",
    83: "ELIGIBLE_LEADERS_NOT_AVAILABLE",
    88: "UNSTABLE_OFFSET_COMMIT",
    89: "THROTTLING_QUOTA_EXCEEDED",
    100: "UNKNOWN_TOPIC_ID",
}
"""Codes that aiokafka does not know, and would report as unknown errors that are final."""


class Replaced(theirs.KafkaError):  # type: ignore[misc]
    """Another static member has this one's id."""


FINAL = (Replaced, theirs.InconsistentGroupProtocolError)
"""Errors that end a consumer, which reports them with their remedy."""


class Unlisted(theirs.KafkaError):  # type: ignore[misc]
    """The broker answered with a code that aiokafka has no class for."""

    def __init__(self, code: int) -> None:
        super().__init__(_RETRIABLE_CODES.get(code, f"error code {code}"))
        self.retriable = code in _RETRIABLE_CODES


def error_for(code: int) -> theirs.KafkaError | None:
    """None for success."""
    if code == 0:
        return None
    kind = theirs.for_code(code)
    if kind is theirs.UnknownError and code != -1:
        return Unlisted(code)
    error: theirs.KafkaError = kind()
    return error


def fault_of(error: BaseException) -> Fault:
    if isinstance(error, BrokerError):
        return error.fault
    if isinstance(error, theirs.CommitFailedError) and isinstance(error.__cause__, theirs.RebalanceInProgressError):
        return Fault.UNAVAILABLE
    for fault, kinds in _FAULTS.items():
        if isinstance(error, kinds):
            return fault
    if isinstance(error, ssl.SSLError):
        return Fault.LOGIN if "certificate" in str(error).lower() else Fault.UNAVAILABLE
    return Fault.UNAVAILABLE if getattr(error, "retriable", False) else Fault.OTHER


def translated(error: BaseException, doing: str, needs: str = "") -> BrokerError:
    """`doing`: what was attempted; `needs`: the permission that it needs ("READ on topic awesome")."""
    if isinstance(error, BrokerError):
        return error
    fault = fault_of(error)
    advice = f": the login needs {needs}" if fault is Fault.DENIED and needs else ""
    if fault is Fault.UNKNOWN_TOPIC:
        advice = ": create it first"
    return BrokerError(f"{doing}: {_text(error)} ({type(error).__name__}){advice}", fault)


def _text(error: BaseException) -> str:
    if isinstance(error, theirs.BrokerResponseError):
        text = str(error.args[0]) if error.args else ""
        return text or getattr(error, "description", "") or getattr(error, "message", "") or "refused"
    text = str(error)
    if text:
        return text
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return "the connection was reset" if isinstance(error, ConnectionResetError) else "refused"
