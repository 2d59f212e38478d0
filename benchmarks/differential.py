"""Every public step over many models: right, or declined with a reason, and nothing else.

    python -m benchmarks.differential [--every N] [--step PATTERN] [--model PATTERN]

The models of `onnx.backend.test` that ONNX Runtime runs, the nets of the tests and random graphs
go through every step, each in a child process with a time limit. A result is right if it loads,
passes the strict checker where the original does, keeps the interface, and has numbers within
what the step promises. The exit code is 1 if anything else occurs.
"""

from __future__ import annotations

import argparse
import re
import sys
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple

import numpy as np
import onnx

from benchmarks._children import Lost, each
from benchmarks._suite_cases import Case, cases
from benchmarks._suite_steps import EXACT, SUITE_STEPS, SuiteStep
from benchmarks._tables import publish
from onnxlite.errors import OnnxliteError
from onnxlite.fidelity import sqnr_db
from onnxlite.inputs import Feed
from onnxlite.model import load
from onnxlite.runtime import Outputs, Session
from onnxlite.simplify.verify import mismatch
from onnxlite.timing import use_timer
from onnxlite.usability import FLOOR

#: Copies of a feed that are given as samples where a case has a single one.
_COPIES = 4
_TIME_LIMIT_S = 60.0
_CHILDREN = 2
#: Faults that a table lists by name.
_LISTED = 200

Kind = Literal["right", "declined", "wrong", "crash", "lost"]


class Found(NamedTuple):
    """What became of one step on one model."""

    kind: Kind
    reason: str = ""


class Row(NamedTuple):
    """A finding with its model and step."""

    model: str
    step: str
    found: Found


class Task(NamedTuple):
    """A model and the names of the steps that it goes through."""

    case: Case
    steps: tuple[str, ...]


def work(task: Task, skip: int) -> Iterator[Found | None]:
    """Yield what becomes of each step; None alone where ONNX Runtime does not run the model."""
    with use_timer(None):
        proto = onnx.ModelProto.FromString(task.case.model)
        expected = None if skip else _reference(proto, task.case.feeds)
        if skip == 0:
            yield None if expected is None else Found("right")
            if expected is None:
                return
        expected = expected or _reference(proto, task.case.feeds)
        assert expected is not None
        for name in task.steps[max(skip - 1, 0) :]:
            yield judged(SUITE_STEPS[name], proto, task.case.feeds, expected)


def _reference(proto: onnx.ModelProto, feeds: Sequence[Feed]) -> list[Outputs] | None:
    """The model's outputs that are the same in two runs; None if it does not run."""
    try:
        runs = [_run(proto, feeds) for _ in range(2)]
    except OnnxliteError:
        return None
    return [
        {name: value for name, value in one.items() if mismatch(value, other[name]) is None}
        for one, other in zip(*runs, strict=True)
    ]


def _run(proto: onnx.ModelProto, feeds: Sequence[Feed]) -> list[Outputs]:
    session = Session(load(proto), threads=1)
    return [session.run(feed) for feed in feeds]


def judged(
    step: SuiteStep, proto: onnx.ModelProto, feeds: Sequence[Feed], expected: list[Outputs]
) -> Found:
    """Run a step on a model and judge what it returns.

    Args:
        step: the call and its promise.
        proto: the model, which must not change.
        feeds: inputs that it takes.
        expected: its outputs for them.
    """
    before = proto.SerializeToString(deterministic=True)
    samples = list(feeds) if len(feeds) > 1 else list(feeds) * _COPIES
    try:
        made, report = step.call(proto, samples)
    except OnnxliteError as error:
        return Found("declined", f"{type(error).__name__}: {error}")
    # Anything that is not raised on purpose is what the suite looks for.
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        file = "/".join(place.filename.split("/")[-3:])
        return Found("crash", f"{type(error).__name__}: {error} ({file}, {place.name})")
    if proto.SerializeToString(deterministic=True) != before:
        return Found("wrong", "the step changed its argument")
    fault = _interface_fault(proto, made) or _checker_fault(proto, made, strict=step.strict)
    if fault is None:
        try:
            floor = EXACT if step.original and not report.changed else step.floor_db
            fault = _numbers_fault(expected, _run(made, feeds), floor, usable=report.usable)
        except OnnxliteError as error:
            fault = f"it does not run: {error}"
    if fault is not None:
        return Found("wrong", fault)
    if not report.changed:
        return Found("declined", report.summary)
    return Found("right") if report.usable else Found("declined", "said to be not usable")


