"""Mutated model files and samples through every step: done or declined, and nothing else.

    python -m benchmarks.mutation [--count N] [--seed N] [--step PATTERN]

Each number is one mutation of one model (bytes; wires, dims, types, attributes, operators, opset;
external data elsewhere, at wrong offsets) or of its samples, and one step on the file, in a child
process with a time limit. Nothing may crash or hang, be read from outside of the model's folder,
or be left behind; a result must run where the mutated model does. The exit code is 1 if not.
"""

from __future__ import annotations

import argparse
import random
import sys
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

import onnx

from benchmarks._children import Lost, each
from benchmarks._mutations import CANARY, Mutant, mutant
from benchmarks._suite_steps import SUITE_STEPS
from benchmarks._tables import publish
from benchmarks.differential import reason_text
from onnxlite.errors import OnnxliteError
from onnxlite.model import load, to_bytes
from onnxlite.runtime import Session
from onnxlite.timing import use_timer

COUNT = 10_000
_CHUNK = 25
_TIME_LIMIT_S = 60.0
_CHILDREN = 2

Kind = Literal["done", "declined", "wrong", "crash", "lost", "leak", "left behind"]


class Found(NamedTuple):
    """What became of one mutant."""

    kind: Kind
    reason: str = ""


class Row(NamedTuple):
    """A finding with the number that makes it again."""

    seed: int
    what: str
    step: str
    found: Found


class Chunk(NamedTuple):
    """Numbers of mutations, and the steps to choose from."""

    seeds: range
    steps: tuple[str, ...]


def work(chunk: Chunk, skip: int) -> Iterator[Row]:
    """Yield what becomes of each mutant."""
    opened = _watched()
    with use_timer(None):
        for seed in chunk.seeds[skip:]:
            yield _tried(seed, chunk.steps, opened)


def _watched() -> list[str]:
    """A list to which every file that Python opens is added."""
    opened: list[str] = []

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(args[0], str):
            opened.append(args[0])

    sys.addaudithook(hook)
    return opened


def step_of(seed: int, steps: Sequence[str]) -> str:
    """The step that a mutant goes through."""
    return steps[random.Random(seed).randrange(len(steps))]


def _tried(seed: int, steps: Sequence[str], opened: list[str]) -> Row:
    step = step_of(seed, steps)
    with TemporaryDirectory() as root:
        folder = Path(root) / "model"
        folder.mkdir()
        outside = Path(root) / "outside.bin"
        outside.write_bytes(CANARY * 64)
        made = mutant(seed, folder, outside)
        before = _content(folder)
        opened.clear()
        found = _found(step, made, folder)
        after = {name: data for name, data in _content(folder).items() if name != "out.onnx"}
        if after != before:
            changed = sorted(n for n in {*after, *before} if after.get(n) != before.get(n))
            found = Found("left behind", f"{found.kind} with changes of {changed}")
        elif found.kind != "done" and (folder / "out.onnx").exists():
            found = Found("left behind", f"{found.kind} with a result")
        elif str(outside) in opened or CANARY in _read(folder / "out.onnx"):
            found = Found("leak", f"{found.kind}, and read outside of the folder")
    return Row(seed, made.what, step, found)


def _content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): _read(p) for p in folder.rglob("*")}


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() and not path.is_symlink() else b""


def _found(step: str, made: Mutant, folder: Path) -> Found:
    target = folder / "out.onnx"
    try:
        # The calls take any form of a model; here it is a path.
        path: Any = made.path
        result = SUITE_STEPS[step].call(path, made.samples)
        if result.report.changed:
            result.save(target)
    except OnnxliteError as error:
        return Found("declined", f"{type(error).__name__}: {error}")
    # Anything that is not raised on purpose is what the suite looks for.
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        file = "/".join(place.filename.split("/")[-3:])
        return Found("crash", f"{type(error).__name__}: {error} ({file}, {place.name})")
    if not result.report.changed:
        return Found("declined", result.report.summary)
    return _checked(made, target)


def _checked(made: Mutant, target: Path) -> Found:
    """The result runs where the mutant does, on the samples that are no mutants."""
    try:
        mutated = load(made.path)
        outputs = Session(mutated, threads=1).run(made.feed)
    except OnnxliteError:
        return Found("done", "the mutant does not run")
    try:
        got = Session(load(target), threads=1).run(made.feed)
        if made.strict:
            onnx.checker.check_model(onnx.ModelProto.FromString(to_bytes(load(target))))
    except OnnxliteError as error:
        return Found("wrong", f"the result does not run: {error}")
    except onnx.checker.ValidationError as error:
        try:
            onnx.checker.check_model(onnx.ModelProto.FromString(to_bytes(mutated)))
        except onnx.checker.ValidationError:
            return Found("done")
        return Found("wrong", f"the checker refuses it: {str(error).splitlines()[0]}")
    return Found("done") if list(got) == list(outputs) else Found("wrong", "it has other outputs")


def findings(
    seeds: range,
    steps: tuple[str, ...],
    *,
    children: int = _CHILDREN,
    time_limit_s: float = _TIME_LIMIT_S,
) -> Iterator[Row]:
    """Yield what becomes of every mutant, in no order."""
    chunks = [Chunk(seeds[i : i + _CHUNK], steps) for i in range(0, len(seeds), _CHUNK)]
    for number, item, found in each(work, chunks, children=children, time_limit_s=time_limit_s):
        if isinstance(found, Lost):
            seed = chunks[number].seeds[item]
            yield Row(seed, "not known", step_of(seed, steps), Found("lost", found.reason))
        else:
            yield found


def faults(rows: Sequence[Row]) -> list[Row]:
    """Return what is neither done nor declined."""
    return [row for row in rows if row.found.kind not in ("done", "declined")]


def counts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One row per kind of mutation: how many were done, declined, or otherwise."""
    found: dict[str, Counter[str]] = {}
    for row in rows:
        found.setdefault(row.what, Counter())[row.found.kind] += 1
    kinds = ("done", "declined", "wrong", "crash", "lost", "leak", "left behind")
    return [{"mutation": w, **{k: n[k] for k in kinds}} for w, n in sorted(found.items())]


def main() -> None:
    """Run the suite, publish its tables, and end with 1 if there are faults."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=COUNT, help="number of mutations")
    parser.add_argument("--seed", type=int, default=0, help="the first number")
    parser.add_argument("--step", default="*", help="pattern of names of steps")
    parser.add_argument("--children", type=int, default=_CHILDREN, help="processes at a time")
    options = parser.parse_args()
    steps = tuple(name for name in SUITE_STEPS if fnmatchcase(name, options.step))
    rows = []
    seeds = range(options.seed, options.seed + options.count)
    for row in findings(seeds, steps, children=options.children):
        rows.append(row)
        for fault in faults([row]):
            print(f"{fault.seed}: {fault.what}: {fault.step}: {': '.join(fault.found)}", flush=True)
    reasons = Counter(reason_text(r.found.reason) for r in rows if r.found.kind == "declined")
    listed = [{"declined because": reason, "mutants": n} for reason, n in reasons.most_common()]
    publish("mutation_reasons", listed, title="Reasons for declining")
    publish("mutation", counts(rows), title=f"{len(rows):,} mutated files and samples")
    sys.exit(bool(faults(rows)))


if __name__ == "__main__":
    main()
