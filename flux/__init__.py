"""flux: Kafka work that does not get lost.

A task handles one topic; what fails moves through retry topics with growing waits that block nothing, and ends in a
dead-letter topic. A producer buffers and flushes by itself.
"""

from flux import serde
from flux._version import __version__
from flux.config import ProducerOptions, adapter_from_url, configure
from flux.core.engine.verdicts import (
    BatchFailure,
    Expired,
    NotAwaited,
    Pause,
    Reject,
    Retry,
    SubtaskCancelled,
    Tombstone,
)
from flux.core.errors import (
    BrokerError,
    BufferFull,
    ConfigurationError,
    DeliveryError,
    FailedRecord,
    FluxError,
    WorkerFailed,
)
from flux.core.hooks import CallsReport, Hooks, StageInfo
from flux.core.limits.failure_rate import FailureRate
from flux.core.message import Headers, Message
from flux.function_tasks import task
from flux.producer import Producer
from flux.producing.delivery import Delivery, RecordMetadata
from flux.producing.scope import carry, producing
from flux.scheduling import cancel
from flux.task import BatchTask, Task
from flux.worker import Worker

__all__ = [
    "BatchFailure",
    "BatchTask",
    "BrokerError",
    "BufferFull",
    "CallsReport",
    "ConfigurationError",
    "Delivery",
    "DeliveryError",
    "Expired",
    "FailedRecord",
    "FailureRate",
    "FluxError",
    "Headers",
    "Hooks",
    "Message",
    "NotAwaited",
    "Pause",
    "Producer",
    "ProducerOptions",
    "RecordMetadata",
    "Reject",
    "Retry",
    "StageInfo",
    "SubtaskCancelled",
    "Task",
    "Tombstone",
    "Worker",
    "WorkerFailed",
    "__version__",
    "adapter_from_url",
    "cancel",
    "carry",
    "configure",
    "producing",
    "serde",
    "task",
]
