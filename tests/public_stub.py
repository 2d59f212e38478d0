"""Writes `onnxlite/__init__.pyi`, what type checkers and editors see of the public functions.

    python -m tests.public_stub

A function made from an option record has its signature in no source file; the stub spells it
out, with one overload per kind of model where the kind comes back.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnxlite
from onnxlite.options import Options, fields_of
from onnxlite.step import StepContext

STUB = Path(onnxlite.__file__).parent / "__init__.pyi"
HEAD = '''"""What type checkers see of `onnxlite`; written by `python -m tests.public_stub`."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import overload

import onnx
import onnx_ir as ir

'''
#: The argument whose kind the result has.
SUBJECTS = ("candidate", "model")
KINDS = {
    "onnx.ModelProto": "onnx.ModelProto | Result[onnx.ModelProto, Any]",
    "ir.Model": "str | PathLike[str] | ir.Model | Result[ir.Model, Any]",
}


def stub() -> str:
    """The text of the stub."""
    imports: set[tuple[str, str]] = {("typing", "Any")}
    plain, functions = [], []
    for name, module in sorted(onnxlite._MODULE_OF.items()):
        value = getattr(onnxlite, name)
        if hasattr(value, "__options__"):
            functions.append(_function(name, value, imports))
        else:
            plain.append(f"from {module} import {name} as {name}")
    names = {line.split()[-1] for line in plain}
    needed = [f"from {m} import {n}" for m, n in sorted(imports) if n not in names]
    listed = "".join(f'    "{name}",\n' for name in onnxlite.__all__)
    parts = ["\n".join([*needed, *plain]), f"__version__: str\n__all__ = [\n{listed}]", *functions]
    return _formatted(HEAD + "\n\n".join(parts) + "\n")


def _function(name: str, function: Any, imports: set[tuple[str, str]]) -> str:
    """The function's signature, once for each kind of model that it may return."""
    original = inspect.unwrap(function)
    own = inspect.signature(original).parameters.values()
    record: type[Options] = function.__options__
    shown = inspect.signature(function).parameters
    parameters: list[tuple[str, str, Any, bool]] = []
    for parameter in own:
        if parameter.name in shown:
            kind = _written(parameter.annotation, original.__module__, imports)
            by_name = parameter.kind is inspect.Parameter.KEYWORD_ONLY
            parameters.append((parameter.name, kind, parameter.default, by_name))
    for owner in (record, StepContext):
        for field in fields_of(owner):
            if field.name in shown and field.name not in {p[0] for p in parameters}:
                kind = _field_kind(owner, field.name, imports)
                parameters.append((field.name, kind, field.default, True))
    result = _written(original.__annotations__["return"], original.__module__, imports)
    if "Result[Any" not in result:
        return _definition(name, parameters, result, function.__doc__)
    subject = next(s for s in SUBJECTS if s in shown)
    variants = []
    for index, (kind, taken) in enumerate(KINDS.items()):
        typed = [(n, taken if n == subject else k, d, b) for n, k, d, b in parameters]
        doc = function.__doc__ if index == 0 else None
        one = _definition(name, typed, result.replace("Result[Any", f"Result[{kind}"), doc)
        variants.append(f"@overload\n{one}")
    return "\n".join(variants)


def _definition(
    name: str, parameters: list[tuple[str, str, Any, bool]], result: str, doc: str | None
) -> str:
    parts, starred = [], False
    for parameter, kind, default, by_name in parameters:
        if by_name and not starred:
            parts.append("*")
            starred = True
        given = "" if default is inspect.Parameter.empty else f" = {_default(default)}"
        parts.append(f"{parameter}: {kind}{given}")
    body = " ..." if doc is None else f'\n    """{_indented(doc)}"""'
    return f"def {name}({', '.join(parts)}) -> {result}:{body}"


def _default(value: Any) -> str:
    return "..." if callable(value) else repr(value)


def _indented(doc: str) -> str:
    lines = inspect.cleandoc(doc).splitlines()
    text = "\n".join([lines[0], *(f"    {line}" if line else "" for line in lines[1:])])
    return text + ("\n    " if len(lines) > 1 else "")


def _field_kind(owner: type[Options], name: str, imports: set[tuple[str, str]]) -> str:
    """The type of an option as its record's source declares it."""
    base = next(c for c in owner.__mro__ if name in inspect.get_annotations(c))
    return _written(base.__annotations__[name], base.__module__, imports)


def _written(annotation: Any, module: str, imports: set[tuple[str, str]]) -> str:
    """An annotation without `Annotated`, its names made importable."""
    tree = ast.parse(str(annotation), mode="eval")
    plain = ast.fix_missing_locations(_Plain(module, imports).visit(tree))
    return ast.unparse(plain)


class _Plain(ast.NodeTransformer):
    """Drops `Annotated`, opens tuples to sequences, and notes where names come from."""

    def __init__(self, module: str, imports: set[tuple[str, str]]) -> None:
        self._module, self._imports = module, imports

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        name = ast.unparse(node.value)
        if name == "Annotated":
            assert isinstance(node.slice, ast.Tuple)
            return self.visit(node.slice.elts[0])
        if name == "tuple":
            assert isinstance(node.slice, ast.Tuple)
            return (
                ast.parse(f"Sequence[{ast.unparse(self.visit(node.slice.elts[0]))}]").body[0].value
            )  # type: ignore[attr-defined]
        if name == "dict":
            assert isinstance(node.slice, ast.Tuple)
            kinds = [ast.unparse(self.visit(each)) for each in node.slice.elts]
            return _expression(f"Mapping[{', '.join(kinds)}]")
        if name == "Literal":
            self._imports.add(("typing", "Literal"))
            return node
        return self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id == "Path":
            return _expression("str | PathLike[str]")
        if node.id in _ALIASES:
            return _expression(_ALIASES[node.id])
        home = dict(_names_of(self._module)).get(node.id)
        if home is not None:
            self._imports.add((home, node.id))
        return node


def _expression(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


#: Aliases of annotated types, whose notes are for the validator.
_ALIASES = {
    "Include": "Sequence[str]",
    "Exclude": "Sequence[str]",
    "Limit": "int | None",
    "Seed": "int",
    "TargetOption": "str",
    "EmbeddingsOption": "bool",
}


def _names_of(module: str) -> Iterator[tuple[str, str]]:
    """The names that a module imports or defines, with the module to import each from."""
    source = Path(importlib.import_module(module).__file__ or "").read_text("utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom):
            yield from ((alias.name, node.module or "") for alias in node.names)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name, module
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, module
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, module


def _formatted(text: str) -> str:
    for command in (["check", "-q", "--fix", "--select", "I,F401"], ["format", "-q"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(STUB), "-"],
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )
        text = done.stdout or text
    return text


if __name__ == "__main__":
    STUB.write_text(stub(), encoding="utf-8")
