"""`flux process`."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flux.cli import log
from flux.cli.options import adapter_option, load_option, report_topic_option, tasks_argument

if TYPE_CHECKING:
    from flux.task import Task
    from flux.worker import Worker


@click.command(
    epilog="""\b
Examples:
  flux process --load billing.py
  flux process --load billing.py --adapter confluent://localhost:9092 --create-topics Billing
  flux process --load shop.tasks --stages 1-5 --processes 4 Billing Shipping
  flux process --load billing.py --metrics-port 9464 --log-format json --report
  flux process shop.tasks:Billing

\b
Exit codes: 0 done or stopped by a signal, 1 failed, 2 wrong usage, 3 calls had to be abandoned,
4 stopped by flux restart, to be started again."""
)
@load_option
@click.option(
    "--stages", metavar="S", help="Stages to run, such as 3, 1-6 or 0,2-4; 0 is the main topic. Default: all."
)
@adapter_option
@click.option(
    "--processes",
    type=click.IntRange(1, 256),
    default=1,
    metavar="N",
    help="Number of processes; each runs all the stages.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1),
    metavar="N",
    help="Calls in flight per process; default: the task's setting.",
)
@click.option("--create-topics", is_flag=True, help="Create missing topics.")
@click.option("--exit-when-idle", type=click.FloatRange(0), metavar="SECONDS", help="Exit after SECONDS without work.")
@click.option("--reload", is_flag=True, help="Restart when a Python file changes. For development.")
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Serve /metrics (Prometheus), /live and /ready, for all processes together.",
)
@click.option(
    "--metrics-host", metavar="ADDRESS", default="0.0.0.0", show_default=True, help="Address to serve them on."
)
@click.option(
    "--report", is_flag=True, help="Publish this worker's status every 5 s, in a topic that flux status reads."
)
@report_topic_option
@click.option("--control", is_flag=True, help="Obey flux pause, resume, set-rate, restart and skip. Turns --report on.")
@click.option("--log-calls", is_flag=True, help="Log a line for each call. It slows quick calls down.")
@click.option("--log-level", type=click.Choice(log.LEVELS, case_sensitive=False), default="info", show_default=True)
@click.option(
    "--log-format",
    type=click.Choice(log.FORMATS, case_sensitive=False),
    default="text",
    show_default=True,
    help="json: one object per line, with the fields of each event.",
)
@click.option("--metrics-socket", type=click.Path(path_type=Path), hidden=True)
@click.option("--process-number", type=int, hidden=True)
@click.option("--lifeline", type=int, hidden=True)
@tasks_argument
@click.pass_context
def command(
    ctx: click.Context,
    sources: tuple[str, ...],
    stages: str | None,
    processes: int,
    concurrency: int | None,
    create_topics: bool,
    exit_when_idle: float | None,
    reload: bool,
    metrics_port: int | None,
    metrics_host: str,
    report: bool,
    report_topic: str | None,
    control: bool,
    log_calls: bool,
    log_level: str,
    log_format: str,
    metrics_socket: Path | None,
    process_number: int | None,
    lifeline: int | None,
    tasks: tuple[str, ...],
) -> None:
    """Run a worker until it is stopped.

    TASK is the name of a loaded task class, or module:Class; without one all tasks of the loaded code run, which flux
    tasks lists. SIGINT, SIGTERM and SIGHUP stop the worker gracefully: it waits for running calls and commits what is
    done. A second one stops it at once.
    """
    from flux.cli.load_code import explain, find_tasks, raised_by_user
    from flux.core.errors import FluxError

    log.configure(log_level, process_number, log_format)
    if reload:
        ctx.exit(_reload(sources, processes, exit_when_idle))
    chosen = find_tasks(sources, tasks)
    _check_stages(stages, chosen)
    if metrics_port is not None:
        _check_metrics()
    if log_calls:
        _log_calls()

    def worker() -> Worker:
        from flux.worker import Worker

        return Worker(
            *chosen,
            stages=stages,
            concurrency=concurrency,
            create_topics=create_topics,
            exit_when_idle=exit_when_idle,
            metrics_port=metrics_socket or metrics_port,
            metrics_host=metrics_host,
            report=(report or control) and (report_topic or True),
            control=control,
            process=process_number,
            instance_suffix="" if process_number is None else f"-{process_number}",
        )

    if processes > 1 and process_number is None:
        ctx.exit(_supervise(worker(), processes, metrics_port, metrics_host))
    working = worker()
    if lifeline is not None:
        _follow(lifeline, working)
    try:
        code = working.run()
    except (FluxError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        if not raised_by_user(error):
            raise
        raise click.ClickException(f"the task could not start: {explain(error)}") from None
    ctx.exit(code)


def _check_stages(stages: str | None, tasks: Sequence[type[Task]]) -> None:
    from flux.core.errors import ConfigurationError
    from flux.core.stage import parse_stages

    if stages is None:
        return
    for task in tasks:
        retries = task.policy().stages.retries
        try:
            parse_stages(stages, retries)
        except ConfigurationError as error:
            raise click.UsageError(f"{task.__name__}: {error}") from None


def _log_calls() -> None:
    from flux import config
    from flux.observe.call_log import CallLog

    config.configure(hooks=[*config.current.hooks, CallLog()])


def _check_metrics() -> None:
    """Else it is the first scrape that fails."""
    from importlib.util import find_spec

    from flux.observe.server import MISSING

    if find_spec("prometheus_client") is None:
        raise click.ClickException(f"--metrics-port: {MISSING}")


def _supervise(checked: Worker, processes: int, metrics_port: int | None, metrics_host: str) -> int:
    """`checked`: a worker that was created here, so that a mistake is reported once and not by each child."""
    from flux.config import resolve_adapter
    from flux.observe.gather import gathering
    from flux.processes.supervisor import Supervisor

    for task in checked.tasks:
        adapter = resolve_adapter(task.adapter)
        if not adapter.shares_processes:
            raise click.UsageError(f"{adapter.cluster} exists in one process only: leave out --processes")
    given = _for_children()

    def child(number: int, lifeline: int) -> list[str]:
        own = [f"--process-number={number}", f"--lifeline={lifeline}"]
        if number in sockets:
            own.append(f"--metrics-socket={sockets[number]}")
        return [sys.executable, "-P", "-m", "flux.cli.main", "process", *own, *given]

    with gathering(processes, metrics_port, metrics_host) as sockets:
        return Supervisor(child, processes).run()


def _reload(sources: Sequence[str], processes: int, exit_when_idle: float | None) -> int:
    from flux.cli.reload import reload

    if processes > 1 or exit_when_idle is not None:
        raise click.UsageError("--reload cannot be combined with --processes or --exit-when-idle")
    given = _for_children()
    given.remove("--reload")
    return reload(given, sources)


def _for_children() -> list[str]:
    """The arguments of this command; the adapter's URL is in the environment instead."""
    given, url = _without_adapter(sys.argv[sys.argv.index("process") + 1 :])
    if url is not None:
        os.environ["FLUX_ADAPTER"] = url  # it may hold a password, and all users of the machine see command lines
    return given


def _without_adapter(given: Sequence[str]) -> tuple[list[str], str | None]:
    """The arguments without `--adapter`, and its value."""
    left: list[str] = []
    url: str | None = None
    rest = iter(given)
    for each in rest:
        if each == "--":
            left += [each, *rest]
        elif each == "--adapter":
            url = next(rest, url)
        elif each.startswith("--adapter="):
            url = each.removeprefix("--adapter=")
        else:
            left.append(each)
    return left, url


def _follow(lifeline: int, worker: Worker) -> None:
    """Stops the worker when the supervisor is gone, however it ended: then the pipe that it holds is closed."""
    os.set_inheritable(lifeline, False)

    def watch() -> None:
        while os.read(lifeline, 1):
            pass
        worker.stop()

    threading.Thread(target=watch, name="flux-lifeline", daemon=True).start()
