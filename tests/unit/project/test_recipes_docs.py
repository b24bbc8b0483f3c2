"""What the pages show of examples/recipes is what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
RECIPES = ROOT / "examples" / "recipes"
SHOWN = {
    "idempotency.md": ["once_redis.py"],
    "middleware.md": ["log_context.py", "db_session.py", "sentry_reporting.py"],
}


@pytest.mark.parametrize("page", SHOWN)
def test_a_page_shows_its_recipes_as_they_are(page: str) -> None:
    text = (ROOT / "docs" / "how-to" / page).read_text()
    found = dict(re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    assert found == {name: (RECIPES / name).read_text() for name in SHOWN[page]}


def test_every_recipe_is_shown() -> None:
    recipes = {path.name for path in RECIPES.glob("*.py") if not path.name.startswith("test_")} - {"redis_server.py"}
    assert recipes == {name for names in SHOWN.values() for name in names}
