"""The layout holds: imports go one way, files stay small, and certain doors have one keeper."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

#: Lower to higher; modules of one level never import each other.
LEVELS = (
    {"errors", "records", "files", "interruption"},
    {"graph", "packing", "patterns", "proto", "workers", "options"},
    {"builder", "inputs"},
    {"model", "sample_reader"},
    {"save", "samples", "normalize", "validity"},
    {"step"},
    {"ops", "opset"},
    {"runtime"},
    {"machine", "fidelity", "holdout", "batch_axis"},
    {"cache", "task_metrics", "tied_lengths"},
    {"usability"},
    {"apply"},
    {"timing"},
    {"analysis", "calibrate"},
    {"repair"},
    {"simplify", "prune", "quantize", "tune"},
    {"evaluate"},
    {"recipe"},
    {"search"},
    {"report"},
    {"__init__"},
    {"demo"},
    {"cli"},
    {"__main__"},
)
LEVEL_OF = {module: level for level, modules in enumerate(LEVELS) for module in modules}
FILE_IO = {
    f"{module}.{call}"
    for module in ("onnx", "onnx_ir", "ir")
    for call in ("load", "save", "load_model", "save_model")
}
#: Besides model.py and save.py: a child process without onnxlite, on files of its parent.
FILE_KEEPERS = {"model.py", "save.py", "simplify/onnxsim_worker.py"}
#: Where operators are known by name: their table, what rewrites them, and what computes them.
OPERATOR_KEEPERS = (
    "ops/",
    "simplify/",
    "tune/operators/",
    "quantize/core/prepare.py",
)
#: Operators that are part of a model's form, which anybody may ask for.
STRUCTURAL = {"Constant", "DequantizeLinear", "Identity", "If", "QuantizeLinear"}
VAGUE_NAMES = {"utils.py", "helpers.py", "common.py"}
MAX_LINES = 400

#: Source by path relative to the package, for example `{"quantize/static/step.py": "..."}`.
Tree = Mapping[str, str]


DESIGN = ROOT / "docs" / "design.md"
_BEGIN = "<!-- layers: written by `python -m tests.test_layers` -->\n"
_END = "<!-- /layers -->"


def with_layers(page: str) -> str:
    """The page with the list of levels between its two markers."""
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    assert begin
    assert end
    levels = "\n".join("    " + ", ".join(sorted(level)) for level in LEVELS)
    return f"{before}{begin}\nLower to higher:\n\n{levels}\n\n{end}{after}"


def read_tree(folder: Path) -> dict[str, str]:
    files = sorted(folder.rglob("*.py"))
    return {file.relative_to(folder).as_posix(): file.read_text("utf-8") for file in files}


def imported(node: ast.AST, path: str) -> list[str]:
    """Full names of what an import statement in the package's file `path` binds."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        parents = ["onnxlite", *path.split("/")[:-1]]
        base = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [base])])
    return [f"{base}.{alias.name}" for alias in node.names]


def module_of(path: str) -> str:
    return path.split("/")[0].removesuffix(".py")


def layer_faults(tree: Tree) -> Iterator[str]:
    for path, source in tree.items():
        here = module_of(path)
        if here not in LEVEL_OF:
            yield f"{path}: module {here!r} has no level, add it to LEVELS"
            continue
        for node in ast.walk(ast.parse(source)):
            for name in imported(node, path):
                top, _, rest = name.partition(".")
                if top == "onnxruntime" and here != "runtime":
                    yield f"{path}: imports onnxruntime, only runtime.py does"
                if name in FILE_IO and path not in FILE_KEEPERS:
                    yield f"{path}: imports {name}, use onnxlite.model"
                if top != "onnxlite":
                    continue
                there = rest.split(".")[0]
                there = there if there in LEVEL_OF else "__init__"
                if there != here and LEVEL_OF[there] >= LEVEL_OF[here]:
                    yield f"{path}: imports {name}, which is not below {here!r}"


def call_faults(tree: Tree) -> Iterator[str]:
    for path, source in tree.items():
        for node in ast.walk(ast.parse(source)):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called == "print" and module_of(path) != "cli":
                yield f"{path}: calls print, only cli does"
            if called in FILE_IO and path not in FILE_KEEPERS:
                yield f"{path}: calls {called}, use onnxlite.model"


def size_faults(tree: Tree) -> Iterator[str]:
    for path, source in tree.items():
        if (lines := len(source.splitlines())) > MAX_LINES:
            yield f"{path}: {lines} lines, at most {MAX_LINES}"
        if path.split("/")[-1] in VAGUE_NAMES:
            yield f"{path}: name a file after its one concept"


