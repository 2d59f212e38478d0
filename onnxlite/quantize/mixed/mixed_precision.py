"""Mixed precision: keep more than 8 bits in as few layers as reach a wanted SQNR.

Layers are ranked by their part in the noise over the time that is lost without their integer
kernels (`quantize/mixed/sensitivity.py`). The shortest start of that ranking is taken with which
the model, really quantized with all that was asked for, reaches the SQNR on samples held out.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from glob import escape

import msgspec
import numpy as np
import onnx_ir as ir

from onnxlite.fidelity import Reference
from onnxlite.holdout import split_feeds
from onnxlite.model import clone
from onnxlite.quantize.core.options import QuantizeStatic
from onnxlite.quantize.core.targets import target_named
from onnxlite.quantize.mixed.baseline import Baseline, plan_everything
from onnxlite.quantize.mixed.sensitivity import (
    HOLD_OUT,
    MAX_HELD_OUT,
    LayerNoise,
    layer_noise,
    measured_times,
)
from onnxlite.quantize.static.step import quantize_static_ir
from onnxlite.records import HoldOut, Skipped, StepReport
from onnxlite.samples import Samples, SamplesLike, input_specs
from onnxlite.step import StepContext

logger = logging.getLogger(__name__)


#: Samples that meet each layer's noise.
_PER_LAYER = 8
#: Models that are really quantized in search of the fewest layers, after the first one.
_TRIALS = 6
#: Layers kept float that are not enough must be worth so many decibels.
_MIN_GAIN_DB = 1.0
#: A model of which more would have to stay float is no quantized model.
_MAX_FRACTION = 0.5
#: Times are no more exact than this share of all of them.
_TIME_GRAIN = 0.01


@dataclass(frozen=True)
class _Trial:
    """A quantized model, and its worst output's SQNR on samples held out."""

    model: ir.Model
    report: StepReport
    sqnr_db: float


def quantize_mixed_ir(
    model: ir.Model,
    samples: SamplesLike,
    options: QuantizeStatic,
    context: StepContext,
) -> tuple[ir.Model, StepReport]:
    """Quantize a private copy of a model, to `options.min_sqnr_db` if that is set.

    See `onnxlite.quantize_static`. Where the SQNR cannot be reached, the best model that was
    found is returned, and the report says so.
    """
    wanted = options.min_sqnr_db
    if wanted is None:
        return quantize_static_ir(model, samples, options, context)
    start = time.perf_counter()
    reference = clone(model)
    feeds = Samples(samples, input_specs(reference), limit=options.limit)
    split = split_feeds(feeds, HOLD_OUT, at_most=MAX_HELD_OUT)
    float_outputs = Reference(reference, split.held_out, threads=context.threads)

    def tried(layers: Sequence[str]) -> _Trial:
        made, report = quantize_static_ir(
            clone(model), split.fitted, _keeping(options, layers), context
        )
        if not report.changed:  # nothing is left on integers
            return _Trial(made, report, -math.inf)
        sqnr_db = float_outputs.sqnr_db(made)
        logger.info("%d layers kept: %.2f dB", len(layers), sqnr_db)
        return _Trial(made, report, sqnr_db)

    first = tried(())
    if not first.report.changed:
        return first.model, first.report
    kept: list[str] = []
    best = first
    noise: dict[str, float] = {}
    if first.sqnr_db < wanted:
        order, noise = _order(reference, split.fitted, first, options, context)
        kept, best = _fewest(order, noise, first, wanted, tried)
    report = _report(best, first, kept, noise, split.record, options)
    return best.model, msgspec.structs.replace(report, seconds=time.perf_counter() - start)


def _keeping(options: QuantizeStatic, layers: Sequence[str]) -> QuantizeStatic:
    """The same options with more than 8 bits for these layers."""
    kept = tuple(escape(name) for name in layers)
    if target_named(options.target).wide is not None:
        return msgspec.structs.replace(options, min_sqnr_db=None, int16=(*options.int16, *kept))
    return msgspec.structs.replace(options, min_sqnr_db=None, exclude=(*options.exclude, *kept))


def _order(
    model: ir.Model,
    samples: Samples,
    first: _Trial,
    options: QuantizeStatic,
    context: StepContext,
) -> tuple[list[str], dict[str, float]]:
    """The layers on integers, those first that are to be kept, and the share of the noise each."""
    target = target_named(options.target)
    layers = [escape(row.name) for row in first.report.layers]
    planned = plan_everything(clone(model), target, include=layers, exclude=options.exclude)
    assert not isinstance(planned, Skipped)  # it was quantized already
    baseline = Baseline(planned[0], samples, context)
    noise = layer_noise(baseline, samples, per_layer=_PER_LAYER, progress=context.progress)
    names = [node.name or "" for node in baseline.layers]
    times = measured_times(baseline, samples)
    shares = noise_shares(noise)
    lost = _time_lost([times[name] for name in names])
    ranked = np.argsort(-shares / lost, kind="stable")
    return [names[i] for i in ranked], dict(zip(names, shares.tolist(), strict=True))


