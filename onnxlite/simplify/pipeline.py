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
from onnxlite.opset import upgrade_opset
from onnxlite.records import Progress, Skipped
from onnxlite.samples import SamplesLike
from onnxlite.simplify.driver import Firing, rewrite_to_fixed_point
from onnxlite.simplify.driver import Outcome as Run
from onnxlite.simplify.graph_cleanup import merge_duplicate_initializers, remove_all_dead
from onnxlite.simplify.onnxsim import run_onnxsim
from onnxlite.simplify.options import OnnxsimChoice, Simplify, SimplifyChanges, SimplifyReport
from onnxlite.simplify.rewrite import NODE_BYTES, Rewrite
from onnxlite.simplify.rules import DEFAULT_RULES, EXACT_RULES
from onnxlite.simplify.verify import Reference, take_reference
from onnxlite.step import StepContext
from onnxlite.validity import interface_difference, restore_interface

#: A folding may enlarge a model by this many bytes, or this fraction if that is more, as long as
#: the whole does not grow.
GROWTH_BYTES = 1 << 20
GROWTH_FRACTION = 0.02
#: After so many wrong firings of one rule the rule itself is at fault.
_MAX_WRONG_FIRINGS = 3
_MAX_ROUNDS = 3
#: Attributes that hold as many numbers as a constant.
_LISTS = (ir.AttributeType.INTS, ir.AttributeType.FLOATS)
#: Largest constant that onnxsim may make where larger ones enlarge the model.
_SMALL_FOLD_BYTES = 1 << 10


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
    size = size_bytes(original)
    allowed = int(options.max_growth * size)
    growth = max(GROWTH_BYTES, int(max(GROWTH_FRACTION, options.max_growth) * size))
    work = _Work(reference, rules, options, progress, growth)
    made = work.simplified(model)
    if _file_bytes(made) > work.inlined + allowed:
        # What others read smaller may pay for: only if the whole grows, each folding is held back.
        work = _Work(reference, rules, options, progress, allowed)
        made = work.simplified(clone(original))
    log = work.log
    if _file_bytes(made) > work.inlined + allowed:
        before, after = work.inlined, _file_bytes(made)
        reason = f"the result would hold {after:,} bytes instead of {before:,}: raise max_growth"
        log = _Log(skipped=[*log.skipped, Skipped("simplify", "", "grows", reason)])
    if not log.changes.total:
        made = original
    restore_interface(original, made)
    return made, _report(original, made, reference, log, time.perf_counter() - started)


def _file_bytes(model: ir.Model) -> int:
    """Bytes of all constants, and the least that the nodes take."""
    listed = sum(
        len(attr.value) * 8
        for graph in iter_graphs(model)
        for node in graph
        for attr in node.attributes.values()
        if attr.type in _LISTS and not attr.is_ref()
    )
    return size_bytes(model) + listed + NODE_BYTES * count_nodes(model)


@dataclass
class _Work:
    """One simplification of a model.

    Attributes:
        reference: outputs of the original.
        rules: the rewrites.
        options: of the step.
        progress: called as rounds are done.
        growth: bytes by which folding may enlarge the model.
        log: what was changed and what was not.
        inlined: bytes of the model at first, with its functions inlined.
    """

    reference: Reference
    rules: Sequence[Rewrite]
    options: Simplify
    progress: Progress
    growth: int
    log: _Log = field(default_factory=_Log)
    inlined: int = 0

    def simplified(self, model: ir.Model) -> ir.Model:
        """Return the simplified model; `model` is changed."""
        functions, self.inlined = len(model.functions), _file_bytes(model)
        model = _cleaned(model, self.reference, self.log)
        if functions:
            self.inlined = max(self.inlined, _file_bytes(model))
        if self.options.opset is not None:
            model = _upgraded(model, self.options.opset, self.reference, self.log)
            self.inlined = max(self.inlined, _file_bytes(model))
        for number in range(_MAX_ROUNDS):
            self.progress("simplify", number, _MAX_ROUNDS)
            model = _rewritten(model, self)
            if not _wants_onnxsim(model, self.options.onnxsim):
                break
            shrunk = _by_onnxsim(model, self)
            if shrunk is None:
                break
            model = shrunk
        self.progress("simplify", _MAX_ROUNDS, _MAX_ROUNDS)
        return model


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


def _upgraded(model: ir.Model, version: int, reference: Reference, log: _Log) -> ir.Model:
    """Bring a model to a newer operator set, or say why it keeps its own."""
    upgraded = upgrade_opset(model, version)
    if upgraded is model:
        return model
    if isinstance(upgraded, ir.Model):
        normalize(upgraded)
        restore_lineage(upgraded, lineage_of(model))
        difference = interface_difference(model, upgraded) or reference.difference(upgraded)
        if difference is None:
            log.changes += SimplifyChanges(opset_upgraded=1)
            return upgraded
        message = f"at opset {version} the model is another one: {difference}"
        upgraded = Skipped("upgrade-opset", "", "rolled-back", message)
    log.skipped.append(upgraded)
    return model


def _rewritten(model: ir.Model, work: _Work) -> ir.Model:
    """Rewrite to the fixed point; a firing that changes the outputs is left out alone."""
    rules, reference, growth = work.rules, work.reference, work.growth
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
            on_pass=lambda number: work.progress("rewrite", number, number + 1),
        )
        merged = merge_duplicate_initializers(candidate)
        difference = reference.difference(candidate) if run.firings else None
        if difference is None:
            work.progress("rewrite", 1, 1)
            work.log.changes += SimplifyChanges(
                merge_duplicate_initializers=merged, rewrites=run.changes
            )
            work.log.skipped = [*work.log.skipped, *run.skipped, *rolled_back]
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


def _by_onnxsim(model: ir.Model, work: _Work) -> ir.Model | None:
    """Return the model that onnxsim makes, if it has fewer nodes and computes the same.

    Where its foldings enlarge the model, they are limited to small constants.
    """
    reference, log, limit = work.reference, work.log, _file_bytes(model) + work.growth
    result: ir.Model | str = ""
    for fold_bytes in (GROWTH_BYTES, _SMALL_FOLD_BYTES):
        result = run_onnxsim(model, time_limit=work.options.time_limit_s, fold_bytes=fold_bytes)
        if isinstance(result, str) or _file_bytes(result) <= limit:
            break
        result = "its result is larger, since it folds constants that others read"
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
