"""`flux doctor`."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from flux.cli.options import GIVEN_ADAPTER, adapter_option, json_option, load_option, tasks_argument

if TYPE_CHECKING:
    from flux.cli.clusters import OpenTask
    from flux.core.policy import Policy
    from flux.core.ports import AdminPort, Cluster
    from flux.core.stage import Stages
    from flux.operate.doctor import ClockDifference, Facts, Finding, Unknown
    from flux.task import Task


@click.command(
    epilog="""\b
Examples:
  flux doctor --load billing.py Billing
  flux doctor --load billing.py
  flux doctor --load billing.py Billing --fix
  flux doctor --load billing.py Billing --clock --json | jq -r '.findings[].about'

Exit code 1 when there are findings."""
)
@load_option
@adapter_option
@click.option("--fix", is_flag=True, help="Create missing topics, and fix settings of retry and dead-letter topics.")
@click.option("--control", is_flag=True, help="Check what workers with --control need: the topics of commands.")
@click.option("--clock", is_flag=True, help="Compare clocks, by a temporary topic.")
@json_option("Print a JSON object per task.")
@tasks_argument
@click.pass_context
def command(
    ctx: click.Context,
    sources: tuple[str, ...],
    fix: bool,
    control: bool,
    clock: bool,
    as_json: bool,
    tasks: tuple[str, ...],
) -> None:
    """Check what tasks rely on: topics, settings, groups, permissions, clocks.

    Each finding is one line that says what to do. What cannot be checked is listed as not checked. Without TASK, all
    tasks of the loaded code are checked.
    """
    from flux.cli.clusters import opening
    from flux.cli.load_code import find_tasks

    chosen = find_tasks(sources, tasks)
    found = 0
    for cls in chosen:
        with opening(cls) as opened:
            facts, findings, done = _examine(opened, sources, fix, control, clock, as_json)
        found += len(findings)
        if as_json:
            click.echo(json.dumps(_report(facts, opened.adapter.cluster, findings, done)))
        else:
            _show(facts, findings, named=len(chosen) > 1)
    ctx.exit(1 if found else 0)


def _examine(
    opened: OpenTask, sources: Sequence[str], fix: bool, control: bool, clock: bool, as_json: bool
) -> tuple[Facts, Sequence[Finding], Sequence[str]]:
    """What is known and found, and the lines about what was fixed."""
    from functools import partial

    from flux.operate.doctor import examine, fix_findings
    from flux.operate.doctor.collect import NO_CLOCK, collect_facts
    from flux.schedules import schedules_in

    policy, adapter, admin = opened.policy, opened.adapter, opened.admin
    policy.check()
    measured = _measure(adapter, admin, policy.stages.topic) if clock else NO_CLOCK
    collect = partial(
        collect_facts,
        opened.name,
        policy,
        admin,
        others=_others(sources, opened.cls, adapter.cluster),
        unwritable=_unwritable(adapter),
        untransactional=_untransactional(adapter, policy) if policy.exactly_once else "",
        task=_named(sources, opened.cls),
        adapter=adapter,
        control=control,
        schedules=schedules_in(opened.cls),
    )
    facts = collect(clock=measured)
    findings = examine(facts)
    done: list[str] = []
    if fix and any(finding.fixable for finding in findings):
        for line in fix_findings(findings, policy, admin):
            done.append(line)
            if not as_json:
                _print("fixed", line, fg="green")
        facts = collect(clock=measured)
        findings = examine(facts)
    return facts, findings, done


def _named(sources: Sequence[str], cls: type[Task]) -> str:
    """The arguments by which the task was given to this command, and its cluster, if that cannot show a password."""
    url = click.get_current_context().meta.get(GIVEN_ADAPTER) or ""
    given = [each for source in sources for each in ("--load", source)]
    given += ["--adapter", url] if url and not set(url) & {"@", "?"} else []
    return shlex.join([*given, cls.__name__ if sources else f"{cls.__module__}:{cls.__name__}"])


def _others(sources: Sequence[str], cls: type[Task], cluster: str) -> list[tuple[str, Stages]]:
    """Other loaded tasks on the same cluster."""
    from flux.cli.load_code import load, tasks_in
    from flux.config import resolve_adapter
    from flux.core.errors import FluxError

    modules = {module.__name__: module for module in (*map(load, sources), sys.modules[cls.__module__])}
    found: list[tuple[str, Stages]] = []
    for other in dict.fromkeys(each.task for module in modules.values() for each in tasks_in(module)):
        if not other.topic or (other.__module__, other.__qualname__) == (cls.__module__, cls.__qualname__):
            continue
        try:
            stages = other.policy().stages
            if resolve_adapter(other.adapter).cluster == cluster:
                stages.check()
                found.append((other.__name__, stages))
        except FluxError:
            continue  # found when that task is examined
    return found


def _unwritable(adapter: Cluster) -> str:
    """Why a producer with the process's compression cannot be made; empty: it can."""
    from flux.config import current
    from flux.core.errors import ConfigurationError

    if current.producer.compression != "none":
        try:
            adapter.producer(current.producer.settings).close(0)
        except ConfigurationError as error:
            return str(error)
    return ""


