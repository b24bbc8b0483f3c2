"""Every app's tasks, for `flux process --load shop.tasks`."""

import os
from importlib import import_module

import django
from django.apps import apps
from django.utils.module_loading import autodiscover_modules, module_has_submodule

import flux

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
django.setup()  # the apps are needed before their tasks can be imported; it does nothing the second time


def find() -> dict[str, type[flux.Task]]:
    """The tasks of every app's module `tasks`, by name."""
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
