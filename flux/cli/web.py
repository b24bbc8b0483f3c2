"""`flux web`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flux.cli.options import adapter_option, every_option, load_option, report_topic_option, task_names

if TYPE_CHECKING:
    from flux.core.ports.outbox import OutboxStore
    from flux.task import Task
    from flux.web.options import WebOptions
    from flux.web.redaction import RedactionFunction
    from flux.web.users import AccessToken, ProxyLogin

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
    help="Access token of an administrator; a login is required unless --host is this machine only.",
)
@click.option(
    "--tokens",
    envvar="FLUX_WEB_TOKENS",
    show_envvar=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Users' tokens: lines of ROLE NAME TOKEN. ROLE: viewer, operator or admin.",
)
@click.option(
    "--auth-header",
    metavar="NAME",
    help="Header in which a proxy names the user that it has logged in, such as X-Forwarded-User.",
)
@click.option(
    "--auth-groups-header", metavar="NAME", help="Header with that user's groups, such as X-Forwarded-Groups."
)
@click.option(
    "--trust-proxy",
    "proxies",
    multiple=True,
    metavar="ADDRESS",
    help="Address of the proxy: --auth-header is believed from there alone.",
)
@click.option(
    "--grant",
    "grants",
    multiple=True,
    metavar="ROLE=NAME",
    help="Role of a user of --auth-header, or of a group as ROLE=@GROUP; without one: viewer.",
)
@click.option(
    "--allow-host", "hosts", multiple=True, metavar="NAME", help="An extra allowed Host header, such as a proxy's."
)
@click.option("--root-path", default="", metavar="PATH", help="Path prefix that a proxy adds, such as /flux.")
@click.option("--read-only", is_flag=True, help="Forbid replays and deletions.")
@click.option(
    "--redact", metavar="MODULE:FUNCTION", help="Your function that hides parts of records, or flux.web.redaction:hide."
)
@click.option(
    "--prometheus",
    metavar="URL",
    envvar="FLUX_WEB_PROMETHEUS",
    show_envvar=True,
    help="A Prometheus that scrapes the workers: for a history of up to 30 days.",
)
@click.option(
    "--prometheus-selector",
    default="",
    metavar="MATCHERS",
    help='Labels of these workers there, such as namespace="shop".',
)
@click.option(
    "--audit-file",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write down here who did what, instead of in the audit topic.",
)
@click.option(
    "--outbox",
    metavar="URL",
    envvar="FLUX_DATABASE",
    show_envvar=True,
    help="The database of an outbox to show, as for flux relay.",
)
@click.option("--outbox-table", metavar="NAME", default="flux_outbox", show_default=True, help="The outbox's table.")
@every_option(1, 5.0, "Refresh interval, for all visitors together.")
@report_topic_option
@click.argument("tasks", nargs=-1, metavar="[TASK]...", shell_complete=task_names)
def command(
    sources: tuple[str, ...],
    host: str,
    port: int,
    token: str | None,
    tokens: Path | None,
    auth_header: str | None,
    auth_groups_header: str | None,
    proxies: tuple[str, ...],
    grants: tuple[str, ...],
    hosts: tuple[str, ...],
    root_path: str,
    read_only: bool,
    redact: str | None,
    prometheus: str | None,
    prometheus_selector: str,
    audit_file: Path | None,
    outbox: str | None,
    outbox_table: str,
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
            tokens=[] if tokens is None else _tokens(tokens),
            proxy_login=_proxy_login(auth_header, auth_groups_header, proxies, grants),
            hosts=allowed,
            read_only=read_only,
            redact=function,
            audit_file=None if audit_file is None else _writable(audit_file),
            outbox=_outbox(outbox, outbox_table) if outbox else None,
            every=every,
            prometheus=prometheus or None,
            prometheus_selector=prometheus_selector,
            report_topic=report_topic or TOPIC,
            cookie=f"flux-web-{port}",
        )
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from None
    serve(found, options, host, port, root_path)


def _tokens(file: Path) -> list[AccessToken]:
    from flux.core.errors import ConfigurationError
    from flux.web.users import read_tokens

    try:
        return read_tokens(file.read_text("utf-8"))
    except (OSError, ValueError, ConfigurationError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        if isinstance(error, UnicodeDecodeError):  # its text has a part of the file
            reason = "it is not UTF-8"
        raise ConfigurationError(f"--tokens {file}: {reason}") from None


def _proxy_login(
    header: str | None, groups_header: str | None, proxies: Sequence[str], grants: Sequence[str]
) -> ProxyLogin | None:
    from flux.web.users import ProxyLogin, grants_of, proxies_of

    if header is None:
        if groups_header or proxies or grants:
            raise click.UsageError("--auth-groups-header, --trust-proxy and --grant need --auth-header")
        return None
    users, groups = grants_of(grants)
    return ProxyLogin(header, proxies_of(proxies), users, groups, groups_header)


def _outbox(url: str, table: str) -> Callable[[], OutboxStore]:
    """Raises ConfigurationError for a URL that cannot be one."""
    from flux.outbox import open_store

    open_store(url, table)
    return partial(open_store, url, table)


def _writable(file: Path) -> Path:
    from flux.core.errors import ConfigurationError

    try:
        file.open("ab").close()
    except OSError as error:
        raise ConfigurationError(f"--audit-file {file}: {error.strerror}") from None
    return file


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
