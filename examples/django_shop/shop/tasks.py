"""The tasks of all apps, for `flux process --load shop.tasks`."""

import os
from importlib import import_module

import django
from django.apps import apps
from django.utils.module_loading import autodiscover_modules, module_has_submodule

import flux

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
django.setup()  # apps must be loaded before their tasks are imported; a second call does nothing


def find() -> dict[str, type[flux.Task]]:
    """The tasks of the module `tasks` of every app, by name."""
    autodiscover_modules("tasks")
    modules = [
        import_module(f"{app.name}.tasks")
        for app in apps.get_app_configs()
        if app.name != "shop" and module_has_submodule(app.module, "tasks")
    ]
    return {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, flux.Task) and value.__module__ == module.__name__
    }


globals().update(find())
