"""Real processes, and a clock that runs fifty times as fast."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flux.consuming.supervision import RESTART
from flux.processes import supervisor
from flux.processes.supervisor import DEATHS, Supervisor, signal_name
from flux.system import OperatingSystem

FASTER = 50

FOLLOWING = """
import os, signal, sys
name, line = sys.argv[1], int(sys.argv[2])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
signal.signal(signal.SIGINT, lambda *_: sys.exit(7))
open(name, "a").write("started\\n")
os.read(line, 1)
open(name, "a").write("followed\\n")
"""


class Hasty(OperatingSystem):
    def now(self) -> float:
        return time.monotonic() * FASTER

    def monotonic(self) -> float:
        return self.now()

    def sleep(self, seconds: float) -> None:  # type: ignore[override]
        time.sleep(max(seconds / FASTER, 0.002))


def python(code: str, *args: object) -> list[str]:
    return [sys.executable, "-S", "-c", code, *map(str, args)]


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def test_it_ends_with_0_when_all_children_did() -> None:
    assert Supervisor(lambda number, line: python(""), 2, Hasty()).run() == 0


def test_a_child_that_dies_is_started_again(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "with open(sys.argv[1], 'a') as file: file.write('x\\n')\n"
        "sys.exit(len(open(sys.argv[1]).readlines()) < 3)"
    )
    file = tmp_path / "starts"
    assert Supervisor(lambda number, line: python(code, file), 1, Hasty()).run() == 0
    assert len(lines(file)) == 3


def test_a_child_that_asks_for_a_restart_is_started_again_at_once_however_often(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "with open(sys.argv[1], 'a') as file: file.write('x\\n')\n"
        f"sys.exit({RESTART} if len(open(sys.argv[1]).readlines()) <= {DEATHS} else 0)"
    )
    file = tmp_path / "starts"
    assert Supervisor(lambda number, line: python(code, file), 1, Hasty()).run() == 0
    assert len(lines(file)) == DEATHS + 1


def test_a_child_that_asks_for_a_restart_while_all_stop_is_not_started_again(tmp_path: Path) -> None:
    code = FOLLOWING.replace("lambda *_: sys.exit(0)", f"lambda *_: sys.exit({RESTART})")
    file = tmp_path / "starts"
    running = Supervisor(lambda number, line: python(code, file, line), 1, Hasty())

    def stop_once_started() -> None:
        wait_for(lambda: bool(lines(file)))
        os.kill(os.getpid(), signal.SIGTERM)

    stop = threading.Thread(target=stop_once_started)
    stop.start()
    assert running.run() == 0
    stop.join()
    assert lines(file) == ["started"]


def test_children_that_keep_dying_end_it_and_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "WITHIN", 60.0 * FASTER)  # a process takes as long as ever to start
    file, other = tmp_path / "starts", tmp_path / "other"
    dying = "import sys; open(sys.argv[1], 'a').write('x\\n'); sys.exit(5)"

    def command(number: int, line: int) -> list[str]:
        return python(FOLLOWING, other, line) if number else python(dying, file)

    assert Supervisor(command, 2, Hasty()).run() == 5
    assert len(lines(file)) == DEATHS
    assert lines(other) == ["started"]


def test_a_child_that_is_killed_is_started_again_however_often(tmp_path: Path) -> None:
    file = tmp_path / "starts"
    code = (
        "import os, sys\n"
        "with open(sys.argv[1], 'a') as file: file.write('x\\n')\n"
        f"len(open(sys.argv[1]).readlines()) <= {DEATHS} and os.kill(os.getpid(), 9)"
    )
    assert Supervisor(lambda number, line: python(code, file), 1, Hasty()).run() == 0
    assert len(lines(file)) == DEATHS + 1


def test_wrong_usage_is_not_tried_again(tmp_path: Path) -> None:
    file = tmp_path / "starts"
    code = "import sys; open(sys.argv[1], 'a').write('x\\n'); sys.exit(2)"
    assert Supervisor(lambda number, line: python(code, file), 1, Hasty()).run() == 2
    assert lines(file) == ["x"]


def test_a_signal_is_passed_on_once_and_nothing_is_started_again(tmp_path: Path) -> None:
    files = [tmp_path / "0", tmp_path / "1"]

    def interrupt() -> None:
        wait_for(lambda: all(map(lines, files)))
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt).start()
    assert Supervisor(lambda number, line: python(FOLLOWING, files[number], line), 2, Hasty()).run() == 0
    assert [lines(file) for file in files] == [["started"]] * 2


def test_the_code_of_a_child_that_was_stopped_counts(tmp_path: Path) -> None:
    file = tmp_path / "0"

    def interrupt() -> None:
        wait_for(lambda: bool(lines(file)))
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    assert Supervisor(lambda number, line: python(FOLLOWING, file, line), 1, Hasty()).run() == 7


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_child_that_is_stopped_while_it_starts_has_ended_in_good_order(tmp_path: Path, number: int) -> None:
    file = tmp_path / "0"
    starting = "import sys, time; open(sys.argv[1], 'a').write('x\\n'); time.sleep(60)"

    def interrupt() -> None:
        wait_for(lambda: bool(lines(file)))
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt).start()
    assert Supervisor(lambda number, line: python(starting, file), 1, Hasty()).run() == 0


def test_the_third_signal_kills(tmp_path: Path) -> None:
    stubborn = (
        "import signal, sys, time\n"
        "for number in (2, 15): signal.signal(number, signal.SIG_IGN)\n"
        "open(sys.argv[1], 'a').write('x\\n')\n"
        "time.sleep(60)"
    )
    file = tmp_path / "0"
    supervising = Supervisor(lambda number, line: python(stubborn, file), 1, Hasty())

    def interrupt() -> None:
        wait_for(lambda: bool(lines(file)))
        for number in range(3):  # signals that come together are one
            os.kill(os.getpid(), signal.SIGTERM)
            wait_for(lambda number=number: supervising._received > number)  # type: ignore[misc]

    threading.Thread(target=interrupt).start()
    assert supervising.run() == 1


def test_children_hear_of_a_supervisor_that_was_killed(tmp_path: Path) -> None:
    files = [tmp_path / "0", tmp_path / "1"]
    code = (
        "import sys; from flux.processes.supervisor import Supervisor\n"
        "child, directory = sys.argv[1:]\n"
        "Supervisor(lambda n, line: [sys.executable, '-S', '-c', child, f'{directory}/{n}', str(line)], 2).run()"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", code, FOLLOWING, str(tmp_path)])
    wait_for(lambda: all(map(lines, files)))
    supervisor.kill()
    supervisor.wait()
    wait_for(lambda: all(lines(file) == ["started", "followed"] for file in files))


@pytest.mark.skipif(not hasattr(signal, "SIGRTMIN"), reason="there are no real-time signals here")
@pytest.mark.parametrize("above", [0, 1, 6])
def test_a_child_killed_by_a_real_time_signal_is_started_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, above: int
) -> None:
    code = (
        "import os, signal, sys\n"
        "with open(sys.argv[1], 'a') as file: file.write('x\\n')\n"
        "if len(open(sys.argv[1]).readlines()) < 2: os.kill(os.getpid(), signal.SIGRTMIN + int(sys.argv[2]))"
    )
    file = tmp_path / "starts"
    assert Supervisor(lambda number, line: python(code, file, above), 1, Hasty()).run() == 0
    assert len(lines(file)) == 2
    assert f"process 0 was killed by SIGRTMIN{f'+{above}' if above else ''}: restarting" in caplog.text


def test_a_signal_that_has_no_name_is_told_by_its_number() -> None:
    assert [signal_name(number) for number in (signal.SIGKILL, 32, 1000)] == ["SIGKILL", "signal 32", "signal 1000"]


def test_a_child_that_cannot_be_started_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file, commands = tmp_path / "starts", iter([["/nonexistent/python"]])
    code = "import sys; open(sys.argv[1], 'a').write('x\\n')"
    assert Supervisor(lambda number, line: next(commands, python(code, file)), 1, Hasty()).run() == 0
    assert lines(file) == ["x"]
    assert "process 0 could not be started" in caplog.text
