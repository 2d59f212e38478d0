"""Fidelity: the outputs of two models on the same samples."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import msgspec
import numpy as np
import onnx_ir as ir
from msgspec import Meta
from numpy.typing import NDArray

from onnxlite.errors import OptionError, SamplesError
from onnxlite.evaluate.layers import LayerFidelity, compare_layers
from onnxlite.evaluate.metrics import Meter, OutputFidelity, predicted_classes
from onnxlite.evaluate.per_sample import SampleSpread
from onnxlite.fidelity import match_outputs
from onnxlite.model import ModelLike, PlainModel, load, plain_model
from onnxlite.ops import random_outputs, value_lengths
from onnxlite.options import Limit, Options
from onnxlite.records import Report
from onnxlite.runtime import Outputs, Session, probe_feeds
from onnxlite.samples import Feed, InputSpec, Samples, SamplesLike, feed_size, input_specs
from onnxlite.step import StepContext, from_options
from onnxlite.tied_lengths import TiedPair, agreement, tie_pair

#: A task metric: all outputs of one model by name, samples along the first axis in the
#: order given, to one number. For example, with labels at hand:
#: `lambda outputs: (outputs["logits"].argmax(1) == labels).mean()`.
Metric: TypeAlias = Callable[[Outputs], float]

#: The worst sample is named where it is so far below the figure of all.
_FAR_BELOW_DB = 3.0
#: Types of inputs that are fed to a candidate of another width as well.
_FLOATS = frozenset({"float16", "float32", "float64"})


class MetricPair(msgspec.Struct, frozen=True, kw_only=True):
    """A task metric of both models."""

    name: str
    reference: float
    candidate: float


class Fidelity(Report, frozen=True, kw_only=True):
    """Fidelity of a candidate to its reference.

    Attributes:
        samples: number of samples compared.
        outputs: one row per output.
        metrics: task metrics of both models, if there were labels or a metric.
        notes: outputs that were matched by position, or could not be compared.
        layers: one row per layer, if they were asked for.
        length_agreement: where lengths of outputs depend on values, fraction of the rounded
            values that both models agree on, 0 to 1; figures are then for the lengths of the
            reference (`tied_lengths`). None if there are none, or they could not be tied.
    """

    samples: int
    outputs: tuple[OutputFidelity, ...]
    metrics: tuple[MetricPair, ...] = ()
    notes: tuple[str, ...] = ()
    layers: tuple[LayerFidelity, ...] = ()
    length_agreement: float | None = None

    @property
    def sqnr_db(self) -> float:
        """SQNR of the worst part of a float output: infinite if identical, minus if broken."""
        ratios = [row.decibels for row in self.outputs if row.max_abs is not None]
        return min(ratios, default=math.inf if all(r.equal == 1 for r in self.outputs) else 0.0)

    @property
    def worst_part(self) -> str:
        """Label of that part, for example `"output0[:, 4:22]"`; empty without float outputs."""
        rows = [row for row in self.outputs if row.max_abs is not None]
        return min(rows, key=lambda row: row.decibels).worst_part if rows else ""

    @property
    def per_sample(self) -> SampleSpread | None:
        """SQNR of single samples in dB, of that part; None without float outputs."""
        rows = [row for row in self.outputs if row.per_sample is not None]
        return min(rows, key=lambda row: row.decibels).per_sample if rows else None

    @property
    def undecided(self) -> tuple[str, ...]:
        """Parts about which the samples say nothing, with the reason."""
        return tuple(
            f"{part.label}: {part.undecided}"
            for row in self.outputs
            for part in row.parts
            if part.undecided
        )

    @property
    def agreement(self) -> float | None:
        """Top-1 agreement of the worst output that looks like class scores, if any."""
        shares = [row.agreement for row in self.outputs if row.agreement is not None]
        return min(shares, default=None)

    def __str__(self) -> str:
        cut = any(len(row.parts) > 1 for row in self.outputs)
        where = f" at {self.worst_part}" if cut or len(self.outputs) > 1 else ""
        parts = [f"SQNR {self.sqnr_db:.1f} dB{where}" if self.sqnr_db < math.inf else "identical"]
        spread = self.per_sample
        if spread is not None and spread.worst < self.sqnr_db - _FAR_BELOW_DB:
            parts.append(f"worst sample {spread.worst_sample} at {spread.worst:.1f} dB")
        if self.agreement is not None:
            parts.append(f"top-1 agreement {self.agreement:.2%}")
        parts += [f"{m.name} {m.reference:.4g} -> {m.candidate:.4g}" for m in self.metrics]
        if self.length_agreement is not None:
            parts.append(f"{self.length_agreement:.2%} of the lengths agree")
        if count := len(self.undecided):
            parts.append(f"{count} part{'s' if count > 1 else ''} undecided")
        return ", ".join(parts) + f" on {self.samples} samples"


class CompareOptions(Options, frozen=True, kw_only=True):
    """Options of `compare`."""

    layers: Annotated[
        bool,
        Meta(
            description="Also compare layer by layer, to find which one breaks the model. Layers "
            "are matched by name and by the lineage that steps record; it takes a few more runs "
            "of both models, in bounded memory."
        ),
    ] = False
    limit: Limit = None


@from_options(CompareOptions, runtime=("threads", "progress"))
def compare(
    reference: ModelLike,
    candidate: ModelLike,
    *,
    samples: SamplesLike | None = None,
    metric: Metric | None = None,
    labels: NDArray[Any] | Sequence[int] | None = None,
    options: CompareOptions,
    context: StepContext,
) -> Fidelity:
    """Run both models on the same samples and measure the difference of their outputs.

    Outputs are matched by name, or by position where the names differ. Nothing but sums
    is kept between feeds, except with a `metric`, which needs all outputs of both models.

    Args:
        reference: the model to be reproduced.
        candidate: the model to judge.
        samples: inputs in any form of `SamplesLike`; None generates inputs, which show whether
            a rewrite is exact and little about a lossy one.
        metric: a task metric, see `Metric`.
        labels: class of each sample, `int[samples]`: adds the accuracy of both models, on
            the first output that holds class scores `[n, classes]` or classes `[n]`.

    Raises:
        OptionError: the models' inputs or number of outputs differ; no output fits the
            labels.
        SamplesError: the samples do not fit the models, or the labels do not fit them.
        VerificationError: an output has another shape in the candidate.
        ExecutionError: ONNX Runtime does not run one of the models.
    """
    threads, progress = context.threads, context.progress
    reference, candidate = plain_model(reference), plain_model(candidate)
    first, second = load(reference), load(candidate)
    specs, renamed, notes = _joint_inputs(input_specs(first), input_specs(second))
    feeds: Iterable[Feed]
    if samples is None:
        feeds = probe_feeds(first)
        notes.append("compared on generated inputs")
    else:
        feeds = Samples(samples, specs, limit=options.limit)
    varying = bool(value_lengths(first))
    # A task metric is of what a model really gives.
    natural = metric is not None or labels is not None or not varying
    tied = None if natural else _tie(first, second, feeds, renamed, threads)
    agreed = None if tied is None else agreement(second, tied.feeds, threads=threads)
    if tied is not None:
        reference, candidate = first, second = tied.reference.model, tied.candidate.model
        feeds, renamed = tied.feeds, renamed | {name: name for name in tied.names}
    notes += _notes(first, second, untied=varying and tied is None)
    sessions = [_open(reference, first, threads), _open(candidate, second, threads)]
    pairs = _match(sessions[0].output_names, sessions[1].output_names, notes)
    meters: dict[str, Meter] = {}
    kept: list[tuple[Outputs, Outputs]] = []
    classes: list[tuple[NDArray[Any], NDArray[Any]]] = []
    count = 0
    for done, feed in enumerate(feeds, 1):
        size = feed_size(feed, specs)
        have = _tensors(sessions[0].run(feed))
        given = sessions[1].suited({renamed[name]: array for name, array in feed.items()})
        other = sessions[1].run(given)
        other = {name: other[pairs[name]] for name in have}
        notes += [f"{name!r} is no tensor: not compared" for name in pairs if name not in have]
        for name in have:
            meter = meters.setdefault(name, Meter(name, varying=varying))
            meter.update(have[name], other[name], size)
        if metric is not None:
            kept.append((have, other))
        if labels is not None:
            scores = _class_output(have)
            classes.append((predicted_classes(have[scores]), predicted_classes(other[scores])))
        count += size
        progress("compare", done, 0)
    rows: tuple[LayerFidelity, ...] = ()
    if options.layers:
        rows, more = compare_layers(
            first, second, feeds, renamed, threads=threads, progress=progress
        )
        notes += more
    metrics = [] if labels is None else [_accuracy(classes, np.asarray(labels))]
    if metric is not None:
        metrics.append(_metric_pair(metric, kept))
    found = Fidelity(
        samples=count,
        outputs=tuple(meter.result() for meter in meters.values()),
        metrics=tuple(metrics),
        notes=tuple(dict.fromkeys(notes)),
        layers=rows,
        length_agreement=agreed,
    )
    return msgspec.structs.replace(
        found,
        notes=found.notes + tuple(f"undecided: {text}" for text in found.undecided),
    )


def _open(source: PlainModel, model: ir.Model, threads: int | None) -> Session:
    """A session from the file itself where there is one: no second copy in memory."""
    if isinstance(source, str | os.PathLike):
        return Session(Path(source), threads=threads)
    return Session(model, threads=threads)


def _joint_inputs(
    first: Sequence[InputSpec], second: Sequence[InputSpec]
) -> tuple[tuple[InputSpec, ...], dict[str, str], list[str]]:
    """Inputs that both models accept, the second one's names, and notes on them."""
    names = {spec.name for spec in second}
    notes = []
    if {spec.name for spec in first} == names:
        partners = [next(s for s in second if s.name == spec.name) for spec in first]
    elif len(first) == len(second):
        partners = list(second)
        notes.append(f"inputs matched by position: {[s.name for s in first]} are {sorted(names)}")
    else:
        raise OptionError(
            f"the models cannot be compared: the reference takes {', '.join(map(str, first))} "
            f"and the candidate {', '.join(map(str, second))}"
        )
    joint = []
    for one, two in zip(first, partners, strict=True):
        shape = one.shape
        if one.shape is not None and two.shape is not None:
            fits = len(one.shape) == len(two.shape) and all(
                not isinstance(a, int) or not isinstance(b, int) or a == b
                for a, b in zip(one.shape, two.shape, strict=True)
            )
            if not fits or not _convertible(one.dtype, two.dtype):
                raise OptionError(
                    f"the models cannot be compared: the reference's input is {one}, the "
                    f"candidate's {two}"
                )
            dims = zip(one.shape, two.shape, strict=True)
            shape = tuple(b if isinstance(b, int) else a for a, b in dims)
        joint.append(InputSpec(one.name, one.dtype, shape))
    renamed = {one.name: two.name for one, two in zip(first, partners, strict=True)}
    return tuple(joint), renamed, notes


