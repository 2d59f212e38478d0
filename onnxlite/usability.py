"""Usability: a judgement of results that are plainly useless on real samples.

A step can do all that it was asked for and leave a model that computes nothing of use: half of a
network removed before it is trained again, ranges that cut every activation, weights of one bit.
Here its outputs are held against a floor:

    SQNR        of every part of an output, see `onnxlite.fidelity`       at least 10 dB
    cosine      of a part, the mean of all samples                        at least 0.9
    task        agreement of classes, detections, masks or texts that
                stay, where the outputs show such a task, see
                `onnxlite.task_metrics`                                   at least 0.7
    finite      wherever the reference is

Class scores may be far from the reference's and still name the same classes: where 90% agree, the
output's SQNR has to be above 3 dB only. A caller's own floor, in dB, replaces the first three.
Good results are far above these figures: the floor tells failures, it does not rank results.
What is above the floor, but below 15 dB, a cosine of 0.95 or 0.9 of the task, is usable with a
caution.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxlite.errors import OnnxliteError
from onnxlite.fidelity import OutputErrors, Reference
from onnxlite.graph import rank
from onnxlite.holdout import EveryKth, SampleStream, hold_out_candidates, split_stream
from onnxlite.inputs import Feed, feed_size, input_specs, trim
from onnxlite.model import size_bytes
from onnxlite.ops import output_source
from onnxlite.records import Usability
from onnxlite.runtime import Outputs, Session
from onnxlite.samples import BoundSamples, Samples, SamplesLike
from onnxlite.task_metrics import MetricPair, ProposedRun, tensors
from onnxlite.tied_lengths import tie_pair

#: Task metrics that count what stays right; the others are of values, as SQNR and cosine are.
COUNTING_TASKS = frozenset({"agreement", "ctc", "detection", "segmentation", "tokens"})
#: Classes that agree this often vouch for an output.
_VOUCHING_AGREEMENT = 0.9
#: Samples that are judged, of those that most steps hold out.
_SAMPLES = 32
_HOLD_OUT = EveryKth(8, minimum=4)
#: Larger models are not run only for this.
_MAX_BYTES = 1 << 31
#: Normal quantile of a one-sided 95% limit.
_QUANTILE = 1.645


@dataclass(frozen=True)
class Floor:
    """Least figures of a result.

    Attributes:
        sqnr_db: SQNR in dB of a part of an output.
        vouched_db: the same where most classes agree.
        cosine: of a part.
        task: value of a task metric that counts what stays right.
        certain: a task metric of few samples is below it only if chance does not explain it.
    """

    sqnr_db: float
    vouched_db: float
    cosine: float = -1.0
    task: float = 0.0
    certain: bool = True


#: Results below the first floor are not usable, results below the second need a look.
FLOOR, CAUTION = Floor(10.0, 3.0, 0.9, 0.7), Floor(15.0, 6.0, 0.95, 0.9, certain=False)


@dataclass(frozen=True)
class PartFigures:
    """Figures of a part of an output that the samples say something about.

    Attributes:
        output: name of the output.
        label: for example `"output0[:, 4:22]"`.
        sqnr_db: SQNR in dB; infinite without any error.
        cosine: mean of all samples; None for scores, of which most samples may have none.
    """

    output: str
    label: str
    sqnr_db: float
    cosine: float | None = None


@dataclass(frozen=True)
class Figures:
    """Figures of a candidate's outputs.

    Attributes:
        samples: number of samples that they are from.
        parts: decided parts of all float outputs.
        agreement: fraction of samples with the reference's class, by the name of the output.
        tasks: values of counting task metrics, 0 to 1, by name.
        unseen: labels of the parts with scores of which the samples have none.
        broken: name of an output with new NaN or infinite values; empty if there is none.
    """

    samples: int
    parts: tuple[PartFigures, ...] = ()
    agreement: Mapping[str, float] = field(default_factory=dict)
    tasks: Mapping[str, float] = field(default_factory=dict)
    unseen: tuple[str, ...] = ()
    broken: str = ""


def judge(figures: Figures, *, floor_db: float | None, advice: str) -> Usability:
    """Hold figures against the floor.

    Args:
        figures: of real samples that the result was not fitted to, as far as there are some.
        floor_db: the caller's own floor of SQNR in dB; 0 asks for finite outputs only, None
            takes that of this module.
        advice: how the result can be made better, for the reason.
    """
    worst = min(figures.parts, key=lambda part: part.sqnr_db, default=None)
    cosines = [part.cosine for part in figures.parts if part.cosine is not None]
    found = Usability(
        samples=figures.samples,
        part="" if worst is None else worst.label,
        sqnr_db=None if worst is None or worst.sqnr_db == math.inf else worst.sqnr_db,
        cosine=min(cosines, default=None),
        tasks=dict(figures.tasks),
    )
    least = floor_db or -math.inf
    floor = FLOOR if floor_db is None else Floor(least, least)
    where = f"on {figures.samples} samples: {advice}"
    if fault := _not_finite(figures) or next(_below(figures, floor), ""):
        return found.refused(f"{fault} {where}")
    if worst is None and not figures.tasks:
        return found.undecided("the samples say nothing about any float output")
    if floor_db is None and (weakness := next(_below(figures, CAUTION), "")):
        return found.with_caution(f"{weakness} {where}")
    if floor_db is None and figures.unseen:
        return found.with_caution(
            f"the {figures.samples} samples that it is judged on say nothing about "
            f"{figures.unseen[0]}, whose scores are near zero: give more samples"
        )
    return found


def judge_models(
    reference: ir.Model,
    candidate: ir.Model,
    samples: SamplesLike | None,
    *,
    floor_db: float | None,
    advice: str,
    spread: bool = False,
    threads: int | None = None,
) -> Usability:
    """Run both models on up to 32 samples and judge the candidate.

    Every eighth feed is taken, which steps and repair hold out; all where there are too few.

    Args:
        reference: the model to be reproduced.
        candidate: the model to judge; floats may have another width.
        samples: inputs of the reference; without them nothing is decided.
        floor_db: see `judge`.
        advice: see `judge`.
        spread: take the single samples that `holdout.hold_out_candidates` names, instead of
            feeds.
        threads: of ONNX Runtime; None takes all cores.

    Raises:
        SamplesError: the samples do not fit the reference.
    """
    if samples is None:
        return Usability().undecided("there are no samples to judge it on")
    if size_bytes(reference) > _MAX_BYTES:
        return Usability().undecided("the model is too large to run it for this alone")
    stream = Samples(samples, input_specs(reference))
    feeds = _single_samples(stream) if spread else []
    feeds = feeds or list(_first_samples(split_stream(stream, _HOLD_OUT)[1] or stream))
    sizes = [feed_size(feed, stream.inputs) for feed in feeds]
    try:
        bound = BoundSamples(feeds, stream.inputs)
        tied = tie_pair(reference, candidate, bound, threads=threads)
        if tied is not None:
            reference, candidate = tied.reference.model, tied.candidate.model
            feeds = list(tied.feeds)
        figures = _measured(reference, candidate, feeds, sizes, threads)
    except OnnxliteError as error:
        return Usability().undecided(f"the models could not be compared: {error}")
    return judge(figures, floor_db=floor_db, advice=advice)


def score_outputs(model: ir.Model) -> frozenset[str]:
    """Names of the outputs `[samples, classes]` of a softmax or a classifier's last layer."""
    return frozenset(
        value.name or ""
        for value in model.graph.outputs
        if rank(value) in (2, None) and output_source(value).kind in ("probabilities", "linear")
    )


