"""Automatic choice of static, dynamic or no quantization, by measurement on this machine.

The candidates are calibrated on the first feeds and measured on the last, held-out feeds.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from onnxlite.errors import ExecutionError, VerificationError
from onnxlite.holdout import FeedSplit, LastFraction, split_feeds
from onnxlite.inputs import input_specs
from onnxlite.model import clone
from onnxlite.quantize.core.options import QuantizeStatic, QuantizeStaticReport, Rounding
from onnxlite.quantize.dynamic.options import QuantizeDynamic, QuantizeDynamicReport
from onnxlite.quantize.dynamic.step import quantize_dynamic_ir
from onnxlite.quantize.mixed.candidate_metrics import CandidateMetrics, measure_candidate
from onnxlite.quantize.mixed.options import AutoCandidate, QuantizeAuto, QuantizeAutoReport, Way
from onnxlite.quantize.static.step import quantize_static_ir
from onnxlite.records import Skipped
from onnxlite.samples import Samples, SamplesLike
from onnxlite.step import StepContext

_STEP = "quantize-auto"

#: Largest accepted latency over float: a smaller gain is within the measurement error.
_MAX_LATENCY_RATIO = 0.97
#: Latencies within this factor count as equal: the candidate of higher SQNR wins.
_TIE = 1.05
#: Feeds held out from calibration to measure the candidates on.
_HOLD_OUT = LastFraction(1 / 4, maximum=16)
#: Seconds to time one candidate.
_BUDGET_S = 3.0


@dataclass(frozen=True)
class _Candidate:
    """Quantized model with its report and metrics."""

    model: ir.Model
    report: QuantizeStaticReport | QuantizeDynamicReport
    metrics: CandidateMetrics


def quantize_auto_ir(
    model: ir.Model,
    samples: SamplesLike,
    options: QuantizeAuto,
    context: StepContext,
) -> tuple[ir.Model, QuantizeAutoReport]:
    """Quantize a copy of a model; see `onnxlite.quantize_auto`."""
    start = time.perf_counter()
    feeds = Samples(samples, input_specs(model), limit=options.limit)
    split = split_feeds(feeds, _HOLD_OUT)
    trial = _Trial(model, split, options, context)
    # Rounding does not change the latency: use slow rounding only if static is the fastest.
    for way in ("dynamic", "static"):
        trial.make(way, "nearest")
    if options.rounding != "nearest" and trial.fastest() == "static":
        trial.make("static", options.rounding)
    best = trial.best()
    skipped = [*trial.skipped, *trial.losers(best)]
    if split.record.shared:
        note = (
            "there is only one batch: candidates were calibrated and measured on the same samples"
        )
        skipped.append(Skipped(_STEP, "", "samples-shared", note))
    candidates = tuple(_row(way, candidate) for way, candidate in trial.candidates.items())
    if best is None:
        reasons = "; ".join(d.message for d in skipped if d.what in _STEPS.values())
        return clone(model), QuantizeAutoReport(
            changed=False,
            summary=f"the model stays float: {reasons}",
            skipped=tuple(skipped),
            candidates=candidates,
            hold_out=split.record,
            seconds=time.perf_counter() - start,
        )
    winner = trial.candidates[best]
    return winner.model, QuantizeAutoReport(
        changed=True,
        summary=f"{best}, {winner.metrics}: {winner.report.summary}",
        skipped=(*skipped, *winner.report.skipped),
        candidates=candidates,
        winner=winner.report,
        hold_out=split.record,
        seconds=time.perf_counter() - start,
    )


_STEPS: Mapping[Way, str] = {"static": "quantize-static", "dynamic": "quantize-dynamic"}


class _Trial:
    """Candidates, and the reasons why some could not be made."""

    def __init__(
        self,
        model: ir.Model,
        split: FeedSplit,
        options: QuantizeAuto,
        context: StepContext,
    ) -> None:
        self._model = model
        self._split = split
        self._options = options
        self._context = context
        self.candidates: dict[Way, _Candidate] = {}
        self.skipped: list[Skipped] = []

    def make(self, way: Way, rounding: Rounding) -> None:
        """Quantize one way and measure the candidate."""
        try:
            made, report = self._quantized(way, rounding)
            if not report.changed:
                self._skip(way, report.summary)
                return
            metrics = measure_candidate(self._model, made, self._split.held_out, budget_s=_BUDGET_S)
        # The other way may still work.
        except (ExecutionError, VerificationError) as error:
            self._skip(way, str(error))
            return
        self.candidates[way] = _Candidate(made, report, metrics)

    def fastest(self) -> Way | None:
        """Return the best candidate without a limit on SQNR."""
        return self._choice(-float("inf"))

    def best(self) -> Way | None:
        """Return the best candidate; None if the model stays float."""
        return self._choice(self._options.min_sqnr_db)

    def losers(self, best: Way | None) -> list[Skipped]:
        """Return the reasons why the other candidates lost."""
        return [
            Skipped(_STEPS[way], "", "not-the-best", self._reason(candidate, best))
            for way, candidate in self.candidates.items()
            if way != best
        ]

    def _choice(self, floor: float) -> Way | None:
        able = {
            way: candidate.metrics
            for way, candidate in self.candidates.items()
            if candidate.metrics.sqnr_db >= floor
            and candidate.metrics.latency_ratio <= _MAX_LATENCY_RATIO
        }
        if not able:
            return None
        fastest = min(metrics.latency_ratio for metrics in able.values())
        tied = [way for way, v in able.items() if v.latency_ratio <= _TIE * fastest]
        return max(tied, key=lambda way: able[way].sqnr_db)

    def _reason(self, candidate: _Candidate, best: Way | None) -> str:
        metrics = candidate.metrics
        if metrics.sqnr_db < self._options.min_sqnr_db:
            return f"{metrics}, below min_sqnr_db={self._options.min_sqnr_db:g}"
        if metrics.latency_ratio > _MAX_LATENCY_RATIO:
            return f"{metrics}, not faster than float"
        return f"{metrics}; {best} has {self.candidates[best].metrics}" if best else ""

    def _skip(self, way: Way, reason: str) -> None:
        self.candidates.pop(way, None)
        self.skipped.append(Skipped(_STEPS[way], "", "not-possible", reason))

    def _quantized(
        self, way: Way, rounding: Rounding
    ) -> tuple[ir.Model, QuantizeStaticReport | QuantizeDynamicReport]:
        options = self._options
        if way == "dynamic":
            return quantize_dynamic_ir(
                self._model,
                self._split.fitted,
                QuantizeDynamic(
                    target=options.target,
                    include=options.include,
                    exclude=options.exclude,
                ),
                self._context,
            )
        return quantize_static_ir(
            self._model,
            self._split.fitted,
            QuantizeStatic(
                target=options.target,
                rounding=rounding,
                include=options.include,
                exclude=options.exclude,
            ),
            self._context,
        )


def _row(way: Way, candidate: _Candidate) -> AutoCandidate:
    metrics = candidate.metrics
    return AutoCandidate(
        way=way,
        sqnr_db=metrics.sqnr_db,
        time_over_float=metrics.latency_ratio,
        size_over_float=metrics.size_ratio,
    )