def _interface_fault(old: onnx.ModelProto, new: onnx.ModelProto) -> str | None:
    """The first input or output whose name, type or declared shape has changed."""
    for kind in ("input", "output"):
        before, after = _values(old, kind), _values(new, kind)
        if list(before) != list(after):
            return f"its {kind}s are {list(after)}, they were {list(before)}"
        for name, value in before.items():
            if value.type != after[name].type and value.HasField("type"):
                return f"{kind} {name!r} is {_text(after[name])}, it was {_text(value)}"
    return None


def _values(proto: onnx.ModelProto, kind: str) -> dict[str, onnx.ValueInfoProto]:
    weights = {tensor.name for tensor in proto.graph.initializer} if kind == "input" else ()
    return {v.name: v for v in getattr(proto.graph, kind) if v.name not in weights}


def _text(value: onnx.ValueInfoProto) -> str:
    dims = [
        str(getattr(dim, dim.WhichOneof("value"))) if dim.WhichOneof("value") else "?"
        for dim in value.type.tensor_type.shape.dim
    ]
    return f"{value.type.WhichOneof('value')} [{', '.join(dims)}]"


def _checker_fault(old: onnx.ModelProto, new: onnx.ModelProto, *, strict: bool) -> str | None:
    """What the strict checker says against the result of a model that it accepts."""
    try:
        onnx.checker.check_model(old, full_check=strict)
    # It raises exceptions of several kinds.
    except Exception:
        return None
    try:
        onnx.checker.check_model(new, full_check=strict)
    except Exception as error:
        return f"the checker refuses it: {str(error).strip().splitlines()[0]}"
    return None


def _numbers_fault(
    expected: Sequence[Outputs], found: Sequence[Outputs], floor_db: float | None, *, usable: bool
) -> str | None:
    """The first output that is not what the step promises.

    Args:
        expected: the original's outputs.
        found: the result's.
        floor_db: see `SuiteStep`.
        usable: False where the step itself says that its numbers are of no use.
    """
    for name in expected[0]:
        pairs = [(one[name], other[name]) for one, other in zip(expected, found, strict=True)]
        if floor_db == EXACT:
            fault = next(filter(None, (mismatch(*pair) for pair in pairs)), None)
        else:
            fault = _noise_fault(pairs, floor_db if usable else None)
        if fault is not None:
            return f"output {name!r}: {fault}"
    return None


def _noise_fault(pairs: Sequence[tuple[Any, Any]], floor_db: float | None) -> str | None:
    """Why an output is not close to the original's over all feeds; integers may differ."""
    signal = noise = 0.0
    for expected, found in pairs:
        if not isinstance(expected, np.ndarray):
            if type(expected) is not type(found):
                return "another type"
            continue
        if expected.dtype != found.dtype or expected.ndim != found.ndim:
            is_now = f"{found.dtype}{list(found.shape)}"
            return f"{is_now} instead of {expected.dtype}{list(expected.shape)}"
        if expected.dtype.kind != "f" or expected.shape != found.shape or not expected.size:
            continue
        a, b = expected.astype(np.float64), found.astype(np.float64)
        finite = np.isfinite(a)
        if not np.isfinite(b[finite]).all():
            return "new NaN or infinite values"
        signal += float((a[finite] ** 2).sum())
        noise += float(((a - b)[finite] ** 2).sum())
    if floor_db is None or signal == 0 or not np.isfinite(signal):
        return None
    reached = sqnr_db(signal, noise)
    if reached >= (min(floor_db, FLOOR.vouched_db) if _same_classes(pairs) else floor_db):
        return None
    return f"{reached:.1f} dB, promised are {floor_db:g} dB"


