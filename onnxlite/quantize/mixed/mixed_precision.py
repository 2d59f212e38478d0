"""Mixed precision: keep as few layers as possible above 8 bits to reach an SQNR.

Layers are ranked by their fraction of the noise over the time that they lose without integer
kernels (`quantize/mixed/sensitivity.py`). The smallest number of top-ranked layers is kept with
which the quantized model reaches the SQNR on held-out samples.
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
from onnxlite.inputs import input_specs
from onnxlite.model import clone
from onnxlite.quantize.core.options import (
    QuantizeStatic,
    QuantizeStaticChanges,
    QuantizeStaticReport,
)
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
from onnxlite.records import HoldOut, Skipped
from onnxlite.samples import Samples, SamplesLike
from onnxlite.step import StepContext

logger = logging.getLogger(__name__)


#: Samples per layer to estimate its noise on.
_PER_LAYER = 8
#: Largest number of models quantized to find the fewest layers, after the first one.
_TRIALS = 6
#: Smallest gain of kept layers that do not reach the SQNR; otherwise no layer is kept.
_MIN_GAIN_DB = 1.0
#: A result below the first SQNR is poor, and layers are kept to reach the second, in so many
#: trials, if that gains so much.
_POOR_DB, _AIM_DB, _FEW_TRIALS, _MIN_GAIN_IF_POOR_DB = 15.0, 20.0, 2, 3.0
#: Largest fraction of the layers that are kept.
_MAX_FRACTION = 0.5
#: Resolution of the times, as a fraction of their sum.
_TIME_GRAIN = 0.01


@dataclass(frozen=True)
class _Trial:
    """Quantized model and the SQNR of its worst output on held-out samples."""

    model: ir.Model
    report: QuantizeStaticReport
    sqnr_db: float


@dataclass(frozen=True)
class _Limits:
    """Limits of the search for the fewest layers.

    Attributes:
        sqnr_db: what is to be reached.
        trials: largest number of models quantized.
        min_gain_db: smallest gain of kept layers that do not reach it.
    """

    sqnr_db: float
    trials: int = _TRIALS
    min_gain_db: float = _MIN_GAIN_DB


def quantize_mixed_ir(
    model: ir.Model,
    samples: SamplesLike,
    options: QuantizeStatic,
    context: StepContext,
) -> tuple[ir.Model, QuantizeStaticReport]:
    """Quantize a copy of a model to reach `options.min_sqnr_db`; see `onnxlite.quantize_static`.

    If no trial reaches the SQNR, the result is the best trial, and the report says so.
    """
    wanted = options.min_sqnr_db
    if wanted is None:
        return _improved_if_poor(model, samples, options, context)
    if wanted <= 0:
        return quantize_static_ir(model, samples, options, context)
    start = time.perf_counter()
    feeds = Samples(samples, input_specs(model), limit=options.limit)
    split = split_feeds(feeds, HOLD_OUT, at_most=MAX_HELD_OUT)
    float_outputs = Reference(model, split.held_out, threads=context.threads)

    def tried(layers: Sequence[str]) -> _Trial:
        made, report = quantize_static_ir(model, split.fitted, _keeping(options, layers), context)
        if not report.changed:  # no layer is left on integers
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
        order, noise = _order(model, split.fitted, first, options, context)
        kept, best = _fewest(order, noise, first, _Limits(wanted), tried)
    report = _report(best, first, kept, noise, split.record, options)
    return best.model, msgspec.structs.replace(report, seconds=time.perf_counter() - start)


def _improved_if_poor(
    model: ir.Model,
    samples: SamplesLike,
    options: QuantizeStatic,
    context: StepContext,
) -> tuple[ir.Model, QuantizeStaticReport]:
    """Quantize everything that pays, and keep sensitive layers float if the result is poor.

    Unlike with an SQNR that was asked for, all samples calibrate, the samples that every
    quantization holds out judge it, and few trials are made.
    """
    start = time.perf_counter()
    result, report = quantize_static_ir(model, samples, options, context)
    hold_out, poor = report.hold_out, report.sqnr_db is not None and report.sqnr_db < _POOR_DB
    # Who asks for fewer bits wants a small file: layers in float would make it large again.
    if not poor or hold_out is None or len(report.layers) < 2 or options.weight_bits < 8:
        return result, report
    feeds = Samples(samples, input_specs(model), limit=options.limit)

    def tried(layers: Sequence[str]) -> _Trial:
        made, report = quantize_static_ir(model, feeds, _keeping(options, layers), context)
        sqnr_db = math.inf if report.sqnr_db is None else report.sqnr_db
        return _Trial(made, report, sqnr_db if report.changed else -math.inf)

    assert report.sqnr_db is not None
    first = _Trial(result, report, report.sqnr_db)
    order, noise = _order(model, feeds, first, options, context)
    trials = _TRIALS if options.effort == "best" else _FEW_TRIALS
    limits = _Limits(_AIM_DB, trials=trials, min_gain_db=_MIN_GAIN_IF_POOR_DB)
    kept, best = _fewest(order, noise, first, limits, tried)
    wanted = msgspec.structs.replace(options, min_sqnr_db=_AIM_DB)
    report = _report(best, first, kept, noise, hold_out, wanted) if kept else report
    return best.model, msgspec.structs.replace(report, seconds=time.perf_counter() - start)


def _keeping(options: QuantizeStatic, layers: Sequence[str]) -> QuantizeStatic:
    """Return the options with more than 8 bits for these layers."""
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
    """Rank the layers on integers, most sensitive first, with their noise fractions."""
    target = target_named(options.target)
    layers = [escape(row.name) for row in first.report.layers]
    planned = plan_everything(clone(model), target, include=layers, exclude=options.exclude)
    assert not isinstance(planned, Skipped)  # the first trial has quantized it
    baseline = Baseline(planned[0], samples, context)
    noise = layer_noise(baseline, samples, per_layer=_PER_LAYER, progress=context.progress)
    names = [node.name or "" for node in baseline.layers]
    times = measured_times(baseline, samples)
    fractions = noise_fractions(noise)
    lost = _time_lost([times[name] for name in names])
    ranked = np.argsort(-fractions / lost, kind="stable")
    return [names[i] for i in ranked], dict(zip(names, fractions.tolist(), strict=True))


def noise_fractions(noise: LayerNoise) -> np.ndarray:
    """Estimate the noise fraction of each layer, `float64[layers]`, in [0, 1].

    The estimate is a weighted mean: 2/3 noise of the layer alone, 1/3 noise removed by keeping it
    float. Only the second includes cancellation between layers, but it is measured less exactly.
    """
    alone = noise.alone / max(float(noise.alone.sum()), np.finfo(np.float64).tiny)
    fractions: np.ndarray = np.clip((2 * alone + noise.noise_fraction) / 3, 0, 1)
    return fractions


def _time_lost(times: Sequence[tuple[float | None, float | None]]) -> np.ndarray:
    """Return the time lost by keeping each layer float, `float64[layers]` above 0."""
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
    limits: _Limits,
    tried: Callable[[Sequence[str]], _Trial],
) -> tuple[list[str], _Trial]:
    """Find the fewest top-ranked layers to keep for an SQNR, else the best trial.

    The noise fractions give the first number of layers. It is doubled until the SQNR is reached,
    then bisected. If the SQNR is not reached and the best trial gains less than the limit, no layer
    is kept.
    """
    wanted = limits.sqnr_db
    most = max(1, int(_MAX_FRACTION * len(order)))
    left = 10 ** ((first.sqnr_db - wanted) / 10)
    rest = 1 - np.cumsum([noise[name] for name in order[:most]])
    enough = np.flatnonzero(rest <= left)
    count = int(enough[0]) + 1 if enough.size else most
    too_few, best_count, best = 0, 0, first
    reached: int | None = None
    for _ in range(limits.trials):
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
    if reached is None and best.sqnr_db < first.sqnr_db + limits.min_gain_db:
        return [], first
    return list(order[:best_count]), best


def _report(
    best: _Trial,
    first: _Trial,
    kept: Sequence[str],
    noise: dict[str, float],
    hold_out: HoldOut,
    options: QuantizeStatic,
) -> QuantizeStaticReport:
    """Report the kept layers and whether the SQNR was reached."""
    wanted = options.min_sqnr_db
    assert wanted is not None
    wide = target_named(options.target).wide is not None
    state = "gets 16-bit activations" if wide else "stays float"
    rows = [
        Skipped(
            "quantize",
            name,
            "kept-for-sqnr",
            f"it {state} for the SQNR: its noise fraction is {noise[name]:.0%}",
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
        outcome += f"; min_sqnr_db={wanted:g} was not reached"
        reason = (
            f"keeping up to half of the layers does not reach {wanted:g} dB: exclude more by "
            "name, or lower min_sqnr_db"
        )
        rows.append(Skipped("min-sqnr", "", "not-reached", reason))
        logger.warning("quantize_static: %s", outcome)
    return msgspec.structs.replace(
        best.report,
        summary=f"{outcome}; {best.report.summary}",
        changes=best.report.changes + QuantizeStaticChanges(layers_kept_for_sqnr=len(kept)),
        skipped=(*rows, *others),
        hold_out=hold_out,
    )