def counted_tasks(metrics: Iterable[MetricPair]) -> dict[str, float]:
    """Values of the task metrics that count what stays right, and that samples decide."""
    return {m.name: 1 - m.drop for m in metrics if m.name in COUNTING_TASKS and m.drop is not None}


def _not_finite(figures: Figures) -> str:
    if not figures.broken:
        return ""
    return f"output {figures.broken!r} has NaN or infinite values that the original has not"


def _below(figures: Figures, floor: Floor) -> Iterator[str]:
    """Figures below a floor, the worst SQNR first."""
    vouched = {name for name, value in figures.agreement.items() if value >= _VOUCHING_AGREEMENT}
    for part in sorted(figures.parts, key=lambda part: part.sqnr_db):
        least = floor.vouched_db if part.output in vouched else floor.sqnr_db
        if part.sqnr_db < least:
            yield f"SQNR of {part.label} is {part.sqnr_db:.1f} dB, below {least:g} dB,"
    for part in figures.parts:
        if part.cosine is not None and part.cosine < floor.cosine and part.output not in vouched:
            yield f"cosine of {part.label} is {part.cosine:.3f}, below {floor.cosine:g},"
    spread = math.sqrt(floor.task * (1 - floor.task) / max(figures.samples, 1))
    spread = spread if floor.certain else 0.0
    for name, value in figures.tasks.items():
        if value < floor.task - _QUANTILE * spread:
            yield f"{name} is {value:.0%} of the original's, below {floor.task:.0%},"


