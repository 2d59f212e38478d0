"""Fidelity: the outputs of two models on the same samples."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import onnx_ir as ir
from msgspec import Meta
from numpy.typing import NDArray

from onnxlite.batch_axis import bind
from onnxlite.errors import OptionError
from onnxlite.evaluate.layers import LayerFidelity, compare_layers
from onnxlite.evaluate.metrics import Meter, OutputFidelity
from onnxlite.evaluate.per_sample import SampleSpread
from onnxlite.fidelity import common_outputs, match_outputs
from onnxlite.inputs import Feed, InputSpec, feed_size, input_specs
from onnxlite.model import ModelLike, PlainModel, load, plain_model
from onnxlite.ops import random_outputs, value_lengths
from onnxlite.options import Limit, Options
from onnxlite.records import Report
from onnxlite.runtime import Session, probe_feeds
from onnxlite.samples import Samples, SamplesLike
from onnxlite.step import StepContext, from_options
from onnxlite.task_metrics import (
    MetricLike,
    MetricPair,
    ProposedRun,
    needs_real_lengths,
    tensors,
)
from onnxlite.tied_lengths import TiedPair, agreement, tie_pair

#: The worst sample is named where it is so far below the figure of all.
_FAR_BELOW_DB = 3.0
#: Task metrics of outputs without one class per sample.
_NO_CLASSES = frozenset({"ctc", "detection", "embedding", "segmentation", "tokens"})
#: Types of inputs that are fed to a candidate of another width as well.
_FLOATS = frozenset({"float16", "float32", "float64"})


class Fidelity(Report, frozen=True, kw_only=True):
    """Fidelity of a candidate to its reference.

    Attributes:
        samples: number of samples compared.
        outputs: one row per output.
        metrics: task metrics of both models: the one that was asked for or fits the outputs,
            and accuracy if there were labels; none on generated inputs.
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
        """Top-1 agreement of the worst output that looks like class scores, if any.

        None where the task metric shows that the outputs hold no classes.
        """
        if any(metric.name in _NO_CLASSES for metric in self.metrics):
            return None
        shares = [row.agreement for row in self.outputs if row.agreement is not None]
        return min(shares, default=None)

    def __str__(self) -> str:
        cut = any(len(row.parts) > 1 for row in self.outputs)
        where = f" at {self.worst_part}" if cut or len(self.outputs) > 1 else ""
        parts = [f"SQNR {self.sqnr_db:.1f} dB{where}" if self.sqnr_db < math.inf else "identical"]
        spread = self.per_sample
        if spread is not None and spread.worst < self.sqnr_db - _FAR_BELOW_DB < math.inf:
            parts.append(f"worst sample {spread.worst_sample} at {spread.worst:.1f} dB")
        if self.agreement is not None and not self.metrics:
            parts.append(f"top-1 agreement {self.agreement:.2%}")
        parts += map(str, self.metrics)
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


@from_options(CompareOptions, runtime=("batch_axis", "threads", "progress"))
def compare(
    reference: ModelLike,
    candidate: ModelLike,
    *,
    samples: SamplesLike | None = None,
    metric: MetricLike | None = None,
    labels: NDArray[Any] | Sequence[int] | None = None,
    options: CompareOptions,
    context: StepContext,
) -> Fidelity:
    """Run both models on the same samples and measure the difference of their outputs.

    Outputs are matched by name, or by position where the names differ. Nothing but sums
    is kept between feeds; metrics that need all samples at once keep what they compare.

    Args:
        reference: the model to be reproduced.
        candidate: the model to judge.
        samples: inputs in any form of `SamplesLike`; None generates inputs, which show whether
            a rewrite is exact and little about a lossy one.
        metric: a task metric: a name in `task_metrics.METRICS`, a fitted metric, or a function
            of a model's outputs, and of the labels where there are some. By default the one
            that fits the outputs; `metrics` has it with the reason.
        labels: class of each sample, `int[samples]`: adds the accuracy of both models, on
            the first output that holds class scores `[n, classes]` or classes `[n]`.

    Raises:
        OptionError: the models' inputs or number of outputs differ; the metric or the labels
            fit no output.
        SamplesError: the samples do not fit the models, or the labels do not fit them.
        VerificationError: an output has another shape in the candidate.
        ExecutionError: ONNX Runtime does not run one of the models.
    """
    threads, progress = context.threads, context.progress
    reference, candidate = plain_model(reference), plain_model(candidate)
    first, second = load(reference), load(candidate)
    samples = bind(first, samples, context.batch_axis)
    specs, renamed, notes = _joint_inputs(input_specs(first), input_specs(second))
    feeds: Iterable[Feed]
    if samples is None:
        feeds = probe_feeds(first)
        notes.append("compared on generated inputs")
    else:
        feeds = stream = Samples(samples, specs, limit=options.limit)
        specs = stream.inputs
    varying = bool(value_lengths(first))
    real = needs_real_lengths(metric, labelled=labels is not None)
    ties = varying and not real
    tied = _tie(first, second, feeds, renamed, threads) if ties else None
    agreed = None if tied is None else agreement(second, tied.feeds, threads=threads)
    if tied is not None:
        reference, candidate = first, second = tied.reference.model, tied.candidate.model
        feeds, renamed = tied.feeds, renamed | {name: name for name in tied.names}
    notes += _notes(first, second, untied=varying and tied is None)
    sessions = [_open(reference, first, threads), _open(candidate, second, threads)]
    pairs = _match(sessions[0].output_names, sessions[1].output_names, notes)
    meters: dict[str, Meter] = {}
    tasks = _task_runs(first, metric, labels, real=samples is not None)
    count = 0
    for done, feed in enumerate(feeds, 1):
        size = feed_size(feed, specs)
        have = tensors(sessions[0].run(feed))
        given = sessions[1].suited({renamed[name]: array for name, array in feed.items()})
        other = sessions[1].run(given)
        other = {name: other[pairs[name]] for name in have}
        have, other = common_outputs(have, other, varying=ties and tied is None)
        notes += [f"{name!r} is no tensor: not compared" for name in pairs if name not in have]
        for name in have:
            meter = meters.setdefault(name, Meter(name, varying=varying))
            meter.update(have[name], other[name], size)
        for task in tasks:
            task.add(feed, have, other, size)
        count += size
        progress("compare", done, 0)
    rows: tuple[LayerFidelity, ...] = ()
    if options.layers:
        rows, more = compare_layers(
            first, second, feeds, renamed, threads=threads, progress=progress
        )
        notes += more
    found = Fidelity(
        samples=count,
        outputs=tuple(meter.result() for meter in meters.values()),
        metrics=tuple(pair for task in tasks if (pair := task.result()) is not None),
        notes=tuple(dict.fromkeys(notes)),
        layers=rows,
        length_agreement=agreed,
    )
    return msgspec.structs.replace(
        found,
        notes=found.notes + tuple(f"undecided: {text}" for text in found.undecided),
    )


def _task_runs(
    model: ir.Model,
    metric: MetricLike | None,
    labels: NDArray[Any] | Sequence[int] | None,
    *,
    real: bool,
) -> list[ProposedRun]:
    """The metric that was asked for or is proposed, and accuracy beside it."""
    given = None if labels is None else np.asarray(labels)
    if metric is None and given is None and not real:
        return []
    runs = [ProposedRun(model, metric, given)]
    if metric not in (None, "accuracy") and given is not None:
        runs.append(ProposedRun(model, "accuracy", given))
    return runs


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
        joint.append(msgspec.structs.replace(one, shape=shape))
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
