"""What all tests share."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

from flux import config

# how long an example takes says how busy the machine is
settings.register_profile("flux", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# of a mutant it matters whether a test fails, and not at which smallest example
settings.register_profile(
    "mutants", settings.get_profile("flux"), max_examples=25, phases=(Phase.explicit, Phase.generate)
)
settings.load_profile("flux")

# processes of tests would inherit that it is ignored, as it is in a shell's background
if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


REAL = {"brokers", "chaos", "integration", "proof"}
"""Folders of tests whose parts are real: brokers, networks, processes. A machine that is short of time, not flux, may
fail one; a test that fails twice, or four times if it is `timed`, fails the run, and why one failed once is printed."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Spreads the files of each folder over a run of several processes: those that wait for Kafka then run beside those
    that compute."""
    folders: dict[str, dict[Path, None]] = {}
    for item in items:
        top, below, *_ = item.path.relative_to(config.rootpath).parts
        folder = below if top == "tests" else top
        folders.setdefault(folder, {})[item.path] = None
        if folder in REAL:
            item.add_marker(pytest.mark.flaky(reruns=3 if item.get_closest_marker("timed") else 1))
    if not hasattr(config, "workerinput"):
        return
    places = {path: number / len(paths) for paths in folders.values() for number, path in enumerate(paths)}
    items.sort(key=lambda item: places[item.path])


@pytest.fixture(autouse=True)
def _configured(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test, or a program that it loads, configures for the process ends with it."""
    monkeypatch.setattr(config, "current", config.current)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """At the end, also where other processes ran the tests."""
    skipped = (report.longrepr for report in terminalreporter.stats.get("skipped", ()))
    reasons = {each[2].removeprefix("Skipped: ") for each in skipped if isinstance(each, tuple)}
    for reason in sorted(each for each in reasons if each.startswith("NOTHING TESTED AGAINST KAFKA")):
        terminalreporter.write_line(reason, red=True, bold=True)
    for report in terminalreporter.stats.get("rerun", ()):  # why a test failed that passes now
        crash = getattr(report.longrepr, "reprcrash", None)
        said = str(report.longrepr if crash is None else crash.message).partition("\n")[0]
        terminalreporter.write_line(f"RERUN {report.nodeid}: {said}")
