"""The entry point of `flux`: turns every end into an exit code and every error into one line."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import click

from flux._version import __version__
from flux.cli import LazyGroup, output
from flux.cli.output import try_print_error
from flux.core.errors import FluxError

ABANDONED = 3
"""The exit code of a worker that abandoned calls."""
_INTERRUPTED = 130
_LAST_DELIVERY = 10.0

COMMANDS = {
    "demo": "Run a demonstration on an in-memory broker.",
    "process": "Run a worker until it is stopped.",
    "init": "Write a first task, its test, and a compose file with Kafka.",
    "tasks": "List the tasks in your code.",
    "asyncapi": "Print the AsyncAPI document of your code.",
    "topics": "Show a task's topics, or create them.",
    "doctor": "Check what a task relies on: topics, settings, permissions, clocks.",
    "status": "Show a task's lag, and what blocks it.",
    "waiting": "List the records that wait in a task's retry topics.",
    "cancel": "Take back delayed work before it starts.",
    "trace": "Find where a record is now, and where it was.",
    "pause": "Let the workers of a task start no calls.",
    "resume": "Let the workers of a paused task go on.",
    "set-rate": "Set the rate limit of a running task.",
    "restart": "Restart the processes of a task.",
    "skip": "Move a record that blocks a partition to the dead letters.",
    "dlq": "Inspect dead letters, find their causes, replay them.",
    "web": "Serve web pages that show tasks and dead letters.",
    "backoff": "Show how long records wait before each retry.",
    "relay": "Move records from an outbox to Kafka.",
    "produce": "Write the lines of a file, or of standard input, to a topic.",
}


MODULES = {
    "pause": "control:pause",
    "resume": "control:resume",
    "set-rate": "control:set_rate",
    "restart": "control:restart",
}
"""Those that share a module."""


class Commands(LazyGroup):
    package = "flux.cli"
    known = {name: (MODULES.get(name, name), text) for name, text in COMMANDS.items()}

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            ctx.fail(f"there is no command {args[0]!r}; the commands are {', '.join(COMMANDS)}")
        return super().resolve_command(ctx, args)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Raises SystemExit: 0, 1 failed, 2 wrong usage, 3 calls were abandoned, 130 interrupted."""
        try:
            code = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
            output.flush()
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else "flux"
            try_print_error(f"{error.format_message().rstrip('.')} (see {command} --help)", command)
            code = error.exit_code
        except click.ClickException as error:
            try_print_error(error.format_message())
            code = error.exit_code
        except FluxError as error:
            try_print_error(str(error))
            code = 1
        except (click.Abort, KeyboardInterrupt):
            code = _INTERRUPTED
        except OSError as error:
            output.failed(error)
            code = 1
        sys.exit(code if isinstance(code, int) else 0)


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="See a command's options and examples with flux COMMAND --help.",
)
@click.version_option(__version__, prog_name="flux", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Background tasks on Kafka that lose no record: retry topics that do not block, and dead letters."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> None:
    output.prepare()
    try:
        cli.main(prog_name="flux")
    except SystemExit as end:
        if end.code == ABANDONED:
            leave(ABANDONED)
        raise


def leave(code: int) -> None:
    """Ends the process while threads are still in calls. Such a thread may hold any lock, so neither the interpreter's
    own exit nor a last flush may be waited for without a limit."""

    def flush_producers() -> None:
        registry = sys.modules.get("flux.producing.registry")
        if registry is not None:
            registry.PRODUCERS.exit()

    for each in (flush_producers, _flush):
        thread = threading.Thread(target=each, daemon=True)
        thread.start()
        thread.join(_LAST_DELIVERY)
    os._exit(code)


def _flush() -> None:
    import logging

    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()


if __name__ == "__main__":
    main()
