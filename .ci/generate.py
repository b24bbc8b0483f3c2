"""Generates `flux/consuming/blocking` from `flux/consuming/awaited`: the same code, with nothing awaited."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "flux/consuming/awaited"
TARGET = ROOT / "flux/consuming/blocking"
HEADER = "# Generated from flux/consuming/awaited/{name} by `make generate`: change that, not this.\n"
PACKAGE = '''"""The blocking form: generated from `flux.consuming.awaited`, see there."""
'''
RULES = [
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\bAwaitable\[(\w+)\]", r"\1"),
    (r"\bimport Awaitable, ", "import "),
    (r"\bAsync([A-Z])", r"\1"),
    (r"\basync_consumer\b", "consumer"),
    (r"\bawait_(room|next)\b", r"wait_for_\1"),
    (r"\bflux\.consuming\.awaited\b", "flux.consuming.blocking"),
]


def blocking(source: str) -> str:
    """`source`, with nothing awaited."""
    for pattern, instead in RULES:
        source = re.sub(pattern, instead, source)
    return source


def generated() -> dict[str, str]:
    """The texts of the package by the names of its files."""
    files = {"__init__.py": HEADER.format(name="__init__.py") + PACKAGE}
    for path in sorted(SOURCE.glob("*.py")):
        if path.name != "__init__.py":
            files[path.name] = HEADER.format(name=path.name) + blocking(path.read_text("utf-8"))
    return files


def main() -> None:
    TARGET.mkdir(exist_ok=True)
    files = generated()
    for path in TARGET.glob("*.py"):
        if path.name not in files:
            path.unlink()
    for name, text in files.items():
        (TARGET / name).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
