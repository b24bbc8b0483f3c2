"""What is compared: cases, and who takes part in each."""

from __future__ import annotations

from benchmarks.case import Case, Contestant

_TUNED = {"tuned": True}
_AIO = {"client": "aiokafka", "style": "async"}
_SLEEP = {"handler": "sleep", "pause": 0.005}
_STAMP = {"handler": "stamp", "every": 0.005}
_ONCE = {"exactly_once": True}
_COPIES = {**_STAMP, "copy": "flux_copy"}
_FS_C, _FS_A = {"client": "confluent"}, {"client": "aiokafka"}
_QUIX, _ARROYO, _FS = "quixstreams", "arroyo", "faststream"
_RATE = ("rate", "cpu_us", "peak_mb")

CASES = (
    Case(
        "consume",
        "Consume: a handler that reads the value",
        _RATE,
        (
            Contestant("raw confluent-kafka, tuned", "raw:consume", _TUNED),
            Contestant("flux, concurrency = 1", "flux_consume:consume", {"concurrency": 1}),
            Contestant("flux, defaults", "flux_consume:consume"),
            Contestant("flux, defaults, metrics on", "flux_consume:consume", {"metrics": True}),
            Contestant("flux, async", "flux_consume:consume", {"style": "async"}),
            Contestant("raw confluent-kafka, defaults", "raw:consume"),
            Contestant("raw aiokafka, tuned", "raw_aiokafka:consume", _TUNED),
            Contestant("raw aiokafka, defaults", "raw_aiokafka:consume"),
            Contestant("flux on aiokafka, async", "flux_consume:consume", _AIO),
            Contestant("Quix Streams", "quix:consume", needs=_QUIX),
            Contestant("Arroyo", "arroyo:consume", needs=_ARROYO),
            Contestant("FastStream, confluent", "faststream:consume", _FS_C, needs=_FS),
            Contestant("FastStream, confluent, batches", "faststream:consume", {**_FS_C, "batch": 1}, needs=_FS),
            Contestant("FastStream, aiokafka", "faststream:consume", _FS_A, needs=_FS),
            Contestant("FastStream, aiokafka, batches", "faststream:consume", {**_FS_A, "batch": 1}, needs=_FS),
        ),
        count=4_000_000,
        topic="main",
    ),
    Case(
        "slow",
        "A handler that takes 5 ms",
        _RATE,
        (
            Contestant("flux, defaults (10 threads, order by key)", "flux_consume:consume", _SLEEP),
            Contestant(
                "flux, async, concurrency = 1000 (order by key)",
                "flux_consume:consume",
                {**_SLEEP, "style": "async", "concurrency": 1000},
            ),
            Contestant(
                "flux on aiokafka, async, concurrency = 1000",
                "flux_consume:consume",
                {**_SLEEP, **_AIO, "concurrency": 1000},
            ),
            Contestant("raw confluent-kafka", "raw:consume", {**_SLEEP, "one": False}),
            Contestant(
                "raw aiokafka, 500 at once (no order)", "raw_aiokafka:consume", {**_SLEEP, **_TUNED, "together": True}
            ),
            Contestant("Arroyo, 10 threads (no order)", "arroyo:consume", {**_SLEEP, "threads": 10}, needs=_ARROYO),
            Contestant("Quix Streams", "quix:consume", _SLEEP, needs=_QUIX),
            Contestant("FastStream, confluent", "faststream:consume", {**_FS_C, **_SLEEP}, needs=_FS),
            Contestant(
                "FastStream, aiokafka, 10 workers",
                "faststream:consume",
                {**_FS_A, **_SLEEP, "workers": 10},
                _FS,
            ),
        ),
        count=100_000,
        topic="wide",
        note="Ten threads can do 2,000 calls of 5 ms a second.",
    ),
    Case(
        "produce",
        "Produce, acks=all",
        _RATE,
        (
            Contestant("raw confluent-kafka, a callback each", "raw:produce", {"callback": True}),
            Contestant("raw confluent-kafka, no callback", "raw:produce"),
            Contestant("flux, produce", "flux_produce:produce"),
            Contestant("flux, send (a Future each)", "flux_produce:send"),
            Contestant("raw with headers, a callback each", "raw:produce", {"callback": True, "headers": True}),
            Contestant("flux, produce with headers", "flux_produce:produce", {"headers": True}),
            Contestant("raw aiokafka", "raw_aiokafka:produce"),
            Contestant("Quix Streams", "quix:produce", needs=_QUIX),
            Contestant("Arroyo (a future each)", "arroyo:produce", needs=_ARROYO),
            Contestant("FastStream, confluent", "faststream:produce", _FS_C, needs=_FS),
            Contestant("FastStream, aiokafka", "faststream:produce", _FS_A, needs=_FS),
        ),
        count=1_500_000,
        note="flux's producer is idempotent (acks=all), as none of the others is by default.",
    ),
    Case(
        "latency",
        "Latency from produce to call, one record every 5 ms",
        ("p99_ms", "p50_ms"),
        (
            Contestant("raw confluent-kafka, a poll loop", "raw:consume", {**_STAMP, "one": True}),
            Contestant("flux, defaults", "flux_consume:consume", _STAMP),
            Contestant("flux, async", "flux_consume:consume", {**_STAMP, "style": "async"}),
            Contestant("raw aiokafka", "raw_aiokafka:consume", _STAMP),
            Contestant("flux on aiokafka, async", "flux_consume:consume", {**_STAMP, **_AIO}),
            Contestant("Quix Streams", "quix:consume", _STAMP, needs=_QUIX),
            Contestant("Arroyo", "arroyo:consume", _STAMP, needs=_ARROYO),
            Contestant("FastStream, confluent", "faststream:consume", {**_FS_C, **_STAMP}, needs=_FS),
            Contestant("FastStream, aiokafka", "faststream:consume", {**_FS_A, **_STAMP}, needs=_FS),
        ),
        count=1000,
    ),
    Case(
        "retries",
        "Records that wait in a retry stage",
        ("p99_ms", "p50_ms", "earliest_ms", "idle_cpu", "peak_mb"),
        (
            Contestant("100,000 due in order (a default wait)", "flux_retries:waiting", {"order": "due", "over": 8}),
            Contestant(
                "20,000 a partition due at random (`after`)",
                "flux_retries:waiting",
                {"order": "random", "over": 8},
                count=80_000,
            ),
        ),
        count=100_000,
        note="How long after its due time a call starts; how much of one core is used while nothing is due.",
    ),
    Case(
        "held",
        "Many records that wait",
        ("peak_mb", "idle_cpu"),
        (
            Contestant("1,000 waiting", "flux_retries:held", count=1_000),
            Contestant("100,000 waiting", "flux_retries:held", count=100_000),
            Contestant("1,000,000 waiting", "flux_retries:held", count=1_000_000),
        ),
        count=1_000,
        limit=90.0,
        note="Due in an hour or two, at random. `max_waiting` (100,000 here) bounds what is held; the rest is paused.",
    ),
    Case(
        "stuck",
        "One call in 1,000 takes 20 ms",
        _RATE,
        (
            Contestant("flux, defaults, no call does", "flux_consume:consume"),
            Contestant("flux, defaults, 1 in 1,000 does", "flux_consume:stuck"),
        ),
        count=2_000_000,
        topic="main",
        note="Ten threads that did nothing but those calls would get to 500,000 records/s.",
    ),
    Case(
        "storm",
        "Half of all records fail once",
        _RATE,
        (
            Contestant("raw confluent-kafka, 50 % written again and read", "raw:storm", {"fails": 50}),
            Contestant("flux, 50 % fail once", "flux_consume:storm", {"fails": 50}),
            Contestant("flux, 50 % fail once, concurrency = 1", "flux_consume:storm", {"fails": 50, "concurrency": 1}),
            Contestant("flux, none fails", "flux_consume:storm", {"fails": 0}),
            Contestant("raw confluent-kafka, none fails", "raw:storm", {"fails": 0}),
        ),
        count=500_000,
        topic="storm",
        seconds=60.0,
        limit=90.0,
    ),
    Case(
        "exactly-once",
        "A call that produces one record",
        _RATE,
        (
            Contestant("flux, at least once", "copying:flux_copy"),
            Contestant("flux, exactly once", "copying:flux_copy", _ONCE),
            Contestant("Quix Streams, at least once", "copying:quix_copy", needs=_QUIX),
            Contestant("Quix Streams, exactly once", "copying:quix_copy", _ONCE, _QUIX),
        ),
        count=400_000,
        topic="storm",
        seconds=4.0,
        note="Both commit every 0.2 s. What Quix Streams has handled since its last commit counts, too.",
    ),
    Case(
        "exactly-once-slow",
        "A call of 5 ms that produces one record",
        _RATE,
        (
            Contestant("flux, at least once", "copying:flux_copy", _SLEEP),
            Contestant("flux, exactly once", "copying:flux_copy", {**_SLEEP, **_ONCE}),
        ),
        count=100_000,
        topic="wide",
        seconds=4.0,
    ),
    Case(
        "exactly-once-storm",
        "Half of all records fail once",
        _RATE,
        (
            Contestant("flux, at least once", "flux_consume:storm", {"fails": 50}),
            Contestant("flux, exactly once", "flux_consume:storm", {"fails": 50, **_ONCE}),
        ),
        count=500_000,
        topic="storm",
        seconds=60.0,
        limit=90.0,
    ),
    Case(
        "exactly-once-latency",
        "From produce to a read_committed reader of the call's output, one record every 5 ms",
        ("p50_ms", "p99_ms"),
        (
            Contestant("flux, at least once", "copying:latency", _COPIES),
            *(
                Contestant(
                    f"{name}, exactly once, {interval:g} s",
                    "copying:latency",
                    {**_STAMP, **_ONCE, "copy": copy, "interval": interval},
                    needs,
                )
                for name, copy, needs in (("flux", "flux_copy", "flux"), ("Quix Streams", "quix_copy", _QUIX))
                for interval in (0.02, 0.1, 0.2)
            ),
        ),
        count=1000,
        note="The intervals are `offset_commit_interval` and Quix Streams' `commit_interval`.",
    ),
    Case(
        "kill",
        "A worker that is killed (kill -9), with ten threads and a handler of 5 ms",
        ("repeated", "calls"),
        (Contestant("flux, defaults", "flux_kill:killed", {"kills": 5}),),
        count=1,
        topic="wide",
        seconds=3.0,
        limit=150.0,
        note="By default a worker commits every 0.2 s.",
    ),
    Case(
        "scale",
        "Processes, with a handler that computes",
        ("rate",),
        (
            Contestant("flux process", "flux_scale:processes", {"processes": 1}),
            Contestant("flux process --processes 2", "flux_scale:processes", {"processes": 2}),
            Contestant("no Kafka at all, 1 process", "flux_scale:alone", {"processes": 1}),
            Contestant("no Kafka at all, 2 processes", "flux_scale:alone", {"processes": 2}),
        ),
        count=20_000,
        seconds=20.0,
        limit=90.0,
    ),
    Case(
        "partitions",
        "1,000 partitions",
        ("cpu_us", "rate", "peak_mb"),
        (
            Contestant("flux, defaults, 4 partitions", "flux_consume:consume", topic="main"),
            Contestant("flux, defaults, 1,000 partitions", "flux_consume:consume", {"small_dlq": True}),
            Contestant("raw confluent-kafka, tuned, 4 partitions", "raw:consume", _TUNED, topic="main"),
            Contestant("raw confluent-kafka, tuned, 1,000 partitions", "raw:consume", _TUNED),
        ),
        count=2_000_000,
        topic="many",
    ),
    Case(
        "help",
        "Start: `flux --help`, beyond `python -c pass`",
        ("cpu_ms",),
        (Contestant("flux --help", "start:flux_help"),),
        count=1,
    ),
    Case(
        "start",
        "Start: from the start of the process to the first record",
        ("seconds",),
        (
            Contestant("raw confluent-kafka", "raw:first"),
            Contestant("flux, defaults", "flux_consume:consume", {"handler": "first"}),
        ),
        count=1,
        topic="main",
    ),
)