def _same_classes(pairs: Sequence[tuple[Any, Any]]) -> bool:
    """Whether an output of one row of numbers per sample names the same classes."""
    if any(expected.ndim != 2 for expected, _ in pairs):
        return False
    return all((expected.argmax(axis=1) == found.argmax(axis=1)).all() for expected, found in pairs)


def findings(
    tasks: Sequence[Task], *, children: int = _CHILDREN, time_limit_s: float = _TIME_LIMIT_S
) -> Iterator[Row]:
    """Yield what becomes of every step on every model that ONNX Runtime runs."""
    for number, item, found in each(work, tasks, children=children, time_limit_s=time_limit_s):
        task = tasks[number]
        if isinstance(found, Lost):
            step = task.steps[item - 1] if item else "the model itself"
            yield Row(task.case.name, step, Found("lost", found.reason))
        elif item:
            yield Row(task.case.name, task.steps[item - 1], found)


def reason_text(reason: str) -> str:
    """A reason without names, numbers and shapes, so that equal ones can be counted."""
    text = re.sub(r"'[^']*'|\"[^\"]*\"", "'...'", reason.splitlines()[0] if reason else "")
    text = re.sub(r"\[[^\]]*\]|\([^)]*\)", "(...)", text)
    return re.sub(r"[-+]?\d[\d,.]*(e[-+]?\d+)?", "N", text)[:160]


def counts(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """One row per step: how many models came out right, declined, or otherwise."""
    found: dict[str, Counter[str]] = {}
    for row in rows:
        found.setdefault(row.step, Counter())[row.found.kind] += 1
    kinds = ("right", "declined", "wrong", "crash", "lost")
    return [{"step": step, **{kind: n[kind] for kind in kinds}} for step, n in found.items()]


def decline_counts(rows: Iterable[Row]) -> Mapping[tuple[str, str], int]:
    """How often each step declined for each reason, the most frequent first."""
    declined = (row for row in rows if row.found.kind == "declined")
    return dict(Counter((r.step, reason_text(r.found.reason)) for r in declined).most_common())


def faults(rows: Iterable[Row]) -> list[Row]:
    """Return what is neither right nor declined."""
    return [row for row in rows if row.found.kind not in ("right", "declined")]


def chosen_tasks(*, every: int = 1, step: str = "*", model: str = "*") -> list[Task]:
    """Every so many models whose name matches, with the steps that match."""
    steps = tuple(name for name in SUITE_STEPS if fnmatchcase(name, step))
    names = [case for case in cases() if fnmatchcase(case.name, model)]
    return [Task(case, steps) for case in names[::every]]


def main() -> None:
    """Run the suite, publish its tables, and end with 1 if there are faults."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--every", type=int, default=1, help="take every Nth model only")
    parser.add_argument("--step", default="*", help="pattern of names of steps")
    parser.add_argument("--model", default="*", help="pattern of names of models")
    parser.add_argument("--children", type=int, default=_CHILDREN, help="processes at a time")
    options = parser.parse_args()
    tasks = chosen_tasks(every=options.every, step=options.step, model=options.model)
    rows = []
    for row in findings(tasks, children=options.children):
        rows.append(row)
        for fault in faults([row]):
            print(f"{fault.model}: {fault.step}: {': '.join(fault.found)}", flush=True)
    found = faults(rows)
    reasons = [
        {"step": step, "declined because": reason, "models": count}
        for (step, reason), count in decline_counts(rows).items()
    ]
    publish("differential_reasons", reasons, title="Reasons for declining")
    if found:
        listed = [
            {"model": r.model, "step": r.step, "kind": r.found.kind, "fault": r.found.reason}
            for r in found[:_LISTED]
        ]
        publish("differential_faults", listed, title="Neither right nor declined")
    models = len({row.model for row in rows})
    note = f"{models:,} of {len(tasks):,} models run in ONNX Runtime"
    publish("differential", counts(rows), title="Steps over many models", notes=[note])
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
