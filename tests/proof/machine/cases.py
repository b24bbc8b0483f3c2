"""What the machine does. Each case returns what is wrong."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from proof.machine.bench import Absent, Bench

_CGROUP = Path("/sys/fs/cgroup/memory")


@attrs.frozen
class Case:
    name: str
    does: str
    run: Callable[[Bench], list[str]]
    records: int = 2_000


def closed_streams(bench: Bench) -> list[str]:
    def close() -> None:
        for number in (0, 1, 2):
            os.close(number)

    bench.produce()
    return bench.problems(bench.ended(bench.start(before=close)))


def full_device(bench: Bench) -> list[str]:
    bench.produce()
    with Path("/dev/full").open("wb") as full:
        return bench.problems(bench.ended(bench.start(out=full, environment={"PYTHONUNBUFFERED": "1"})))


@contextmanager
def _disk(bench: Bench, options: str) -> Iterator[Path]:
    at = bench.directory / "disk"
    at.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(at)], check=False, capture_output=True, text=True
    )
    if mounted.returncode:
        raise Absent(f"no right to mount: {mounted.stderr.strip()}")
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


def full_disk(bench: Bench) -> list[str]:
    bench.produce()
    with _disk(bench, "size=64k") as disk:
        (disk / "filling").write_bytes(b"x" * 60_000)
        with (disk / "log").open("wb") as log:
            worker = bench.start("--log-level", "debug", out=log, cwd=disk, environment=_home(disk))
            return bench.problems(bench.ended(worker))


def read_only_disk(bench: Bench) -> list[str]:
    bench.produce()
    with _disk(bench, "size=64k") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        worker = bench.start("--report", "--metrics-port", "0", cwd=disk, environment=_home(disk))
        return bench.problems(bench.ended(worker))


def _home(at: Path) -> dict[str, str]:
    return {"TMPDIR": str(at), "HOME": str(at), "XDG_CACHE_HOME": str(at)}


def few_descriptors(bench: Bench) -> list[str]:
    """With too few it ends, or says what is missing, or works; with enough, what is left is done."""
    bench.produce()
    found = []
    for limit in (12, 24, 40):

        def few(limit: int = limit) -> None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

        said = len(bench.said())
        code = bench.ended(bench.start(before=few), 45)
        # the clients take it for an outage, and go on trying
        if code is None and "Too many open files" not in bench.said()[said:]:
            found.append(f"with {limit} descriptors it did not end, and did not say why")
    return found + bench.problems(bench.ended(bench.start()))


def little_memory(bench: Bench) -> list[str]:
    """A backlog twice as large as the memory that it may use."""
    group = _CGROUP / f"flux-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(250 * 1024 * 1024))
    except OSError as error:
        raise Absent(f"no memory cgroup: {error}") from None

    def join() -> None:
        (group / "cgroup.procs").write_text(str(os.getpid()))

    try:
        bench.produce(size=10_000)
        return bench.problems(bench.ended(bench.start(before=join)))
    finally:
        for _ in range(20):
            try:
                group.rmdir()
            except OSError:  # the processes have not quite ended
                time.sleep(0.1)


def stopped_for_long(bench: Bench) -> list[str]:
    """SIGSTOP for twice the session timeout."""
    bench.seconds = 0.005
    bench.produce()
    worker = bench.start()
    bench.wait_for_some(100)
    worker.send_signal(signal.SIGSTOP)
    time.sleep(12)
    worker.send_signal(signal.SIGCONT)
    return bench.problems(bench.ended(worker), repeats=bench.records)


def process_one(bench: Bench) -> list[str]:
    """As PID 1 of a container: SIGTERM ends it gracefully."""
    bench.seconds = 0.02
    bench.produce()
    try:
        worker = bench.start("--processes", "2", prefix=("unshare", "--pid", "--fork", "--kill-child"))
    except FileNotFoundError:
        raise Absent("no unshare") from None
    bench.wait_for_some(100)
    children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
    if not children:
        raise Absent("no right to make a pid namespace")
    os.kill(int(children[0]), signal.SIGTERM)
    code = bench.ended(worker, 30)
    found = [] if code == 0 else [f"ended with {code} after SIGTERM: {bench.said()[-300:]}"]
    return found + bench.problems(bench.ended(bench.start()))


def hung_up(bench: Bench) -> list[str]:
    """SIGHUP, as when a terminal closes: a graceful end, which repeats nothing."""
    return _signalled(bench, signal.SIGHUP)


def terminated_twice(bench: Bench) -> list[str]:
    """The second SIGTERM does not wait for calls of 20 s."""
    bench.seconds = 20.0
    bench.produce()
    worker = bench.start()
    time.sleep(6)
    began = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    time.sleep(1)
    worker.send_signal(signal.SIGTERM)
    code = bench.ended(worker, 30)
    took = time.monotonic() - began
    found = [] if code is not None and took < 10 else [f"ended with {code} after {took:.0f} s"]
    bench.seconds = 0.0
    return found + bench.problems(bench.ended(bench.start()), repeats=20)


def _signalled(bench: Bench, number: signal.Signals) -> list[str]:
    bench.seconds = 0.02
    bench.produce()
    worker = bench.start()
    bench.wait_for_some(100)
    worker.send_signal(number)
    code = bench.ended(worker, 30)
    found = [] if code == 0 else [f"ended with {code}: {bench.said()[-300:]}"]
    bench.seconds = 0.0
    return found + bench.problems(bench.ended(bench.start()))


def forks(bench: Bench) -> list[str]:
    """Each call forks a child that ends at once."""
    bench.forks = True
    bench.produce()
    return bench.problems(bench.ended(bench.start()))


CASES = (
    Case("closed streams", "stdin, stdout and stderr are closed", closed_streams),
    Case("full device", "all output fails: no space left", full_device),
    Case("full disk", "the disk of the log, of the work directory and of TMPDIR is full", full_disk),
    Case("read-only disk", "work directory, HOME and TMPDIR cannot be written", read_only_disk),
    Case("few descriptors", "12, 24 and 40 descriptors, then enough", few_descriptors),
    Case("little memory", "a cgroup of 250 MB and a backlog of 600 MB", little_memory, 60_000),
    Case("stopped for long", "SIGSTOP for two session timeouts", stopped_for_long),
    Case("process one", "PID 1 with two worker processes, ended by SIGTERM", process_one),
    Case("hung up", "SIGHUP, then another worker", hung_up),
    Case("terminated twice", "two SIGTERM while calls take 20 s", terminated_twice, 100),
    Case("forks", "every call forks", forks, 500),
)
