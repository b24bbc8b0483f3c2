"""`python -m benchmarks.idle [HOST:PORT]`: what a worker costs while its topics are empty, for each client.

Threads, descriptors and connections are the worker's, from /proc (Linux); CPU is a percentage of one core, and the
broker's part is not in it.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import flux
from benchmarks.cluster import broker

SHAPES = {"one task, 25 retries": (25,), "four tasks, 22 stages": (5, 5, 5, 3)}
SETTLED, MEASURED = 10.0, 15.0  # seconds: to let all groups join and helpers end; that are counted
LIMIT = 120.0  # seconds for one worker
_CONNECTED = "01"  # in /proc/net/tcp


def main() -> None:
    if sys.argv[1:2] == ["worker"]:
        work(sys.argv[2], [int(number) for number in sys.argv[3].split(",")], sys.argv[4])
        return
    print("| | threads | descriptors | connections | CPU, % of a core |\n|---|---:|---:|---:|---:|")
    with broker(sys.argv[1] if len(sys.argv) > 1 else None) as bootstrap:
        for shape, retries in SHAPES.items():
            for client in ("confluent", "aiokafka"):
                found = measured(f"{client}://{bootstrap}", retries)
                figures = " | ".join(str(found[name]) for name in ("threads", "descriptors", "connections", "cpu"))
                print(f"| {shape}, {client} | {figures} |", flush=True)
                print(f"{shape}, {client}: {found['names']}", file=sys.stderr)


def measured(url: str, retries: tuple[int, ...]) -> dict[str, Any]:
    """The figures of one worker, in a process of its own."""
    given = [url, ",".join(map(str, retries)), f"idle-{secrets.token_hex(3)}"]
    command = [sys.executable, "-m", "benchmarks.idle", "worker", *given]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=LIMIT, check=True).stdout
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return found


def work(url: str, retries: list[int], prefix: str) -> None:
    def task(number: int, stages: int) -> type[flux.Task]:
        def call(self: flux.Task, message: flux.Message) -> None:
            raise SystemExit("there is a record")

        given = {"topic": f"{prefix}-{number}", "group_id": f"{prefix}-{number}", "retries": stages, "call": call}
        return type(f"Idle{number}", (flux.Task,), given)

    tasks = [task(number, stages) for number, stages in enumerate(retries)]
    worker = flux.Worker(*tasks, adapter=url, create_topics=True)
    threading.Thread(target=watch, args=(worker,), daemon=True).start()
    raise SystemExit(worker.run())


def watch(worker: flux.Worker) -> None:
    """Prints the figures of an idle worker, and ends the process."""
    while not (worker.ready and all(pulse.joined for job in worker.jobs for pulse in job.pulses())):
        time.sleep(0.1)
    time.sleep(SETTLED)
    began, cpu = time.monotonic(), time.process_time()
    time.sleep(MEASURED)
    percent = 100 * (time.process_time() - cpu) / (time.monotonic() - began)
    print(json.dumps({**counts(), "cpu": f"{percent:.1f}"}), flush=True)
    os._exit(0)


def counts() -> dict[str, Any]:
    names = Counter(path.read_text().strip().rstrip("0123456789") for path in Path("/proc/self/task").glob("*/comm"))
    links = [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    sockets = {link for link in links if link.startswith("socket:")}
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    connected = sum(row[3] == _CONNECTED and f"socket:[{row[9]}]" in sockets for row in rows)
    return {
        "threads": sum(names.values()),
        "descriptors": len(links),
        "connections": connected,
        "names": dict(names.most_common()),
    }


if __name__ == "__main__":
    main()
