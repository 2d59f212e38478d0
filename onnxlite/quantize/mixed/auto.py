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

from onnxlite.errors import ExecutionError, VerificationError
from onnxlite.model import clone
from onnxlite.quantize.core.options import QuantizeStatic, Rounding
from onnxlite.quantize.dynamic.options import QuantizeDynamic
from onnxlite.quantize.dynamic.step import quantize_dynamic_ir
from onnxlite.quantize.mixed.candidate_metrics import CandidateMetrics, measure_candidate
from onnxlite.quantize.mixed.options import QuantizeAuto
from onnxlite.quantize.static.step import quantize_static_ir
from onnxlite.records import LayerRow, Skipped, StepReport
from onnxlite.samples import Feed, Samples, SamplesLike, input_specs
from onnxlite.step import StepContext

logger = logging.getLogger(__name__)


_STEP = "quantize-auto"

Way = Literal["static", "dynamic"]

#: A candidate must be faster than float by more than chance.
_FASTER = 0.97
#: Candidates within this factor are as fast as each other: the more exact one is taken.
_TIE = 1.05
#: A quarter of the feeds, and at most so many, are kept out of calibration to judge on.
_MOST_JUDGED = 16
_BUDGET_S = 3.0


@dataclass(frozen=True)
class _Candidate:
    model: ir.Model
    report: StepReport
    verdict: CandidateMetrics


def quantize_auto_ir(
    model: ir.Model,
    samples: SamplesLike,
    options: QuantizeAuto,
    context: StepContext,
) -> tuple[ir.Model, StepReport]:
    """Quantize a private copy of a model; see `onnxlite.quantize_auto`."""
    start = time.perf_counter()
    feeds = Samples(samples, input_specs(model), limit=options.limit)
    calibration, judged, note = _split(feeds)
    trial = _Trial(clone(model), calibration, judged, options, context)
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
        options: QuantizeAuto,
        context: StepContext,
    ) -> None:
        self._model = model
        self._calibration = calibration
        self._judged = judged
        self._options = options
        self._context = context
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
                QuantizeDynamic(
                    target=options.target,
                    include=options.include,
                    exclude=options.exclude,
                ),
                self._context,
            )
        return quantize_static_ir(
            clone(self._model),
            self._calibration,
            QuantizeStatic(
                target=options.target,
                rounding=rounding,
                include=options.include,
                exclude=options.exclude,
            ),
            self._context,
        )


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