def noise_shares(noise: LayerNoise) -> np.ndarray:
    """Each layer's part in the noise, `float64[layers]`, never negative.

    A mean of what it makes alone and of what goes without it, the former with twice the weight:
    only the latter knows how errors of layers cancel, but it is known less exactly.
    """
    alone = noise.alone / max(float(noise.alone.sum()), np.finfo(np.float64).tiny)
    shares: np.ndarray = np.clip((2 * alone + noise.share) / 3, 0, 1)
    return shares


def _time_lost(times: Sequence[tuple[float | None, float | None]]) -> np.ndarray:
    """Time that is lost if a layer stays float, `float64[layers]`, in any unit and above zero."""
    known = [(exact or 0.0) for exact, _ in times]
    grain = _TIME_GRAIN * sum(known) or 1.0
    lost = [
        exact - integer if exact is not None and integer is not None else math.nan
        for exact, integer in times
    ]
    typical = float(np.nanmedian(lost)) if not np.isnan(lost).all() else 0.0
    return np.maximum(np.nan_to_num(lost, nan=typical), 0) + grain


def _fewest(
    order: Sequence[str],
    noise: dict[str, float],
    first: _Trial,
    wanted: float,
    tried: Callable[[Sequence[str]], _Trial],
) -> tuple[list[str], _Trial]:
    """The shortest start of `order` that reaches the SQNR, or that with the best one.

    Where none reaches it and the best one is hardly better than no layer kept, none is: time would
    be lost for nothing.

    The shares of the noise tell where to begin; then the number is doubled until it is enough,
    and halved between too few and enough.
    """
    most = max(1, int(_MAX_FRACTION * len(order)))
    left = 10 ** ((first.sqnr_db - wanted) / 10)
    rest = 1 - np.cumsum([noise[name] for name in order[:most]])
    enough = np.flatnonzero(rest <= left)
    count = int(enough[0]) + 1 if enough.size else most
    too_few, best_count, best = 0, 0, first
    reached: int | None = None
    for _ in range(_TRIALS):
        trial = tried(order[:count])
        if trial.sqnr_db >= wanted:
            reached, best_count, best = count, count, trial
        else:
            too_few = count
            if reached is None and trial.sqnr_db > best.sqnr_db:
                best_count, best = count, trial
        if reached is None:
            if count == most:
                break
            count = min(2 * count, most)
        elif reached - too_few <= 1:
            break
        else:
            count = (too_few + reached) // 2
    if reached is None and best.sqnr_db < first.sqnr_db + _MIN_GAIN_DB:
        return [], first
    return list(order[:best_count]), best


def _report(
    best: _Trial,
    first: _Trial,
    kept: Sequence[str],
    noise: dict[str, float],
    hold_out: HoldOut,
    options: QuantizeStatic,
) -> StepReport:
    """The step's report, with what was kept and whether that was enough."""
    wanted = options.min_sqnr_db
    assert wanted is not None
    wide = target_named(options.target).wide is not None
    state = "gets 16-bit activations" if wide else "stays float"
    rows = [
        Skipped(
            "quantize",
            name,
            "kept-for-sqnr",
            f"it {state} for the SQNR: its part in the noise is {noise[name]:.0%}",
        )
        for name in kept
    ]
    others = [
        row for row in best.report.skipped if row.code != "excluded-by-name" or row.node not in kept
    ]
    outcome = f"{best.sqnr_db:.1f} dB on {hold_out}"
    if kept:
        outcome += (
            f" with {len(kept)} layers {'at 16 bits' if wide else 'kept float'} "
            f"({first.sqnr_db:.1f} dB without)"
        )
    if best.sqnr_db < wanted:
        outcome += f"; the wanted {wanted:g} dB were not reached"
        reason = (
            f"no choice of at most half of the layers reached {wanted:g} dB: exclude more by "
            "name, or ask for less"
        )
        rows.append(Skipped("min-sqnr", "", "not-reached", reason))
        logger.warning("quantize_static: %s", outcome)
    return msgspec.structs.replace(
        best.report,
        summary=f"{outcome}; {best.report.summary}",
        changes={**best.report.changes, "layers-kept-for-sqnr": len(kept)},
        skipped=(*rows, *others),
        hold_out=hold_out,
    )
