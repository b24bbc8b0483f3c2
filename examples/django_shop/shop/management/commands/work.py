"""`manage.py work`: starts a worker by manage.py. `flux process --load shop.tasks` has more options."""

import argparse
from typing import Any

from django.core.management.base import BaseCommand, CommandError

import flux
from shop.tasks import find


class Command(BaseCommand):
    help = "Works the tasks of all apps, or those named, until it is stopped."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("tasks", nargs="*", metavar="TASK")
        parser.add_argument("--stages", help="such as 0 or 1-5; default: all")
        parser.add_argument("--create-topics", action="store_true")

    def handle(self, *_: object, **options: Any) -> None:
        found = find()
        unknown = set(options["tasks"]) - set(found)
        if unknown:
            raise CommandError(f"no task {', '.join(sorted(unknown))}: there are {', '.join(sorted(found))}")
        tasks = [found[name] for name in options["tasks"] or found]
        try:
            worker = flux.Worker(*tasks, stages=options["stages"], create_topics=options["create_topics"])
            code = worker.run()
        except flux.FluxError as error:
            raise CommandError(str(error)) from None
        if code:
            raise SystemExit(code)
