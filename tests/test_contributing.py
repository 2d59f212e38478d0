"""CONTRIBUTING.md: its diffs touch as few files as it says, and those files exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RECIPES = re.findall(
    r"### (.+?)\n.*?```diff\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.DOTALL
)
#: Files of the product that a recipe touches; the others touch one.
FILES = {"Add an operator with weights": 2}


def test_there_is_a_recipe_for_each_extension() -> None:
    assert len(RECIPES) == 5


@pytest.mark.parametrize(("title", "diff"), RECIPES, ids=[title for title, _ in RECIPES])
def test_recipe(title: str, diff: str) -> None:
    paths = re.findall(r"^# (\S+)$", diff, re.MULTILINE)
    assert paths
    assert all((ROOT / path).is_file() for path in paths)
    assert len([p for p in paths if p.startswith("onnxlite/")]) == FILES.get(title, 1)
