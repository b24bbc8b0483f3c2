"""Names of stages on the cluster, clashes between them, and how a user chooses some."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.core.errors import ConfigurationError
from flux.core.stage import MOST_RETRIES, Role, Stages, check_apart, check_topic, parse_stages, shared_groups

STAGES = Stages("T", "G", 3)


def test_names_are_those_of_the_ruby_library() -> None:
    assert [(stage.topic, stage.group, stage.role) for stage in STAGES] == [
        ("T", "G", Role.MAIN),
        ("T-G-try-1", "G-1", Role.RETRY),
        ("T-G-try-2", "G-2", Role.RETRY),
        ("T-G-try-3", "G-3", Role.RETRY),
        ("T-G-dlq", "G-4", Role.DEAD),
    ]


def test_after_as_many_attempts_as_there_are_stages_a_record_is_dead() -> None:
    assert [STAGES.after_attempts(attempts).number for attempts in (1, 3, 4, 9)] == [1, 3, 4, 4]


def test_records_of_the_first_retry_topic_may_have_names() -> None:
    assert [stage.number for stage in STAGES if stage.has_names] == [1]
    none = Stages("T", "G", 0)
    assert [stage.number for stage in (*none, none.leftover(1)) if stage.has_names] == [1]
    assert not none[1].has_names


def test_stages_say_what_they_are() -> None:
    assert [str(stage) for stage in STAGES] == ["main", "retry 1", "retry 2", "retry 3", "dead letters"]
    assert str(STAGES.leftover(7)) == "leftover"


@pytest.mark.parametrize("number", [-1, 5])
def test_there_is_no_stage_outside(number: int) -> None:
    with pytest.raises(IndexError):
        STAGES[number]


def test_a_failure_goes_to_the_next_stage_and_from_the_last_nowhere() -> None:
    following = [STAGES.after(stage) for stage in STAGES]
    assert following == [*list(STAGES)[1:], None]
    assert STAGES.after(STAGES.leftover(9)) == STAGES[4]


def test_without_retries_a_failure_is_a_dead_letter() -> None:
    stages = Stages("T", "G", 0)
    assert stages.after(stages[0]) == stages[1]
    assert (stages[1].topic, stages[1].group) == ("T-G-dlq", "G-1")


def test_naming_changes_topics_and_groups() -> None:
    stages = Stages("T", "G", 1, lambda topic, group, stage: (f"p.{topic}.{stage}", f"p.{group}.{stage}"))
    assert [(s.topic, s.group) for s in stages] == [("p.T.0", "p.G.0"), ("p.T.1", "p.G.1"), ("p.T.2", "p.G.2")]


def test_retry_topics_beyond_retries_that_exist_are_leftovers() -> None:
    existing = {
        "T",
        "T-G-try-1",
        "T-G-try-4",
        "T-G-try-9",
        "T-G-dlq",
        "T-G-try-100",
        "T-G-try-101",
        "T-other-try-5",
        "T-G-try-x",
    }
    assert [(s.number, s.topic, s.group, s.role) for s in STAGES.leftovers(existing)] == [
        (4, "T-G-try-4", "G-4", Role.LEFTOVER),
        (9, "T-G-try-9", "G-9", Role.LEFTOVER),
        (100, "T-G-try-100", "G-100", Role.LEFTOVER),
    ]


def test_leftovers_follow_the_naming_and_are_named_once() -> None:
    numbered = Stages("T", "G", 1, lambda topic, group, stage: (f"{topic}.{min(stage, 5)}", group))
    assert [stage.number for stage in numbered.leftovers({"T.0", "T.1", "T.2", "T.4", "T.5"})] == [4, 5]


def test_a_naming_that_knows_no_stages_beyond_its_own_leaves_nothing_over() -> None:
    names = ["T", "T.retry", "T.dead"]
    stages = Stages("T", "G", 1, lambda topic, group, stage: (names[stage], group))
    assert stages.leftovers({"T", "T.retry", "T.dead", "T.x"}) == []
    assert stages.dead_groups() == ["G"]


def test_the_groups_of_the_dead_letters_under_any_number_of_retries() -> None:
    assert STAGES.dead_groups() == [f"G-{number}" for number in range(1, MOST_RETRIES + 2)]


@pytest.mark.parametrize(
    "stages",
    [
        Stages("", "G", 3),
        Stages("T", "", 3),
        Stages("T", "G", -1),
        Stages("T", "G", MOST_RETRIES + 1),
        Stages("T", "G", True),
        Stages("T", "G", 1.0),  # type: ignore[arg-type]
        Stages("T", 5, 1),  # type: ignore[arg-type]
        Stages("T", "G\ud800", 1),
        Stages("T" * 249, "G", 1),
        Stages("ä", "G", 1),
        Stages("T", "gruppe ü", 1),
        Stages("T", "G", 2, lambda t, g, s: (t, g)),
        Stages("T", "G", 1, lambda t, g, s: (t if s < 2 else "D", g)),
        Stages("T", "G", 2, lambda t, g, s: (f"{t}{s % 2}", g)),
        Stages("T", "G", 2, lambda t, g, s: (f"{t}{s}", "")),
        Stages("T", "G", 2, lambda t, g, s: f"{t}{s}"),  # type: ignore[arg-type, return-value]
        Stages("T", "G", 2, lambda t, g, s: None),  # type: ignore[arg-type, return-value]
        Stages("T", "G", 2, lambda t, g, s: (s, g)),  # type: ignore[arg-type, return-value]
        Stages("T", "G", 2, lambda t, g, s: 1 / 0),  # type: ignore[arg-type, return-value]
        Stages("T", "G", 2, "naming"),  # type: ignore[arg-type]
    ],
)
def test_names_that_cannot_work_are_refused_in_one_line(stages: Stages) -> None:
    with pytest.raises(ConfigurationError) as caught:
        stages.check()
    assert "\n" not in str(caught.value)


def test_a_forward_that_leads_to_itself_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="come back to itself"):
        Stages("T", "G", 2, lambda t, g, s: (f"{t}-retry" if s else t, f"{g}-{s}")).check()


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "x" * 249, "..."])
def test_topic_names_that_kafka_takes(name: str) -> None:
    check_topic(name)


@pytest.mark.parametrize("name", ["", ".", "..", "x" * 250, "a b", "a/b", "ä", "a\n", "a\0", None, b"a", 5])
def test_topic_names_that_kafka_refuses(name: object) -> None:
    with pytest.raises(ConfigurationError, match="topic"):
        check_topic(name)


def apart(*stages: Stages) -> None:
    check_apart([(f"Task{number}", one) for number, one in enumerate(stages)])


def test_tasks_that_share_a_topic_or_a_group_are_apart() -> None:
    apart(Stages("T", "G", 2), Stages("T", "H", 2), Stages("U", "G", 2))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Stages("T", "G", 2), Stages("T", "G", 3)),
        (Stages("T", "G", 2), Stages("T-G-try-1", "H", 2)),
        (Stages("T-G-dlq", "H", 2), Stages("T", "G", 2)),
        (Stages("T", "G-H", 1), Stages("T-G", "H", 1)),
        (Stages("T", "G", 1), Stages("U", "H", 1, lambda t, g, s: (f"T-G-try-{s + 1}", g))),
    ],
)
def test_tasks_whose_names_clash_are_refused(first: Stages, second: Stages) -> None:
    with pytest.raises(ConfigurationError) as caught:
        apart(first, second)
    assert "Task0" in str(caught.value)
    assert "Task1" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("3", [3]),
        ("1-6", [1, 2, 3, 4, 5, 6]),
        ("0,2-4", [0, 2, 3, 4]),
        (" 4 , 2 - 3".replace(" - ", "-"), [2, 3, 4]),
        ("5,5,4-5", [4, 5]),
        ("0-6", [0, 1, 2, 3, 4, 5, 6]),
        ("2-2", [2]),
    ],
)
def test_stages_are_chosen_by_numbers_and_ranges(text: str, numbers: list[int]) -> None:
    assert parse_stages(text, 5) == numbers


@pytest.mark.parametrize(
    "text", ["", ",", "1,", "7", "0-7", "3-1", "-1", "1-", "1--2", "a", "1.5", "1 2", "1;2", "9" * 5000, "٣", "1\n2"]
)
def test_a_choice_that_cannot_be_is_a_clear_error(text: str) -> None:
    with pytest.raises(ConfigurationError, match="stages"):
        parse_stages(text, 5)


@given(
    st.one_of(st.text(), st.text(alphabet="0123456789-, ", max_size=12), st.from_regex(r"(\d+(-\d+)?,?)+")),
    st.integers(0, MOST_RETRIES),
)
def test_whatever_is_written_is_stages_or_a_configuration_error(text: str, retries: int) -> None:
    try:
        numbers = parse_stages(text, retries)
    except ConfigurationError:
        return
    assert numbers == sorted(set(numbers))
    assert numbers
    assert numbers[0] >= 0
    assert numbers[-1] <= retries + 1


def test_a_stages_naming_is_asked_with_the_tasks_own_names() -> None:
    asked: list[Any] = []

    def naming(topic: str, group: str, stage: int) -> tuple[str, str]:
        asked.append((topic, group, stage))
        return f"{topic}{stage}", group

    list(Stages("T", "G", 1, naming))
    assert asked == [("T", "G", 0), ("T", "G", 1), ("T", "G", 2)]


def test_names_that_kafka_takes_pass() -> None:
    Stages("T", "G", 25).check()
    Stages("T", "G", 2, lambda t, g, s: (f"{t}{s}", f"{g}{s}")).check()


def test_a_choice_of_stages_is_a_text() -> None:
    with pytest.raises(ConfigurationError, match="as a text"):
        parse_stages(3, 5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("stages", "text"),
    [
        (Stages("T", "G", 101), "retries = 101: give a whole number, 0 or more, at most 100"),
        (Stages("T", "G", -1), "retries = -1: give a whole number, 0 or more, at most 100"),
        (
            Stages("T", "G", 2, "naming"),  # type: ignore[arg-type]
            "naming = 'naming': give a callable (topic, group, stage) -> (topic, group)",
        ),
        (
            Stages("T", "G", 2, lambda t, g, s: f"{t}{s}"),  # type: ignore[arg-type, return-value]
            "naming gave 'T0' for stage 0: make it return (topic, group)",
        ),
        (
            Stages("T", "G", 2, lambda t, g, s: 1 / 0),  # type: ignore[arg-type, return-value]
            "naming raised ZeroDivisionError: division by zero for stage 0: make it return (topic, group)",
        ),
        (
            Stages("T T", "G", 1),
            "topic 'T T': Kafka takes 1 to 249 of the characters a-z, A-Z, 0-9, '.', '_' and '-'",
        ),
        (
            Stages("T", "", 1),
            "the group of stage 0 is '': set group_id (or make naming return) to 1 to 1000 characters that can be"
            " printed",
        ),
        (
            Stages("T", "G", 1, lambda t, g, s: (f"{t}{min(s, 1)}", g)),
            "stages 1 and 2 of T have the same topic T1: a failed record would come back to itself; change naming",
        ),
    ],
)
def test_a_refused_name_is_shown_with_what_helps(stages: Stages, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        stages.check()
    assert str(caught.value) == text


def test_a_group_has_up_to_1000_characters() -> None:
    Stages("T", "G" * 1000, 0, lambda t, g, s: (f"{t}{s}", g)).check()
    with pytest.raises(ConfigurationError):
        Stages("T", "G" * 1001, 0, lambda t, g, s: (f"{t}{s}", g)).check()


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (Stages("T", "G", 2), "Task0 and Task1 both consume topic T as group G: give one of them another group_id"),
        (
            Stages("U", "H", 1, lambda t, g, s: ("T-G-try-1" if s else "U", g)),
            "Task0 and Task1 would share the topic T-G-try-1: change topic, group_id or naming",
        ),
        (
            Stages("T-G-dlq", "H", 1),
            "Task1 consumes topic T-G-dlq, which Task0 forwards its failures to: change topic, group_id or naming",
        ),
    ],
)
def test_a_clash_is_named_with_what_helps(other: Stages, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        apart(Stages("T", "G", 1), other)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("chosen", "text"),
    [
        ("x", "stages 'x': write numbers and ranges, such as 3, 1-6 or 0,2-4"),
        (5, "stages 5: write numbers and ranges as a text, such as '3' or '0,2-4'"),
        ("0, 4-2 ", "stages '0, 4-2 ': the range 4-2 is backwards"),
        ("0-3,9", "stages '0-3,9': with retries = 2 the stages are 0 to 3 (3 being the dead letters)"),
    ],
)
def test_a_refused_choice_is_shown_with_what_helps(chosen: Any, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_stages(chosen, 2)
    assert str(caught.value) == text


def test_tasks_that_share_a_group_on_different_topics_are_warned_of() -> None:
    tasks = [("Bills", Stages("T", "G", 2)), ("Refunds", Stages("U", "G", 2)), ("Mails", Stages("T", "H", 2))]
    [warning] = shared_groups(tasks)
    assert warning.startswith(
        "Bills (T), Refunds (U) have the same group_id, 'G': each start and stop of one rebalances"
    )
    assert shared_groups(tasks[1:]) == []


def test_the_topic_of_keys_is_named_like_the_retry_topics() -> None:
    assert Stages("t", "g", 1).keys_topic == "t-g-keys"
    named = Stages("t", "g", 1, lambda topic, group, stage: (f"x.{topic}.{stage}", group))
    assert named.keys_topic == "x.t.1-keys"


def test_a_worker_writes_to_the_topics_of_later_stages_and_to_that_of_keys() -> None:
    stages = Stages("t", "g", 1)
    assert stages.written_topics(False) == ["t-g-try-1", "t-g-dlq"]
    assert stages.written_topics(True) == ["t-g-try-1", "t-g-dlq", "t-g-keys"]
