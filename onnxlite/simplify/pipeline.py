"""The phases of the step: rewrites and onnxsim in turn, each result verified."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from onnxlite.analysis.lineage import lineage_of, restore_lineage
from onnxlite.builder import drop_unused_initializers
from onnxlite.graph import iter_graphs, iter_nodes
from onnxlite.model import clone, size_bytes
from onnxlite.normalize import normalize
from onnxlite.ops import spec_of
from onnxlite.records import Progress, Skipped
from onnxlite.samples import SamplesLike
from onnxlite.simplify.driver import Firing, rewrite_to_fixed_point
from onnxlite.simplify.driver import Outcome as Run
from onnxlite.simplify.graph_cleanup import merge_duplicate_initializers, remove_all_dead
from onnxlite.simplify.onnxsim import run_onnxsim
from onnxlite.simplify.options import OnnxsimChoice, Simplify, SimplifyChanges, SimplifyReport
from onnxlite.simplify.rewrite import Rewrite
from onnxlite.simplify.rules import DEFAULT_RULES, EXACT_RULES
from onnxlite.simplify.verify import Reference, take_reference
from onnxlite.step import StepContext
from onnxlite.validity import restore_interface

#: Folding may enlarge the model by this many bytes, or this fraction if that is more.
GROWTH_BYTES = 1 << 20
GROWTH_FRACTION = 0.02
#: After so many wrong firings of one rule the rule itself is at fault.
_MAX_WRONG_FIRINGS = 3
_MAX_ROUNDS = 3


@dataclass
class _Log:
    changes: SimplifyChanges = field(default_factory=SimplifyChanges)
    skipped: list[Skipped] = field(default_factory=list)


def simplify_ir(
    model: ir.Model,
    samples: SamplesLike | None,
    options: Simplify,
    context: StepContext,
    *,
    rules: Sequence[Rewrite] | None = None,
) -> tuple[ir.Model, SimplifyReport]:
    """Simplify a private copy of a model; see `onnxlite.simplify`."""
    started = time.perf_counter()
    progress = context.progress
    original = clone(model)
    progress("verify", 0, 1)
    reference = take_reference(original, samples=samples, verify=options.verify)
    if rules is None:
        rules = DEFAULT_RULES if reference.runs else EXACT_RULES
    log = _Log()
    model = _cleaned(model, reference, log)
    for number in range(_MAX_ROUNDS):
        progress("simplify", number, _MAX_ROUNDS)
        model = _rewritten(model, rules, reference, log, progress)
        if not _wants_onnxsim(model, options.onnxsim):
            break
        shrunk = _by_onnxsim(model, reference, log, time_limit=options.time_limit_s)
        if shrunk is None:
            break
        model = shrunk
    progress("simplify", _MAX_ROUNDS, _MAX_ROUNDS)
    if not log.changes.total:
        model = original
    restore_interface(original, model)
    return model, _report(original, model, reference, log, time.perf_counter() - started)


def _cleaned(model: ir.Model, reference: Reference, log: _Log) -> ir.Model:
    """Normal form, dead code and duplicate constants: changes that need no pattern."""
    untouched = clone(model)
    constants, functions = _count_constants(model), len(model.functions)
    skipped = normalize(model)
    changes = SimplifyChanges(
        lift_constants=constants - _count_constants(model),
        inline_functions=functions - len(model.functions),
        remove_dead_nodes=remove_all_dead(model),
        merge_duplicate_initializers=merge_duplicate_initializers(model),
    )
    drop_unused_initializers(model)
    log.skipped += skipped
    if (difference := reference.difference(model)) is not None:
        log.skipped.append(Skipped("normalize", "", "rolled-back", f"rolled back: {difference}"))
        return untouched
    log.changes += changes
    return model


def _rewritten(
    model: ir.Model,
    rules: Sequence[Rewrite],
    reference: Reference,
    log: _Log,
    progress: Progress,
) -> ir.Model:
    """Rewrite to the fixed point; a firing that changes the outputs is left out alone."""
    growth = max(GROWTH_BYTES, int(GROWTH_FRACTION * size_bytes(model)))
    trust = reference.skipped is None
    blocked: frozenset[Firing] = frozenset()
    rolled_back: list[Skipped] = []
    wrong: Counter[str] = Counter()
    while True:
        active = [rule for rule in rules if wrong[rule.name] < _MAX_WRONG_FIRINGS]
        candidate = clone(model)
        run = rewrite_to_fixed_point(
            candidate,
            active,
            growth=growth,
            trust_shapes=trust,
            blocked=blocked,
            on_pass=lambda number: progress("rewrite", number, number + 1),
        )
        merged = merge_duplicate_initializers(candidate)
        difference = reference.difference(candidate) if run.firings else None
        if difference is None:
            progress("rewrite", 1, 1)
            log.changes += SimplifyChanges(
                merge_duplicate_initializers=merged, rewrites=run.changes
            )
            log.skipped = [*log.skipped, *run.skipped, *rolled_back]
            return candidate
        if trust:
            trust = False  # the declared shapes may be what is wrong
            continue
        culprit = _first_wrong(model, active, run, reference, growth, blocked)
        wrong[culprit.rule] += 1
        blocked |= {culprit}
        rolled_back.append(
            Skipped(culprit.rule, culprit.node, "rolled-back", f"rolled back: {difference}")
        )


def _first_wrong(
    model: ir.Model,
    rules: Sequence[Rewrite],
    run: Run,
    reference: Reference,
    growth: int,
    blocked: frozenset[Firing],
) -> Firing:
    """Find by bisection the firing after which the outputs differ."""
    good, bad = 0, len(run.firings)
    while bad - good > 1:
        middle = (good + bad) // 2
        candidate = clone(model)
        rewrite_to_fixed_point(candidate, rules, growth=growth, limit=middle, blocked=blocked)
        if reference.difference(candidate) is None:
            good = middle
        else:
            bad = middle
    return run.firings[bad - 1]


def _wants_onnxsim(model: ir.Model, choice: OnnxsimChoice) -> bool:
    """Tell whether to run onnxsim: by default where an operator has no row in the table."""
    if choice is False or count_nodes(model) < 2:
        return False
    return choice is True or any(not spec_of(node).op_type for node in iter_nodes(model))


def _by_onnxsim(
    model: ir.Model, reference: Reference, log: _Log, *, time_limit: float
) -> ir.Model | None:
    """Return the model that onnxsim makes, if it is smaller and computes the same."""
    result = run_onnxsim(model, time_limit=time_limit, fold_bytes=GROWTH_BYTES)
    if isinstance(result, str):
        reason = result
    elif reference.skipped is not None:
        reason = "its result cannot be verified"
    else:
        restore_lineage(result, lineage_of(model))
        normalize(result)
        merge_duplicate_initializers(result)
        before, after = count_nodes(model), count_nodes(result)
        if after >= before:
            return None
        if (difference := reference.difference(result)) is None:
            log.changes += SimplifyChanges(onnxsim=before - after)
            return result
        reason = f"rolled back: {difference}"
    log.skipped.append(Skipped("onnxsim", "", "failed", reason))
    return None


def count_nodes(model: ir.Model) -> int:
    """Nodes of the model: main graph, subgraphs and function bodies."""
    return sum(1 for graph in iter_graphs(model) for _ in graph)


def _count_constants(model: ir.Model) -> int:
    return sum(node.op_type == "Constant" for graph in iter_graphs(model) for node in graph)


def _report(
    original: ir.Model, model: ir.Model, reference: Reference, log: _Log, seconds: float
) -> SimplifyReport:
    before, after = count_nodes(original), count_nodes(model)
    old_bytes, new_bytes = size_bytes(original), size_bytes(model)
    changed = log.changes.total > 0
    if changed:
        summary = f"{before} -> {after} nodes"
    else:
        summary = f"nothing to simplify: no rule applies to the {before} nodes"
    if new_bytes > old_bytes:
        summary += f"; weights grew from {old_bytes:,} to {new_bytes:,} bytes by folding"
    if reference.skipped is not None:
        summary += f"; not verified: {reference.skipped}"
    if reference.unstable:
        summary += f"; random outputs not compared: {', '.join(sorted(reference.unstable))}"
    return SimplifyReport(
        changed=changed,
        summary=summary,
        changes=log.changes,
        skipped=tuple(dict.fromkeys(log.skipped)),
        seconds=seconds,
    )
