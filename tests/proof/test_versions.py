"""The table of versions: what pytest reports becomes cells, and cells become a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from proof.versions.environments import Environment, Missing
from proof.versions.page import BEGIN, END, PAGE, filled
from proof.versions.pieces import Found, keep, kept, outcome
from proof.versions.results import cells
from proof.versions.stage import _play

CONTRACT = "tests.integration.test_contract_confluent"
REPORT = f"""<testsuites><testsuite>
<testcase classname="{CONTRACT}" name="test_contract[a]"/>
<testcase classname="{CONTRACT}" name="test_contract[b]"><failure message="no"/></testcase>
<testcase classname="{CONTRACT}" name="test_contract_with_the_new_protocol[a]"/>
<testcase classname="{CONTRACT}" name="test_contract_with_the_new_protocol[b]"><skipped/></testcase>
<testcase classname="tests.integration.job.test_main_job" name="test_it"><error message="no"/></testcase>
</testsuite></testsuites>"""


@pytest.fixture
def report(tmp_path: Path) -> Path:
    path = tmp_path / "own.xml"
    path.write_text(REPORT)
    return path


def test_each_test_counts_in_its_column(report: Path) -> None:
    assert {title: str(cell) for title, cell in cells([report]).items()} == {
        "confluent": "1 of 2 FAILED",
        "confluent, KIP-848": "1 passed, 1 skipped",
        "aiokafka": "-",
        "main job": "1 of 1 FAILED",
        "broker killed": "-",
        "adapters' unit tests": "-",
    }


def test_a_test_that_was_tried_again_counts_once_and_is_named(tmp_path: Path) -> None:
    case = f'<testcase classname="{CONTRACT}" name="test_contract[a]"'
    path = tmp_path / "own.xml"
    path.write_text(f"<testsuite>{case}/>{case}/></testsuite>")
    assert str(cells([path])["confluent"]) == "1 passed, 1 at the second try"
    path.write_text(f"<testsuite>{case}/>{case}><failure/></testcase></testsuite>")
    assert str(cells([path])["confluent"]) == "1 of 1 FAILED"


def played(environment: Environment, directory: Path) -> Found:
    found = Found()
    _play(found, environment, "4.4.0", "localhost:1", ["a test"], directory)
    return found


def test_a_failure_is_a_problem_that_names_the_test(report: Path, tmp_path: Path) -> None:
    found = played(Environment("as developed", lambda *arguments: {"3.14": report}), tmp_path)
    assert [problem.partition(";")[0] for problem in found.problems] == [
        "Kafka 4.4.0, Python 3.14, as developed, confluent: test_contract[b]",
        "Kafka 4.4.0, Python 3.14, as developed, main job: test_it",
    ]


def test_a_run_without_a_test_is_a_problem_and_no_pass(tmp_path: Path) -> None:
    found = played(Environment("as developed", lambda *arguments: {"3.14": tmp_path / "none.xml"}), tmp_path)
    assert len(found.problems) == 1
    assert "no test ran" in found.problems[0]


def test_a_run_without_a_test_is_a_problem_also_beside_one_with_tests(report: Path, tmp_path: Path) -> None:
    found = Found()
    found.add("4.4.0", "3.14", "as developed", [tmp_path / "none.xml", report], tmp_path / "log")
    assert [problem for problem in found.problems if "no test ran" in problem]


def test_what_cannot_be_had_is_a_note(tmp_path: Path) -> None:
    def run(tests: Sequence[str], reports: Path, variables: Mapping[str, str], log: Path) -> Mapping[str, Path]:
        raise Missing("no debootstrap")

    found = played(Environment("Python 3.14", run), tmp_path)
    assert (found.problems, found.rows) == ([], [])
    assert found.notes == ["Not tried: Kafka 4.4.0, Python 3.14: no debootstrap"]


def test_the_last_results_of_each_piece_are_kept_and_missing_ones_named(tmp_path: Path) -> None:
    path = tmp_path / "build" / "versions.json"
    keep("first", Found(rows=[["4.3.0"]], tests=1), path)
    keep("second", Found(rows=[["4.4.0"]], problems=["it failed"], tests=2), path)
    keep("first", Found(rows=[["4.3.1"]], tests=3), path)
    found = outcome(kept(path), ["second", "first", "third", "fourth"])
    assert found.tables[0].rows == [["4.4.0"], ["4.3.1"]]
    assert found.problems == ["it failed"]
    assert found.figures["tests"] == 5
    assert found.notes[-1] == "Not run: third, fourth."


def test_the_page_has_a_place_for_the_table() -> None:
    row = ["4.4.0", "3.14", "oldest", "1 passed", "-", "-", "-", "-", "-"]
    results = {"kafka-4.4.0": Found("2026-11-30", [row]), "oldest": Found("2026-11-29", problems=["it failed"])}
    page = filled(PAGE.read_text(), results)
    _, _, table = page.partition(BEGIN)
    table, _, _ = table.partition(END)
    assert "Run: 2026-11-29 to 2026-11-30." in table
    assert "| 4.4.0 | 3.14 | oldest | 1 passed |" in table
    assert "- Failed: it failed\n" in table
    assert filled(page, results) == page
    with pytest.raises(ValueError, match="no results"):
        filled(page, {})