def _single_samples(stream: Samples) -> list[Feed]:
    """The samples that a step holds out singly; none of few."""
    samples = SampleStream(stream)
    return samples.single(hold_out_candidates(samples))


def _first_samples(stream: Samples) -> Iterator[Feed]:
    """The first 32 samples; feeds whose batch axis is fixed stay whole."""
    left = _SAMPLES
    for feed in stream:
        kept = trim(feed, stream.inputs, left) or feed
        yield kept
        left -= feed_size(kept, stream.inputs)
        if left <= 0:
            return


def _measured(
    reference: ir.Model,
    candidate: ir.Model,
    feeds: list[Feed],
    sizes: list[int],
    threads: int | None,
) -> Figures:
    wanted, made = Reference(reference, feeds, threads=threads), list[Outputs]()
    errors = wanted.errors(_recorder(candidate, threads, made))
    run = ProposedRun(reference, None)
    for feed, one, two, size in zip(feeds, wanted.outputs, made, sizes, strict=True):
        run.add(feed, tensors(one), tensors(two), size)
    metric = run.result()
    return Figures(
        samples=sum(sizes),
        parts=tuple(_parts(errors)),
        agreement=_agreement(wanted.outputs, made, score_outputs(reference)),
        tasks={} if metric is None else counted_tasks([metric]),
        unseen=tuple(
            part.label
            for output in errors.outputs.values()
            for part in output.parts
            if part.kind == "scores" and part.undecided
        ),
        broken=next((name for name, error in errors.outputs.items() if error.broken), ""),
    )


def _recorder(
    model: ir.Model, threads: int | None, made: list[Outputs]
) -> Callable[[Feed], Outputs]:
    """A function that runs a model and keeps its outputs in `made`."""
    session = Session(model, threads=threads)

    def run(feed: Feed) -> Outputs:
        made.append(session.run(session.suited(feed)))
        return made[-1]

    return run


def _parts(errors: OutputErrors) -> Iterator[PartFigures]:
    for name, output in errors.outputs.items():
        for index, part in enumerate(output.parts):
            if part.undecided:
                continue
            cosines = output.cosines(index)
            known = part.kind != "scores" and len(cosines) > 0
            cosine = float(cosines.mean()) if known else None
            yield PartFigures(name, part.label, part.sqnr_db, cosine)


def _agreement(
    wanted: Sequence[Outputs], made: Sequence[Outputs], scores: Iterable[str]
) -> dict[str, float]:
    """Fraction of samples of the same class, of outputs float[samples, classes]."""
    found = {}
    for name in scores:
        pairs = [(one[name], two[name]) for one, two in zip(wanted, made, strict=True)]
        if all(one.ndim == 2 and one.shape[1] > 1 for one, _ in pairs):
            same = [one.argmax(axis=1) == two.argmax(axis=1) for one, two in pairs]
            found[name] = float(np.concatenate(same).mean())
    return found