def _convertible(first: str, second: str) -> bool:
    """Tell whether values of one type can be fed as the other, as floats can."""
    return first == second or {first, second} <= _FLOATS


def _match(first: Sequence[str], second: Sequence[str], notes: list[str]) -> dict[str, str]:
    """The candidate's output for every output of the reference."""
    pairs = match_outputs(first, second)
    if pairs is None:
        raise OptionError(
            f"the models cannot be compared: the outputs are {list(first)} in the reference and "
            f"{list(second)} in the candidate"
        )
    if set(pairs) != set(pairs.values()):
        notes.append(f"outputs matched by position: {list(first)} are {list(second)}")
    return pairs


def _tie(
    first: ir.Model,
    second: ir.Model,
    feeds: Iterable[Feed],
    renamed: Mapping[str, str],
    threads: int | None,
) -> TiedPair | None:
    """Tie the lengths of two models with the same inputs."""
    if any(one != two for one, two in renamed.items()):
        return None
    return tie_pair(first, second, feeds, threads=threads)


def _metric_pair(metric: Metric, kept: Sequence[tuple[Outputs, Outputs]]) -> MetricPair:
    """Apply a task metric to all outputs of both models."""
    values = [float(metric(_joined([pair[side] for pair in kept]))) for side in (0, 1)]
    name = getattr(metric, "__name__", "metric").replace("<lambda>", "metric")
    return MetricPair(name=name, reference=values[0], candidate=values[1])


