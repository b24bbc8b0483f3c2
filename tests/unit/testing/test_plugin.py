"""What pytest loads in every environment that has flux."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from flux.testing import Kit

CONFTEST = """
import pytest

@pytest.fixture
def flux_kit_options():
    return {"partitions": 3, "start": 5.0}
"""

SUITE = """
import sys

def test_nothing_of_flux_is_imported_before_a_fixture_is_used():
    assert not [name for name in sys.modules if name == "flux" or name.startswith("flux.")]

def test_options_are_a_fixture(flux_kit):
    import flux

    class Orders(flux.Producer):
        topic = "orders"

    for _ in range(3):
        Orders.produce(b"x")
    assert {record.partition for record in flux_kit.topic("orders")} == {0, 1, 2}
    assert flux_kit.clock.now() == 5.0

def test_an_assertion_shows_the_records(flux_kit):
    flux_kit.produce("orders", b"there", key="ada")
    assert flux_kit.topic("orders").values == [b"missing"]

def test_the_kit_s_own_assertion_points_to_the_test(flux_kit):
    flux_kit.produce("orders", b"there", key="ada")
    flux_kit.assert_produced("orders", key="eve")
"""


def run(directory: Path, *arguments: str, **environment: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PATH": "/usr/bin:/bin", **environment},
    )
    return ended.stdout + ended.stderr


def test_the_entry_point_is_the_module_beside_the_package() -> None:
    (point,) = entry_points(group="pytest11", name="flux")
    assert point.value == "_flux_pytest"


def test_a_suite_of_an_application(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_application.py").write_text(SUITE)
    printed = run(tmp_path)
    assert "2 failed, 2 passed" in printed
    assert '>       flux_kit.assert_produced("orders", key="eve")' in printed
    assert "orders[2]@0 key=b'ada' value=b'there'" in printed


def test_a_suite_without_flux_is_not_disturbed(tmp_path: Path) -> None:
    (tmp_path / "test_plain.py").write_text("def test_plain():\n    pass\n")
    printed = run(tmp_path, "-W", "error", "--strict-markers", "--strict-config")
    assert "1 passed" in printed
    assert "warning" not in printed.lower()


@pytest.mark.parametrize(("ci", "outcome"), [("", "1 skipped"), ("true", "1 error")])
def test_without_docker_a_test_of_kafka_says_what_to_do(tmp_path: Path, ci: str, outcome: str) -> None:
    (tmp_path / "test_kafka.py").write_text("def test_kafka(flux_kafka):\n    pass\n")
    printed = run(tmp_path, "-rs", CI=ci, DOCKER_HOST="unix:///no/such/socket")
    assert outcome in printed
    assert "start a Docker engine" in printed


def test_a_kafka_that_runs_already_is_taken(tmp_path: Path) -> None:
    (tmp_path / "test_kafka.py").write_text("def test_kafka(flux_kafka):\n    assert flux_kafka == 'here:9092'\n")
    assert "1 passed" in run(tmp_path, FLUX_TEST_BOOTSTRAP="here:9092")


def test_the_fixture_gives_a_kit(flux_kit: Kit) -> None:
    assert isinstance(flux_kit, Kit)
