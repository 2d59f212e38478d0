"""Label-free repair: fit layer after layer to what the original model computes there.

In topological order each layer of the compressed model gets the weights that, applied to the
input it has *now*, come closest to the original layer's output: so that a layer also makes up
for what was lost before it. Sources: He et al. 2017 (channel pruning by reconstruction), Nagel
et al. 2019 (bias correction).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from onnxlite.analysis.quantized_model import already_quantized, computed_weights
from onnxlite.analysis.shapes import infer_shapes
from onnxlite.errors import OptionError
from onnxlite.fidelity import Reference
from onnxlite.graph import node_name
from onnxlite.inputs import input_specs
from onnxlite.model import clone
from onnxlite.normalize import normalize
from onnxlite.records import HoldOut, Progress, Skipped, main_reasons, no_progress
from onnxlite.repair.engine import Engine, FitOptions
from onnxlite.repair.fit import Fit
from onnxlite.repair.options import RepairChanges, RepairedLayer, RepairReport
from onnxlite.repair.targets import STEP, FitPair, match_layers
from onnxlite.samples import Samples, SamplesLike
from onnxlite.tied_lengths import tie_pair

_DEFAULTS = FitOptions()
_ADVICE = "repair the float model before quantization, or tune this one"


def repair_ir(
    reference: ir.Model,
    candidate: ir.Model,
    samples: SamplesLike,
    options: FitOptions = _DEFAULTS,
    *,
    progress: Progress = no_progress,
) -> tuple[ir.Model, RepairReport]:
    """Repair a compressed model, which is changed; see `onnxlite.repair`.

    Args:
        reference: the model that it was made from; not changed.
        candidate: the compressed model. Where nothing is gained a copy of it as it was comes
            back.
        samples: unlabelled inputs.
        options: of the repair, and its resources.
        progress: called as layers are done.

    Raises:
        OptionError: an option out of range, a pattern that matches nothing, or a reference
            with other inputs.
        VerificationError: the reference has other outputs.
    """
    tied = tie_pair(
        reference, candidate, samples, limit=options.repair.limit, threads=options.threads
    )
    if tied is None:
        return _repair(reference, candidate, samples, options, progress)
    one, other = tied.reference.model, tied.candidate.model
    made, report = _repair(one, other, tied.feeds, options, progress)
    return tied.candidate.restore(made), report


def _repair(
    reference: ir.Model,
    candidate: ir.Model,
    samples: SamplesLike,
    options: FitOptions,
    progress: Progress,
) -> tuple[ir.Model, RepairReport]:
    """Repair a model whose lengths are tied where they depend on values."""
    asked = options.repair
    _check_inputs(reference, candidate)
    run = _Run(clone(reference), candidate, source=clone(candidate))
    stream = Samples(samples, input_specs(run.reference), limit=asked.limit)
    for side in (run.reference, run.candidate):
        normalize(side)
        infer_shapes(side)
    pairs, run.skipped = match_layers(run.reference, run.candidate, asked.include, asked.exclude)
    if not pairs:
        return run.undone(_why_none(run.source, run.skipped))
    engine = Engine(run.reference, run.candidate, pairs, stream, options)
    if not engine.complete:
        reason = f"only the first {len(engine.feeds)} feeds are used, to bound memory and time"
        run.skipped.append(Skipped(STEP, "", "fewer-samples", reason))
    _fit_layers(run, engine, progress)
    if not run.repaired:
        return run.undone("no layer's error falls")
    return _checked(run, engine, options.threads)


@dataclass
class _Run:
    """State of one repair.

    Attributes:
        reference: normalized copy.
        candidate: the model that is changed.
        source: the candidate as it came in.
        skipped: what could not be done.
        layers: a row per layer that was fitted.
        hold_out: what the result is checked on.
    """

    reference: ir.Model
    candidate: ir.Model
    source: ir.Model
    skipped: list[Skipped] = field(default_factory=list)
    layers: list[RepairedLayer] = field(default_factory=list)
    hold_out: HoldOut | None = None
    start: float = field(default_factory=time.perf_counter)

    @property
    def repaired(self) -> int:
        """Number of layers with new weights."""
        return sum(row.method != "none" for row in self.layers)

    def undone(self, summary: str) -> tuple[ir.Model, RepairReport]:
        """Return the model as it came in."""
        return self.source, self._report(summary, 0)

    def done(self, summary: str) -> tuple[ir.Model, RepairReport]:
        """Return the repaired model."""
        return self.candidate, self._report(summary, self.repaired)

    def _report(self, summary: str, repaired: int) -> RepairReport:
        return RepairReport(
            changed=repaired > 0,
            summary=summary,
            changes=RepairChanges(layers_repaired=repaired),
            skipped=tuple(self.skipped),
            layers=tuple(self.layers),
            hold_out=self.hold_out,
            seconds=time.perf_counter() - self.start,
        )


def _fit_layers(run: _Run, engine: Engine, progress: Progress) -> None:
    """Rewrite in place: give each layer its best fit before the next one is fitted."""
    pairs = engine.pairs
    for index, (pair, (fit, count)) in enumerate(zip(pairs, engine.fits(), strict=True)):
        progress(STEP, index, len(pairs))
        if isinstance(fit, str):
            run.skipped.append(Skipped(STEP, node_name(pair.layer.node), "not-fitted", fit))
            continue
        if fit.method != "none":
            pair.layer.write(fit.weight, fit.bias)
        run.layers.append(_row(pair, fit, count))
    progress(STEP, len(pairs), len(pairs))


def _checked(run: _Run, engine: Engine, threads: int | None) -> tuple[ir.Model, RepairReport]:
    """Keep the repair unless the outputs are further from the reference's on feeds held out."""
    run.hold_out = engine.hold_out
    wanted = Reference(run.reference, engine.held_out, threads=threads)
    before, after = (wanted.sqnr_db(side) for side in (run.source, run.candidate))
    change = f"{before:.1f} -> {after:.1f} dB on {run.hold_out}"
    if not after >= before:
        return run.undone(f"the repair was undone: {change}")
    return run.done(f"{run.repaired} of {len(run.layers)} layers repaired, {change}")


def _row(pair: FitPair, fit: Fit, count: int) -> RepairedLayer:
    return RepairedLayer(
        name=pair.layer.name,
        op_type=pair.layer.node.op_type,
        target=pair.target.value.name or "",
        method=fit.method,
        rows=count,
        features=pair.layer.features,
        error_before=fit.error_before,
        error=fit.error,
    )


def _why_none(model: ir.Model, skipped: Sequence[Skipped]) -> str:
    """Reason why no layer of a model can be repaired."""
    reason = already_quantized(model, _ADVICE) or computed_weights(model, _ADVICE)
    reasons = main_reasons(skipped) or "it has none that multiplies by constant weights"
    return reason or f"no layer can be repaired: {reasons}"


def _check_inputs(reference: ir.Model, candidate: ir.Model) -> None:
    names = [{spec.name for spec in input_specs(side)} for side in (candidate, reference)]
    if names[0] != names[1]:
        raise OptionError(
            f"the model takes {sorted(names[0])} and the reference {sorted(names[1])}: repair "
            "needs the model that this one was made from"
        )
