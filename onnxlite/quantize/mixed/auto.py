"""Automatic choice of static, dynamic or no quantization, by measurement on this machine.

Calibrate on the first feeds, make the candidates, measure each on the last feeds, choose.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from onnxlite.errors import ExecutionError, OptionError, VerificationError
from onnxlite.model import ModelLike, clone, in_kind, load
from onnxlite.quantize.core.options import Rounding, StaticOptions
from onnxlite.quantize.dynamic.kernels import dynamic_target
from onnxlite.quantize.dynamic.step import DynamicOptions, quantize_dynamic_ir
from onnxlite.quantize.mixed.candidate_metrics import CandidateMetrics, measure_candidate
from onnxlite.quantize.static.step import quantize_static_ir
from onnxlite.records import (
    LayerRow,
    Progress,
    ReportSink,
    Skipped,
    StepReport,
    announce,
    no_progress,
)
from onnxlite.samples import Feed, Samples, SamplesLike, input_specs

logger = logging.getLogger(__name__)


_STEP = "quantize-auto"

Way = Literal["static", "dynamic"]

#: 20 dB is one percent of noise: a cosine of 0.995 to the float model's output.
MIN_SQNR_DB = 20.0
#: A candidate must be faster than float by more than chance.
_FASTER = 0.97
#: Candidates within this factor are as fast as each other: the more exact one is taken.
_TIE = 1.05
#: A quarter of the feeds, and at most so many, are kept out of calibration to judge on.
_MOST_JUDGED = 16
_BUDGET_S = 3.0


@dataclass(frozen=True, kw_only=True)
class AutoOptions:
    """The options of `onnxlite.quantize_auto`, which tells what they mean."""

    target: str = "cpu"
    min_sqnr_db: float = MIN_SQNR_DB
    rounding: Rounding = "compensated"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    limit: int | None = None


@in_kind
def quantize_auto(
    model: ModelLike,
    samples: SamplesLike,
    *,
    target: str = "cpu",
    min_sqnr_db: float = MIN_SQNR_DB,
    rounding: Rounding = "compensated",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    limit: int | None = None,
    on_report: ReportSink | None = None,
    progress: Progress = no_progress,
) -> ir.Model:
    """Quantize to INT8 in the way that suits the model: `quantize_static` or `quantize_dynamic`.

    Both are made and compared with the float model, in fidelity and in latency of interleaved
    runs on one thread, on samples that neither was calibrated on. Of those that keep
    `min_sqnr_db` the fastest is returned, and of two that are equally fast the more exact one.
    Where none is both exact enough and faster than float, the model stays float.

    Args:
        model: a float32 model: path, `ModelProto` or `ir.Model`; it is not changed.
        samples: unlabelled inputs in any form of `SamplesLike`, of the sizes that matter: the
            first three quarters of their batches calibrate, the others judge. A single batch
            does both, which the report says.
        target: `"cpu"` (this machine), `"cpu-avx2"` or `"cpu-arm"`.
        min_sqnr_db: signal to quantization noise that every output must keep, in dB.
        rounding: of static quantization, see `quantize_static`.
        include: patterns (`fnmatch`) of layer names to quantize; empty means all.
        exclude: patterns of names that stay float.
        limit: use at most this many samples.
        on_report: called with the `StepReport`: one row per candidate with its figures, then
            the rows of the one that was taken.
        progress: called as the work goes on.

    Returns:
        The quantized model, or a copy of the input (the report and a logged warning say
        why): a `ModelProto` if one came in, else an `ir.Model`.

    Raises:
        OptionError: an unknown target, or `min_sqnr_db` is no number.
        SamplesError: the samples do not fit, or make an inner value NaN or infinite.
        ExecutionError: ONNX Runtime cannot run the model.
    """
    options = AutoOptions(
        target=target,
        min_sqnr_db=min_sqnr_db,
        rounding=rounding,
        include=tuple(include),
        exclude=tuple(exclude),
        limit=limit,
    )
    result, report = quantize_auto_ir(load(model), samples, options, progress=progress)
    announce(report, on_report, logger)
    return result


@dataclass(frozen=True)
class _Candidate:
    model: ir.Model
    report: StepReport
    verdict: CandidateMetrics


def quantize_auto_ir(
    model: ir.Model,
    samples: SamplesLike,
    options: AutoOptions | None = None,
    *,
    progress: Progress = no_progress,
) -> tuple[ir.Model, StepReport]:
    """Quantize a private copy of a model; see `quantize_auto`."""
    start = time.perf_counter()
    options = options or AutoOptions()
    _check(options)
    feeds = Samples(samples, input_specs(model), limit=options.limit)
    calibration, judged, note = _split(feeds)
    trial = _Trial(clone(model), calibration, judged, options, progress)
    # Rounding changes no time, so the slow kind is used only where static has won by time.
    for way in ("dynamic", "static"):
        trial.make(way, "nearest")
    if options.rounding != "nearest" and trial.fastest() == "static":
        trial.make("static", options.rounding)
    best = trial.best()
    skipped = [*trial.skipped, *trial.losers(best)]
    if note:
        skipped.append(Skipped(_STEP, "", "samples-shared", note))
    rows = [_row(way, candidate) for way, candidate in trial.candidates.items()]
    if best is None:
        reasons = "; ".join(d.message for d in skipped if d.what in _NAMES.values())
        return clone(model), StepReport(
            step=_STEP,
            changed=False,
            summary=f"float stays: {reasons}",
            skipped=tuple(skipped),
            layers=tuple(rows),
            seconds=time.perf_counter() - start,
        )
    winner = trial.candidates[best]
    return winner.model, StepReport(
        step=_STEP,
        changed=True,
        summary=f"{best}, {winner.verdict}: {winner.report.summary}",
        changes=winner.report.changes,
        skipped=(*skipped, *winner.report.skipped),
        layers=(*rows, *winner.report.layers),
        seconds=time.perf_counter() - start,
    )


_NAMES: Mapping[Way, str] = {"static": "quantize-static", "dynamic": "quantize-dynamic"}


class _Trial:
    """The candidates so far, and why some are none."""

    def __init__(
        self,
        model: ir.Model,
        calibration: Samples,
        judged: Sequence[Feed],
        options: AutoOptions,
        progress: Progress,
    ) -> None:
        self._model = model
        self._calibration = calibration
        self._judged = judged
        self._options = options
        self._progress = progress
        self.candidates: dict[Way, _Candidate] = {}
        self.skipped: list[Skipped] = []

    def make(self, way: Way, rounding: Rounding) -> None:
        """Quantize in one way and judge the result."""
        try:
            made, report = self._quantized(way, rounding)
            if not report.changed:
                self._decline(way, report.summary)
                return
            verdict = measure_candidate(
                self._model,
                made,
                self._judged,
                budget_s=_BUDGET_S,
            )
        # The other way may work where this one does not.
        except (ExecutionError, VerificationError) as error:
            self._decline(way, str(error))
            return
        self.candidates[way] = _Candidate(made, report, verdict)

    def fastest(self) -> Way | None:
        """The candidate that would be taken if all were exact enough."""
        return self._choice(-float("inf"))

    def best(self) -> Way | None:
        """The candidate that is taken, None for float."""
        return self._choice(self._options.min_sqnr_db)

    def losers(self, best: Way | None) -> list[Skipped]:
        """Why the other candidates are not taken."""
        return [
            Skipped(_NAMES[way], "", "not-the-best", self._reason(candidate, best))
            for way, candidate in self.candidates.items()
            if way != best
        ]

    def _choice(self, floor: float) -> Way | None:
        able = {
            way: candidate.verdict
            for way, candidate in self.candidates.items()
            if candidate.verdict.sqnr_db >= floor and candidate.verdict.latency_ratio <= _FASTER
        }
        if not able:
            return None
        least = min(verdict.latency_ratio for verdict in able.values())
        tied = [way for way, v in able.items() if v.latency_ratio <= _TIE * least]
        return max(tied, key=lambda way: able[way].sqnr_db)

    def _reason(self, candidate: _Candidate, best: Way | None) -> str:
        verdict = candidate.verdict
        if verdict.sqnr_db < self._options.min_sqnr_db:
            return f"{verdict}, {self._options.min_sqnr_db:g} dB are wanted"
        if verdict.latency_ratio > _FASTER:
            return f"{verdict}, which is not faster than float"
        return f"{verdict}, where {best} has {self.candidates[best].verdict}" if best else ""

    def _decline(self, way: Way, reason: str) -> None:
        self.candidates.pop(way, None)
        self.skipped.append(Skipped(_NAMES[way], "", "not-possible", reason))

    def _quantized(self, way: Way, rounding: Rounding) -> tuple[ir.Model, StepReport]:
        options = self._options
        if way == "dynamic":
            return quantize_dynamic_ir(
                clone(self._model),
                self._calibration,
                DynamicOptions(
                    target=options.target,
                    include=options.include,
                    exclude=options.exclude,
                ),
                progress=self._progress,
            )
        return quantize_static_ir(
            clone(self._model),
            self._calibration,
            StaticOptions(
                target=options.target,
                rounding=rounding,
                include=options.include,
                exclude=options.exclude,
            ),
            progress=self._progress,
        )


def _check(options: AutoOptions) -> None:
    dynamic_target(options.target)
    if options.min_sqnr_db != options.min_sqnr_db:
        raise OptionError("min_sqnr_db is a number of decibels, given was nan")


class _First:
    """The first feeds of a stream, as often as they are asked for."""

    def __init__(self, feeds: Samples, count: int) -> None:
        self._feeds, self._count = feeds, count

    def __iter__(self) -> Iterator[Feed]:
        for index, feed in enumerate(self._feeds):
            if index == self._count:
                return
            yield feed


def _split(feeds: Samples) -> tuple[Samples, list[Feed], str | None]:
    """Feeds to calibrate on, others to judge on, and a note where they are the same."""
    total = sum(1 for _ in feeds)
    if total == 1:
        note = "there is one batch: candidates were judged on what they were calibrated on"
        return feeds, list(feeds), note
    first = max(1, total - max(1, min(total // 4, _MOST_JUDGED)))
    judged = [feed for index, feed in enumerate(feeds) if index >= first]
    return Samples(_First(feeds, first), feeds.inputs), judged, None


def _row(way: Way, candidate: _Candidate) -> LayerRow:
    verdict = candidate.verdict
    return LayerRow(
        way,
        "candidate",
        {
            "sqnr_db": round(verdict.sqnr_db, 2) if math.isfinite(verdict.sqnr_db) else None,
            "time_over_float": round(verdict.latency_ratio, 3),
            "size_over_float": round(verdict.size_ratio, 3),
        },
    )
