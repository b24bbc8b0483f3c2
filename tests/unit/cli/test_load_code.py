from __future__ import annotations

import click
import pytest

from flux.cli.load_code import find_task, find_tasks, load
from unit.support.cli_support import Flux, flux_cli

__all__ = ["flux_cli"]

TWO = """
    import flux
    from flux import Task

    class Base(Task):
        def call(self, message): pass

    class Billing(Base):
        topic, group_id = "orders", "billing"

    @flux.task(topic="orders", group_id="shipping")
    def ship(message): pass
"""
ONE = """
    import flux
    class Base(flux.Task):
        pass
    class Billing(Base):
        topic, group_id = "orders", "billing"
        def call(self, message): pass
"""


def test_a_task_is_found_by_its_name_in_a_file(flux_cli: Flux) -> None:
    file = flux_cli.file(TWO)
    assert find_task([file], "Billing").group_id == "billing"
    assert find_task([file], "ship").group_id == "shipping"
    assert [task.group_id for task in find_tasks([file], ["ship", "Billing"])] == ["shipping", "billing"]


def test_a_task_named_twice_is_one(flux_cli: Flux) -> None:
    assert len(find_tasks([flux_cli.file(ONE)], ["Billing", "Billing"])) == 1


def test_the_only_task_with_a_topic_needs_no_name(flux_cli: Flux) -> None:
    assert find_task([flux_cli.file(ONE)], None).__name__ == "Billing"


def test_among_several_a_name_is_required_and_all_are_listed(flux_cli: Flux) -> None:
    with pytest.raises(click.UsageError, match="name a task: found Base, Billing, ship"):
        find_task([flux_cli.file(TWO)], None)


def test_without_a_name_a_command_that_takes_several_gets_all_tasks_with_a_topic(flux_cli: Flux) -> None:
    assert [task.__name__ for task in find_tasks([flux_cli.file(TWO)], [])] == ["Billing", "ship"]
    with pytest.raises(click.UsageError, match="name another file or a task"):
        find_tasks([flux_cli.file("x = 1")], [])


def test_an_unknown_name_lists_what_there_is(flux_cli: Flux) -> None:
    with pytest.raises(click.UsageError, match="no task Bling: found Base, Billing, ship"):
        find_task([flux_cli.file(TWO)], "Bling")


def test_a_file_without_tasks_says_so(flux_cli: Flux) -> None:
    with pytest.raises(click.UsageError, match=r"no subclass of flux\.Task"):
        find_task([flux_cli.file("x = 1")], None)


def test_a_name_in_two_files_is_ambiguous_until_the_module_is_given(flux_cli: Flux) -> None:
    flux_cli.file(ONE, "shop_a.py")
    flux_cli.file(ONE.replace("billing", "other"), "shop_b.py")
    with pytest.raises(click.UsageError, match="Billing could be shop_a:Billing or shop_b:Billing"):
        find_task(["shop_a.py", "shop_b.py"], "Billing")
    assert find_task(["shop_a.py", "shop_b.py"], "shop_b:Billing").group_id == "other"


def test_a_task_that_another_file_imports_is_still_one(flux_cli: Flux) -> None:
    flux_cli.file(ONE, "shop_c.py")
    flux_cli.file("from shop_c import Billing", "shop_d.py")
    assert find_task(["shop_c.py", "shop_d.py"], "Billing").group_id == "billing"
    assert find_task(["shop_c.py", "shop_d.py"], None).group_id == "billing"


def test_a_module_is_imported_from_the_current_directory(flux_cli: Flux) -> None:
    flux_cli.file(ONE, "shop_e.py")
    assert find_task([], "shop_e:Billing").group_id == "billing"
    assert find_task(["shop_e"], None).group_id == "billing"


def test_a_file_of_a_package_may_import_relatively(flux_cli: Flux) -> None:
    (flux_cli.directory / "shop_f").mkdir()
    flux_cli.file("", "shop_f/__init__.py")
    flux_cli.file(ONE, "shop_f/base.py")
    flux_cli.file("from .base import Billing", "shop_f/tasks.py")
    assert load("shop_f/tasks.py").__name__ == "shop_f.tasks"
    assert load("shop_f/__init__.py").__name__ == "shop_f"


def test_a_file_named_as_a_module_in_use_does_not_replace_it(flux_cli: Flux) -> None:
    import json

    flux_cli.file(ONE, "json.py")
    assert find_task(["json.py"], None).group_id == "billing"
    import sys

    assert sys.modules["json"] is json


@pytest.mark.parametrize("source", ["nowhere.py", "no/where", "no.where", "not a name", ".."])
def test_what_is_not_there_is_wrong_usage(flux_cli: Flux, source: str) -> None:
    with pytest.raises(click.UsageError, match=r"there is no|neither a file nor"):
        load(source)


def test_code_that_fails_is_reported_with_the_users_own_line(flux_cli: Flux) -> None:
    file = flux_cli.file("def f():\n    return nmae\nx = f()\n", "fails.py")
    with pytest.raises(click.ClickException) as failed:
        load(file)
    assert failed.value.message.splitlines() == [
        f"cannot load {file}: fails.py:2: NameError: name 'nmae' is not defined",
        "    fails.py:3: x = f()",
        "    fails.py:2: return nmae",
    ]


def test_code_that_is_no_python_is_reported_with_its_line(flux_cli: Flux) -> None:
    with pytest.raises(click.ClickException, match=r"broken\.py:2: SyntaxError"):
        load(flux_cli.file("x = 1\ndef f(:\n", "broken.py"))


def test_a_missing_dependency_of_the_users_code_is_no_wrong_usage(flux_cli: Flux) -> None:
    flux_cli.file("import nosuchlibrary", "shop_g.py")
    with pytest.raises(click.ClickException, match="No module named 'nosuchlibrary'") as failed:
        load("shop_g")
    assert not isinstance(failed.value, click.UsageError)


def test_code_that_exits_is_reported(flux_cli: Flux) -> None:
    with pytest.raises(click.ClickException, match="ends the process"):
        load(flux_cli.file("raise SystemExit(4)"))
