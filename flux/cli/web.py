"""`flux web`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from flux.cli.options import adapter_option, every_option, load_option, report_topic_option, task_names

if TYPE_CHECKING:
    from flux.task import Task
    from flux.web.options import WebOptions
    from flux.web.redaction import RedactionFunction

PORT = 7373


@click.command(
    epilog="""\b
Examples:
  flux web --load billing.py
  flux web --load billing.py Billing Mails --read-only
  FLUX_WEB_TOKEN=… flux web --load billing.py --host 0.0.0.0 --allow-host flux.example.com

It needs the extra: pip install "super-flux[web]"."""
)
@load_option
@adapter_option
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=PORT,
    show_default=True,
    metavar="N",
    help="Port to listen on; 0: any free one.",
)
@click.option(
    "--token",
    envvar="FLUX_WEB_TOKEN",
    show_envvar=True,
    metavar="SECRET",
    help="Access token; required unless --host is this machine only.",
)
@click.option(
    "--allow-host", "hosts", multiple=True, metavar="NAME", help="An extra allowed Host header, such as a proxy's."
)
@click.option("--root-path", default="", metavar="PATH", help="Path prefix that a proxy adds, such as /flux.")
@click.option("--read-only", is_flag=True, help="Forbid replays and deletions.")
@click.option(
    "--redact", metavar="MODULE:FUNCTION", help="Your function that hides parts of records, or flux.web.redaction:hide."
)
@every_option(1, 5.0, "Refresh interval, for all visitors together.")
@report_topic_option
@click.argument("tasks", nargs=-1, metavar="[TASK]...", shell_complete=task_names)
def command(
    sources: tuple[str, ...],
    host: str,
    port: int,
    token: str | None,
    hosts: tuple[str, ...],
    root_path: str,
    read_only: bool,
    redact: str | None,
    every: float,
    report_topic: str | None,
    tasks: tuple[str, ...],
) -> None:
    """Serve web pages that show tasks: their lag, what blocks them, their workers and dead letters.

    Without TASK, all tasks of the loaded code are shown. Ctrl-C stops the server.
    """
    from flux.cli import log
    from flux.cli.load_code import find_tasks
    from flux.core.monitoring.report import TOPIC

    needs_extra()
    from flux.core.errors import ConfigurationError
    from flux.web.options import WebOptions, hosts_of

    log.quiet()
    found = find_tasks(sources, tasks)
    if root_path and (not root_path.startswith("/") or root_path.endswith("/")):
        raise click.UsageError("--root-path must look like /flux")
    allowed = hosts_of(host, frozenset(hosts))
    function = None if redact is None else _redaction_function(redact)
    try:
        options = WebOptions(
            token=token or None,
            hosts=allowed,
            read_only=read_only,
            redact=function,
            every=every,
            report_topic=report_topic or TOPIC,
            cookie=f"flux-web-{port}",
        )
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from None
    serve(found, options, host, port, root_path)


def serve(tasks: Sequence[type[Task]], options: WebOptions, host: str, port: int, root_path: str = "") -> None:
    """Until Ctrl-C."""
    from flux.web.app import WebServer, address_of, listening
    from flux.web.page_context import PageContext

    context = PageContext(tasks, options)
    try:
        with listening(host, port) as listener:
            click.echo(f"{address_of(listener, host, root_path)}  (Ctrl-C to stop)", err=True)
            WebServer(context, root_path).run(sockets=[listener])
    except KeyboardInterrupt:  # the server raises it again when it has stopped
        pass
    finally:
        context.close()


def needs_extra() -> None:
    from importlib.util import find_spec

    if not all(find_spec(name) for name in ("starlette", "uvicorn", "jinja2")):
        raise click.ClickException('flux web needs an extra: pip install "super-flux[web]"')


def _redaction_function(name: str) -> RedactionFunction:
    from flux.cli.load_code import load

    module, _, function = name.partition(":")
    found = getattr(load(module), function, None) if module and function else None
    if not callable(found):
        raise click.UsageError(f"--redact {name}: give MODULE:FUNCTION, such as flux.web.redaction:hide")
    hook: RedactionFunction = found
    return hook
