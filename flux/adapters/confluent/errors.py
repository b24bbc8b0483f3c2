"""Translates librdkafka's errors.

Codes: https://docs.confluent.io/platform/current/clients/librdkafka/html/rdkafka_8h.html (rd_kafka_resp_err_t)
"""

from __future__ import annotations

from confluent_kafka import KafkaError

from flux.core.errors import BrokerError, Fault

_NAMES = {
    Fault.UNAVAILABLE: """
        _TRANSPORT _ALL_BROKERS_DOWN _RESOLVE _TIMED_OUT _TIMED_OUT_QUEUE _MSG_TIMED_OUT _WAIT_COORD _WAIT_CACHE
        _ISR_INSUFF _NODE_UPDATE _RETRY _PURGE_QUEUE _PURGE_INFLIGHT _INTR _IN_PROGRESS _PREV_IN_PROGRESS
        _QUEUE_FULL _UNKNOWN_BROKER _DESTROY_BROKER _DESTROY _SSL
        REQUEST_TIMED_OUT LEADER_NOT_AVAILABLE NOT_LEADER_FOR_PARTITION BROKER_NOT_AVAILABLE REPLICA_NOT_AVAILABLE
        NETWORK_EXCEPTION COORDINATOR_LOAD_IN_PROGRESS COORDINATOR_NOT_AVAILABLE NOT_COORDINATOR NOT_CONTROLLER
        NOT_ENOUGH_REPLICAS NOT_ENOUGH_REPLICAS_AFTER_APPEND REBALANCE_IN_PROGRESS KAFKA_STORAGE_ERROR
        FENCED_LEADER_EPOCH UNKNOWN_LEADER_EPOCH OFFSET_NOT_AVAILABLE PREFERRED_LEADER_NOT_AVAILABLE
        ELIGIBLE_LEADERS_NOT_AVAILABLE UNSTABLE_OFFSET_COMMIT THROTTLING_QUOTA_EXCEEDED STALE_BROKER_EPOCH
        UNKNOWN_TOPIC_ID INCONSISTENT_TOPIC_ID FETCH_SESSION_ID_NOT_FOUND INVALID_FETCH_SESSION_EPOCH
        CONCURRENT_TRANSACTIONS REBOOTSTRAP_REQUIRED GROUP_MAX_SIZE_REACHED""",
    Fault.FENCED: """
        ILLEGAL_GENERATION UNKNOWN_MEMBER_ID FENCED_INSTANCE_ID FENCED_MEMBER_EPOCH STALE_MEMBER_EPOCH
        UNRELEASED_INSTANCE_ID _ASSIGNMENT_LOST _FENCED PRODUCER_FENCED INVALID_PRODUCER_EPOCH _MAX_POLL_EXCEEDED""",
    Fault.TOO_LARGE: "MSG_SIZE_TOO_LARGE RECORD_LIST_TOO_LARGE INVALID_MSG_SIZE",
    Fault.UNKNOWN_TOPIC: "UNKNOWN_TOPIC_OR_PART _UNKNOWN_TOPIC _UNKNOWN_PARTITION",
    Fault.DENIED: """
        TOPIC_AUTHORIZATION_FAILED GROUP_AUTHORIZATION_FAILED CLUSTER_AUTHORIZATION_FAILED
        TRANSACTIONAL_ID_AUTHORIZATION_FAILED DELEGATION_TOKEN_AUTHORIZATION_FAILED""",
    Fault.LOGIN: "_AUTHENTICATION SASL_AUTHENTICATION_FAILED UNSUPPORTED_SASL_MECHANISM ILLEGAL_SASL_STATE",
    Fault.METADATA: "OFFSET_METADATA_TOO_LARGE",
    Fault.FATAL: "_FATAL",
}
PRODUCER_SUPERSEDED = {KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH}
COMMIT_NOT_ASKED_FOR = ("message(s)", "add partition", "offsets to transaction")
"""In a commit's errors from before the coordinator was asked to commit. Others count as unknown outcomes."""

NO_TOKEN = ("failed to acquire", "no token available", "oauth token not set")
"""Texts of librdkafka and confluent-kafka when they have no token."""

NO_ANSWER = "mechanism handshake failed: local:"
"""Their text when the connection ended before the broker answered the login."""

NO_SASL = "not valid in current sasl state"
"""The text for a listener without SASL, or for a login that is renewed in the first second of a session."""

_FAULTS = {getattr(KafkaError, name): fault for fault, names in _NAMES.items() for name in names.split()}


def fault_of(error: KafkaError) -> Fault:
    fault = _FAULTS.get(error.code())
    text = error.str().lower()
    if error.code() == KafkaError._SSL and "certificate" in text:
        return Fault.LOGIN
    # These say nothing about the broker's answer to the login.
    if fault is Fault.LOGIN and any(words in text for words in (*NO_TOKEN, NO_ANSWER)):
        return Fault.UNAVAILABLE
    if error.fatal() or fault is Fault.FATAL:
        # A static member that was replaced by another gets _FATAL alone.
        return Fault.FENCED if fault is Fault.FENCED or "instance" in text else Fault.FATAL
    if fault is None:
        return Fault.UNAVAILABLE if error.retriable() else Fault.OTHER
    return fault


def translated(error: KafkaError, doing: str, needs: str = "") -> BrokerError:
    """`doing`: what was attempted; `needs`: the permission that it needs ("READ on topic awesome")."""
    fault = fault_of(error)
    advice = ""
    if fault is Fault.DENIED and needs:
        advice = f": the login needs {needs}"
    elif error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):
        advice = ": create it first"
    elif fault is Fault.FENCED and "instance" in error.str().lower():
        advice = ": another member has this one's group.instance.id: give each process an id of its own"
    elif error.code() == KafkaError.INCONSISTENT_GROUP_PROTOCOL:
        advice = (
            ": the group's members use another protocol (confluent's is cooperative, aiokafka's eager, and they do not"
            " mix): stop all members of the group, then start them with one client"
        )
    return BrokerError(f"{doing}: {error.str()} ({error.name()}){advice}", fault)
