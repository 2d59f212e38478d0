"""Sensitivity of each layer to INT8: noise at the outputs and time gained.

Each layer has two noise figures: with only this layer quantized, and with all layers but this one
quantized. Both come from one pass over a few hundred samples
(`quantize/mixed/error_propagation.py`). The most sensitive layers are confirmed: the model is
quantized without each of them and evaluated on held-out samples.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from onnxlite.analysis.shapes import concrete_shapes
from onnxlite.batch_axis import bind
from onnxlite.errors import UnsupportedError
from onnxlite.fidelity import Reference, sqnr_db
from onnxlite.holdout import EveryKth, split_feeds
from onnxlite.inputs import Feed, input_specs, trim
from onnxlite.model import ModelLike, load
from onnxlite.options import Exclude, Include, Limit, Options
from onnxlite.quantize.core.options import TargetOption
from onnxlite.quantize.core.targets import target_named
from onnxlite.quantize.mixed.baseline import Baseline, mask, plan_everything
from onnxlite.quantize.mixed.error_propagation import Noise, propagate
from onnxlite.quantize.mixed.layer_times import layer_times
from onnxlite.records import Progress, Report, Skipped, no_progress
from onnxlite.samples import Samples, SamplesLike
from onnxlite.step import StepContext, from_options
from onnxlite.tied_lengths import tie_lengths
from onnxlite.timing import current_timer
from onnxlite.timing.layer_times import LayerTimes

logger = logging.getLogger(__name__)

#: Feeds held out from the estimate to confirm it on.
HOLD_OUT = EveryKth(4, offset=1)
#: Largest number of held-out feeds.
MAX_HELD_OUT = 16


class LayerSensitivity(msgspec.Struct, frozen=True, kw_only=True):
    """Sensitivity of one layer of an INT8 model.

    Attributes:
        name: name of the node.
        op_type: operator of the node.
        alone_db: SQNR of the worst part with only this layer quantized, in dB.
        float_db: SQNR with all layers but this one quantized, in dB.
        noise_fraction: fraction of the noise that disappears if this layer stays float.
            Negative if errors cancel and the noise grows without this layer's.
        confirmed_db: `float_db` of a quantized model on held-out samples; only for the most
            sensitive layers.
        float_us: microseconds of one run of its float kernel on one sample.
        int_us: microseconds of one run of its integer kernel on one sample.
    """

    name: str
    op_type: str
    alone_db: float
    float_db: float
    noise_fraction: float
    confirmed_db: float | None = None
    float_us: float | None = None
    int_us: float | None = None

    @property
    def gain_us(self) -> float | None:
        """Microseconds gained by quantizing this layer, without conversions."""
        if self.float_us is None or self.int_us is None:
            return None
        return self.float_us - self.int_us


class Sensitivity(Report, frozen=True, kw_only=True):
    """Fidelity lost and time gained by each layer of a model in INT8.

    Attributes:
        target: name of the target.
        output: the worst part of the outputs, for example `"output0[:, 4:22]"`; all figures are
            of it.
        samples: number of samples of the estimates.
        sqnr_db: estimated SQNR with everything quantized by round-to-nearest.
        confirmed_db: SQNR of the quantized model on held-out samples.
        layers: the layers in topological order.
        seconds: wall-clock time of the analysis.
        skipped: layers that cannot be quantized, and why.
    """

    target: str
    output: str
    samples: int
    sqnr_db: float
    confirmed_db: float | None
    layers: tuple[LayerSensitivity, ...]
    seconds: float
    skipped: tuple[Skipped, ...] = ()

    @property
    def ranked(self) -> tuple[LayerSensitivity, ...]:
        """Layers by noise fraction, largest first."""
        return tuple(sorted(self.layers, key=lambda layer: -layer.noise_fraction))

    def __str__(self) -> str:
        lines = [f"INT8 for {self.target}: {self.sqnr_db:.1f} dB at {self.output!r}"]
        for layer in self.ranked:
            line = f"  {layer.name} ({layer.op_type}): {layer.noise_fraction:.1%} of the noise"
            gain = "" if layer.gain_us is None else f", saves {layer.gain_us:.0f} us"
            lines.append(f"{line}, {layer.float_db:.1f} dB without it{gain}")
        return "\n".join(lines)


class SensitivityOptions(Options, frozen=True, kw_only=True):
    """Options of `sensitivity`."""

    target: TargetOption = "cpu"
    include: Include = ()
    exclude: Exclude = ()
    per_layer: Annotated[
        int,
        Meta(ge=1, description="Samples that each layer is estimated on; more are steadier."),
    ] = 8
    confirm: Annotated[
        int,
        Meta(
            ge=0,
            description="Number of the most sensitive layers that a real evaluation confirms.",
        ),
    ] = 3
    times: Annotated[
        bool,
        Meta(
            description="Measure each layer's kernels in float and on integers, on this machine "
            "and one thread; the times are kept in the cache."
        ),
    ] = True
    limit: Limit = None


@from_options(SensitivityOptions, runtime=("batch_axis", "threads", "progress"))
def sensitivity(
    model: ModelLike,
    samples: SamplesLike,
    *,
    options: SensitivityOptions,
    context: StepContext,
) -> Sensitivity:
    """Estimate how much fidelity each layer costs in INT8 and how much time it saves.

    The cost is about `2 * per_layer * layers` runs of single samples, whatever the number of
    samples. Simplify the model first, as for `quantize_static`.

    Args:
        model: a float32 model: a path, a `ModelProto`, an `ir.Model` or a `Result`; it is not
            changed.
        samples: unlabelled inputs, some hundreds, in any form of `SamplesLike`. A quarter of
            them is held out for confirmation.

    Raises:
        OptionError: a wrong option or an unknown target.
        UnsupportedError: nothing in the model can be quantized; the message says why.
        SamplesError: the samples do not fit, or make an inner value NaN or infinite.
        ExecutionError: ONNX Runtime cannot run the model.
    """
    start = time.perf_counter()
    row = target_named(options.target)
    source = load(model)
    samples = bind(source, samples, context.batch_axis)
    tied = tie_lengths(source, samples, limit=options.limit, threads=context.threads)
    if tied is not None:
        source, samples = tied[0].model, tied[1]
    feeds = Samples(samples, input_specs(source), limit=options.limit)
    planned = plan_everything(source, row, include=options.include, exclude=options.exclude)
    if isinstance(planned, Skipped):
        raise UnsupportedError(f"no layer has a sensitivity: {planned.message}")
    plan, skipped = planned
    split = split_feeds(feeds, HOLD_OUT, at_most=MAX_HELD_OUT)
    baseline = Baseline(plan, split.fitted, context)
    noise = layer_noise(
        baseline, split.fitted, per_layer=options.per_layer, progress=context.progress
    )
    names = [node.name or "" for node in baseline.layers]
    ranked = np.argsort(-noise.noise_fraction, kind="stable")[: options.confirm]
    confirmed = _confirmed(baseline, [names[i] for i in ranked], split.held_out, context)
    microseconds = measured_times(baseline, feeds) if options.times else {}
    layers = tuple(
        LayerSensitivity(
            name=name,
            op_type=node.op_type,
            alone_db=sqnr_db(1.0, noise.alone[index]),
            float_db=sqnr_db(1.0, noise.without[index]),
            noise_fraction=float(noise.noise_fraction[index]),
            confirmed_db=confirmed.get(name),
            float_us=microseconds.get(name, (None, None))[0],
            int_us=microseconds.get(name, (None, None))[1],
        )
        for index, (name, node) in enumerate(zip(names, baseline.layers, strict=True))
    )
    return Sensitivity(
        target=row.name,
        output=noise.output,
        samples=noise.samples,
        sqnr_db=sqnr_db(1.0, noise.together),
        confirmed_db=confirmed.get(""),
        layers=layers,
        seconds=time.perf_counter() - start,
        skipped=tuple(skipped),
    )


class LayerNoise(msgspec.Struct, frozen=True):
    """Noise over signal at the worst part of the outputs, by layer.

    Attributes:
        output: label of the part.
        alone: noise with only this layer quantized, `float64[layers]`.
        without: noise with all layers but this one quantized, `float64[layers]`.
        together: noise with all layers quantized.
        noise_fraction: fraction of `together` that disappears without the layer,
            `float64[layers]`.
        samples: number of samples run.
    """

    output: str
    alone: NDArray[np.float64]
    without: NDArray[np.float64]
    together: float
    noise_fraction: NDArray[np.float64]
    samples: int


def layer_noise(
    baseline: Baseline,
    samples: Samples,
    *,
    per_layer: int,
    progress: Progress = no_progress,
) -> LayerNoise:
    """Estimate the noise of each layer in one pass over the samples."""
    names = [node.name or "" for node in baseline.layers]
    errors = baseline.errors()
    alone = [mask(errors, baseline.sources([name])) for name in names]
    without = [mask(errors, baseline.sources([n for n in names if n != name])) for name in names]
    noise: Noise = propagate(
        errors, samples, [*alone, *without], per_set=per_layer, progress=progress
    )
    worst = int(np.argmax(noise.together))
    together = float(noise.together[worst])
    count = len(names)
    rest = noise.fractions[count:, worst]
    return LayerNoise(
        noise.parts[worst],
        noise.sets[:count, worst],
        rest * together,
        together,
        1 - rest,
        noise.samples,
    )


def measured_times(
    baseline: Baseline, samples: Samples
) -> dict[str, tuple[float | None, float | None]]:
    """Measure the microseconds of each layer in float and on integers, by the layer's name.

    The shapes are those of one sample of the first feed. Times are None where a layer cannot be
    run alone, and without a timer (`timing.use_timer`).
    """
    if current_timer() is None:
        return {node.name or "": (None, None) for node in baseline.layers}
    feed = next(iter(samples))
    feed = trim(feed, samples.inputs, 1) or feed
    plan = baseline.plan
    shape_of = concrete_shapes(plan.model, [feed])
    times = LayerTimes(threads=1)
    result = {}
    for node in baseline.layers:
        pair = layer_times(times, plan.model, node, shape_of, plan.target)
        result[node.name or ""] = (_micro(pair[0]), _micro(pair[1]))
    times.keep()
    return result


def _micro(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e6


def _confirmed(
    baseline: Baseline,
    names: Sequence[str],
    held_out: Sequence[Feed],
    context: StepContext,
) -> dict[str, float]:
    """Measure the SQNR of quantized models on held-out samples.

    Returns:
        SQNR in dB with one layer in float, by its name; with no layer in float under `""`.
    """
    everything = [node.name or "" for node in baseline.layers]
    wanted = Reference(baseline.plan.model, held_out, threads=context.threads)
    result: dict[str, float] = {}
    for done, name in enumerate(["", *names], 1):
        model = baseline.quantized([other for other in everything if other != name])
        result[name] = wanted.sqnr_db(model)
        context.progress("confirm", done, len(names) + 1)
    return result
