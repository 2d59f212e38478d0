"""Structure of the code in numbers: `python -m benchmarks.structure [FOLDER] [--against COMMIT]`.

Counts the Python files of a folder (default: the package `onnxlite`), and where concepts are
written that shall be written once. With a commit of this repository, its numbers come first.
"""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path

SHORT_LINES = 70
MANY_PARAMETERS = 8

#: Concepts that shall be written once, and what their code looks like; see also `timers`.
CONCEPTS: Mapping[str, str] = {
    "signal to noise in dB": r"\blog10\(",
    "hold-out split": r"% _?[A-Z]\w* [!=]=|\[\w*:: ?_?[A-Z_]+\]|def \w*(?:apart|hold_?out)\b",
    "nodes built by hand": r"\bir\.[nN]ode\(",
    "atomic write": r"\bos\.replace\(",
    "Gemm's attributes": r"\"trans[AB]\"",
}

_CLOCKS = ("perf_counter", "perf_counter_ns", "thread_time", "thread_time_ns", "process_time")

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.Module) -> Iterator[_Function]:
    """Yield every function and method."""
    return (node for node in ast.walk(tree) if isinstance(node, _Function))


def parameters(function: _Function) -> int:
    """Count the parameters of a function without `self` and `cls`."""
    given = function.args
    names = [arg.arg for arg in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def passed_on(tree: ast.Module) -> int:
    """Count arguments of the form `x=x`, `x=self.x` or `x=options.x`."""
    found = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg:
            value = node.value
            name = value.attr if isinstance(value, ast.Attribute) else getattr(value, "id", "")
            found += name.lstrip("_") == node.arg
    return found


def timers(tree: ast.Module) -> bool:
    """Return True if a loop or a comprehension reads a clock."""
    loops = (ast.For, ast.While, ast.ListComp, ast.GeneratorExp)
    return any(
        isinstance(node, ast.Attribute | ast.Name) and _name(node) in _CLOCKS
        for loop in ast.walk(tree)
        if isinstance(loop, loops)
        for node in ast.walk(loop)
    )


def _name(node: ast.Attribute | ast.Name) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id


def import_lines(tree: ast.Module) -> int:
    """Count the lines that import statements take."""
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    return sum((node.end_lineno or node.lineno) - node.lineno + 1 for node in imports)


def count(files: Mapping[str, str]) -> dict[str, int]:
    """Count what the table shows, from source by path."""
    trees = [ast.parse(source) for source in files.values()]
    lengths = [len(source.splitlines()) for source in files.values()]
    long = [f for tree in trees for f in functions(tree) if parameters(f) >= MANY_PARAMETERS]
    found = {
        "lines": sum(lengths),
        "files": len(files),
        f"files under {SHORT_LINES} lines": sum(length < SHORT_LINES for length in lengths),
        "import lines": sum(map(import_lines, trees)),
        f"functions with {MANY_PARAMETERS} parameters or more": len(long),
        "arguments `x=x` or `x=self.x`": sum(map(passed_on, trees)),
        "files with: timer in a loop": sum(map(timers, trees)),
    }
    for concept, pattern in CONCEPTS.items():
        lines = re.compile(pattern)
        found[f"files with: {concept}"] = sum(bool(lines.search(s)) for s in files.values())
    return found


def read(folder: Path) -> dict[str, str]:
    """Read the Python files below a folder."""
    return {str(path): path.read_text("utf-8") for path in sorted(folder.rglob("*.py"))}


def read_commit(commit: str, folder: str) -> dict[str, str]:
    """Read the Python files below a folder as they were in a commit."""
    command = ["git", "archive", "--format=tar", commit, folder]
    packed = subprocess.run(command, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=BytesIO(packed)) as archive:
        members = [member for member in archive.getmembers() if member.name.endswith(".py")]
        opened = {member.name: archive.extractfile(member) for member in members}
        return {name: file.read().decode("utf-8") for name, file in opened.items() if file}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", default="onnxlite")
    parser.add_argument("--against", metavar="COMMIT", help="an older commit to compare with")
    options = parser.parse_args()
    columns = {"now": count(read(Path(options.folder)))}
    if options.against:
        before = count(read_commit(options.against, options.folder))
        columns = {options.against: before, **columns}
    print("| | " + " | ".join(columns) + " |")
    print("|---|" + "--:|" * len(columns))
    for row in columns["now"]:
        print(f"| {row} | " + " | ".join(f"{column[row]:,}" for column in columns.values()) + " |")


if __name__ == "__main__":
    main()
