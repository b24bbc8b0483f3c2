"""`flux init`."""

from __future__ import annotations

import shlex
from pathlib import Path

import click


@click.command(
    epilog="""\b
Examples:
  flux init
  flux init shop"""
)
@click.argument("directory", default=".", type=click.Path(path_type=Path), metavar="[DIR]")
def command(directory: Path) -> None:
    """Write a first task, its test, and a compose file with Kafka.

    Into DIR, which is made when it is not there; the current directory by default. Nothing is overwritten.
    """
    from flux.cli.starter import commands, files

    wanted = files()
    there = [name for name in wanted if (directory / name).exists() or (directory / name).is_symlink()]
    if there:
        raise click.ClickException(f"{directory} has {', '.join(there)} already: name another directory")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in wanted.items():
            with (directory / name).open("x", encoding="utf-8") as file:
                file.write(text)
            click.echo(f"wrote {directory / name}")
    except OSError as error:
        raise click.ClickException(f"cannot write to {directory}: {error.strerror}") from None
    steps = commands()
    if directory.resolve() != Path.cwd():
        steps[0] = f"cd {shlex.quote(str(directory))} && {steps[0]}"
    click.echo("\nNext:\n" + "\n".join(f"  {step}" for step in steps))