def docstring_faults(tree: Tree) -> Iterator[str]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for path, source in tree.items():
        module = ast.parse(source)
        if not ast.get_docstring(module):
            yield f"{path}: the module has no docstring"
        for owner in [module, *(n for n in ast.walk(module) if isinstance(n, ast.ClassDef))]:
            for node in owner.body:
                public = isinstance(node, kinds) and not node.name.startswith("_")
                overload = public and any("overload" in ast.unparse(d) for d in node.decorator_list)
                private = isinstance(owner, ast.ClassDef) and owner.name.startswith("_")
                if public and not overload and not private and not ast.get_docstring(node):
                    yield f"{path}: {node.name} has no docstring"


def operator_faults(tree: Tree) -> Iterator[str]:
    for path, source in tree.items():
        if path.startswith(OPERATOR_KEEPERS):
            continue
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.Call) or ast.unparse(node.func) != "is_op":
                continue
            named = {a.value for a in node.args if isinstance(a, ast.Constant)} - STRUCTURAL
            if named:
                yield f"{path}: asks for {sorted(map(str, named))}, ask the row of `ops/` instead"


PACKAGE = read_tree(ROOT / "onnxlite")


@pytest.mark.parametrize("faults", [layer_faults, call_faults, docstring_faults, operator_faults])
def test_package(faults):
    assert list(faults(PACKAGE)) == []


@pytest.mark.parametrize("folder", ["onnxlite", "models", "benchmarks", "tests"])
def test_sizes(folder):
    assert list(size_faults(read_tree(ROOT / folder))) == []


@pytest.mark.parametrize(
    ("faults", "path", "source"),
    [
        (layer_faults, "graph.py", "from onnxlite.model import load"),
        (layer_faults, "graph.py", "from onnxlite import model"),
        (layer_faults, "graph.py", "def f():\n    import onnxlite.model"),
        (layer_faults, "graph.py", "from .model import load"),
        (layer_faults, "graph.py", "from . import model"),
        (layer_faults, "prune/weight_step.py", "from onnxlite.quantize import qtypes"),
        (layer_faults, "prune/weight_step.py", "from ..quantize import qtypes"),
        (layer_faults, "save.py", "from onnxlite.samples import Samples"),
        (layer_faults, "samples.py", "from onnxlite import load"),
        (layer_faults, "evaluate/compare.py", "import onnxruntime as ort"),
        (layer_faults, "evaluate/compare.py", "from onnxruntime import quantization"),
        (layer_faults, "simplify/drive.py", "from onnx import load"),
        (layer_faults, "surprise.py", ""),
        (call_faults, "simplify/drive.py", "ir.load(path)"),
        (call_faults, "simplify/drive.py", "onnx.save(model, path)"),
        (call_faults, "recipe.py", "print(1)"),
        (size_faults, "prune/long.py", "x = 1\n" * 401),
        (size_faults, "prune/utils.py", ""),
        (operator_faults, "repair/targets.py", 'is_op(node, "Add")'),
        (docstring_faults, "graph.py", ""),
        (docstring_faults, "graph.py", '"""Doc."""\ndef find(): ...'),
        (
            docstring_faults,
            "graph.py",
            '"""Doc."""\nclass A:\n    """Doc."""\n    def f(self): ...',
        ),
    ],
)
def test_each_check_can_fail(faults, path, source):
    assert len(list(faults({path: source}))) == 1


def test_right_ways_pass():
    tree = {
        "quantize/static/step.py": (
            '"""Doc."""\nfrom onnxlite.quantize.core.qtypes import QType\nfrom . import placement\n'
            "from onnxlite import model\nimport numpy\n"
        ),
        "runtime.py": '"""Doc."""\nimport onnxruntime\n',
        "model.py": '"""Doc."""\nonnx.load(1)\n',
        "cli.py": '"""Doc."""\nfrom onnxlite import load\nprint(1)\n',
    }
    checks = (layer_faults, call_faults, size_faults, docstring_faults)
    assert [fault for check in checks for fault in check(tree)] == []


def test_design_lists_the_levels():
    page = DESIGN.read_text("utf-8")
    assert page == with_layers(page), "run `python -m tests.test_layers`"


if __name__ == "__main__":
    DESIGN.write_text(with_layers(DESIGN.read_text("utf-8")), "utf-8")