def _untransactional(adapter: Cluster, policy: Policy) -> str:
    """Why a worker cannot write transactions; empty: it can."""
    from flux.consuming.transaction_thread import TransactionThreads
    from flux.core.errors import BrokerError, ConfigurationError
    from flux.core.ports import ProducerSettings
    from flux.operate.doctor.collect import FATAL_FAULTS
    from flux.system import SYSTEM

    threads = TransactionThreads(SYSTEM)
    try:
        threads.prepare("the task", adapter, policy.stages.group, ProducerSettings())
    except (BrokerError, ConfigurationError) as error:
        if isinstance(error, BrokerError) and error.fault in FATAL_FAULTS:
            return ""  # what follows says so
        return str(error)
    finally:
        threads.leave(None)
    return ""


def _measure(adapter: Cluster, admin: AdminPort, topic: str) -> ClockDifference | Unknown:
    from flux.core.errors import BrokerError
    from flux.operate.doctor.clock import measure_clock
    from flux.operate.doctor.collect import FATAL_FAULTS, NO_CLOCK
    from flux.operate.doctor.facts import Unknown

    try:
        return measure_clock(adapter, admin, topic)
    except BrokerError as error:
        if error.fault in FATAL_FAULTS:
            raise
        return Unknown(NO_CLOCK.what, str(error))


def _report(facts: Facts, cluster: str, findings: Sequence[Finding], done: Sequence[str]) -> dict[str, object]:
    clock = facts.clock
    return {
        "task": facts.name,
        "cluster": cluster,
        "findings": [
            {
                "check": finding.check,
                "about": finding.about,
                "problem": finding.problem,
                "remedy": finding.remedy,
                "fixable": finding.fixable,
            }
            for finding in findings
        ],
        "fixed": list(done),
        "not_checked": [{"what": unknown.what, "why": unknown.why} for unknown in facts.unknown],
        "clock": None if clock is None else {"ahead": round(clock.ahead, 4), "error": round(clock.error, 4)},
    }


def _show(facts: Facts, findings: Sequence[Finding], named: bool) -> None:
    if named:
        _print("task", facts.name, bold=True)
    for finding in findings:
        _print(finding.check, str(finding), fg="red", bold=True)
    for unknown in facts.unknown:
        _print("not checked", str(unknown), fg="yellow")
    if facts.clock is not None:
        _print("clock", f"{facts.clock.ahead:+.3f} s from the broker's, ±{facts.clock.error:.3f} s")
    if not findings:
        _print("ok", f"{facts.name}: no problems found", fg="green", bold=True)


def _print(what: str, line: str, **style: Any) -> None:
    from flux.core.text import one_line
    from flux.operate.doctor import CHECKS

    click.echo(f"{click.style(what.ljust(max(map(len, CHECKS))), **style)}  {one_line(line)}")
