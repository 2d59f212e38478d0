"""The packages below quantize import one way, and targets are told apart by attributes alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from onnxlite.quantize.core.targets import TARGETS

FOLDER = Path(__file__).parents[2] / "onnxlite" / "quantize"
#: Lower to higher; packages of one level never import each other.
LEVELS = (
    {"core"},
    {"placement", "accuracy", "weight_only", "float16"},
    {"dynamic"},
    {"static"},
    {"mixed"},
)
LEVEL_OF = {package: level for level, packages in enumerate(LEVELS) for package in packages}


@cache
def modules() -> tuple[tuple[str, ast.Module], ...]:
    files = sorted(FOLDER.rglob("*.py"))
    return tuple((f.relative_to(FOLDER).as_posix(), ast.parse(f.read_text("utf-8"))) for f in files)


def imports_at_load(module: ast.Module) -> Iterator[str]:
    """Packages below quantize that a module imports when it is loaded."""
    for node in module.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            "onnxlite.quantize."
        ):
            yield (node.module or "").split(".")[2]


def test_packages_import_one_way():
    for path, module in modules():
        here = path.split("/")[0]
        for there in imports_at_load(module) if here in LEVEL_OF else ():
            assert there == here or LEVEL_OF.get(there, -1) < LEVEL_OF[here], (
                f"{path} imports {there}"
            )


@pytest.mark.parametrize("name", TARGETS)
def test_only_the_table_names_a_target(name: str):
    """A new row needs no other file: everything else asks the row."""
    for path, module in modules():
        if path == "core/targets.py":
            continue
        docstrings = {
            id(node.body[0].value)
            for node in ast.walk(module)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and isinstance(node.body[0], ast.Expr)
        }
        found = [
            node.lineno
            for node in ast.walk(module)
            if isinstance(node, ast.Constant) and node.value == name and id(node) not in docstrings
        ]
        # The default of the options.
        assert not found or name == "cpu", f"{path}:{found}"