def _notes(first: ir.Model, second: ir.Model, *, untied: bool) -> list[str]:
    """Note lengths that are not tied, and random nodes without a partner of the same name."""
    notes = []
    if untied:
        notes.append("lengths depend on values and are not tied: what is common is compared")
    names = [set(random_outputs(each)) for each in (first, second)]
    if all(names) and names[0] != names[1]:
        notes.append(
            f"random nodes have other names in the two models ({sorted(names[0] - names[1])} and "
            f"{sorted(names[1] - names[0])}), so their noise differs and counts as error"
        )
    return notes


def _tensors(outputs: Mapping[str, object]) -> Outputs:
    """Without sequences and maps."""
    return {name: array for name, array in outputs.items() if isinstance(array, np.ndarray)}


def _class_output(outputs: Outputs) -> str:
    """The first output of class scores, `float[n, classes]`, or of classes, `int[n]`."""
    for name, array in outputs.items():
        scores = array.ndim == 2 and array.dtype.kind == "f" and array.shape[1] > 1
        if scores or (array.ndim == 1 and array.dtype.kind in "iu"):
            return name
    shapes = {name: list(array.shape) for name, array in outputs.items()}
    raise OptionError(
        f"no output holds classes to hold the labels against (outputs: {shapes}): give a metric"
    )


def _accuracy(
    classes: Sequence[tuple[NDArray[Any], NDArray[Any]]], labels: NDArray[Any]
) -> MetricPair:
    sides = [np.concatenate([pair[side] for pair in classes]) for side in (0, 1)]
    if labels.shape != sides[0].shape:
        raise SamplesError(
            f"labels of shape {list(labels.shape)} for {len(sides[0])} samples: "
            "give one class per sample"
        )
    shares = [float(np.mean(side == labels)) for side in sides]
    return MetricPair(name="accuracy", reference=shares[0], candidate=shares[1])


def _joined(parts: Sequence[Outputs]) -> Outputs:
    """All feeds' outputs as one array each; one without a sample axis gets it."""
    joined: Outputs = {}
    for name in parts[0]:
        arrays = [part[name] for part in parts]
        try:
            joined[name] = np.concatenate([np.atleast_1d(array) for array in arrays])
        except ValueError as error:
            raise OptionError(
                f"output {name!r} has another shape on every feed, so no metric can be computed "
                f"on all of them: {error}; give samples of one size"
            ) from error
    return joined
