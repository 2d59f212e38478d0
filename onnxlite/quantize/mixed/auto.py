"""Automatic choice of static, dynamic or no quantization, by measurement on this machine.

A third candidate quantizes each layer the way that suits it: static first, then the layers that
this left in float, or that run faster so, with scales computed at run time.

The candidates are calibrated on the first feeds and measured on the last, held-out feeds.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import escape

import onnx_ir as ir

from onnxlite.errors import ExecutionError, VerificationError
from onnxlite.fidelity import Reference
from onnxlite.holdout import FeedSplit, LastFraction, split_feeds
from onnxlite.inputs import InputSpec, input_specs
from onnxlite.model import clone
from onnxlite.quantize.core.options import QuantizeStatic, QuantizeStaticReport, Rounding
from onnxlite.quantize.core.selection import by_name
from onnxlite.quantize.dynamic.options import QuantizeDynamic, QuantizeDynamicReport
from onnxlite.quantize.dynamic.step import quantize_dynamic_ir, quantize_rest_ir
from onnxlite.quantize.mixed.candidate_metrics import CandidateMetrics, measure_candidate
from onnxlite.quantize.mixed.dynamic_layers import faster_dynamic
from onnxlite.quantize.mixed.options import AutoCandidate, QuantizeAuto, QuantizeAutoReport, Way
from onnxlite.quantize.static.step import quantize_static_ir
from onnxlite.quantize.weight_only.options import PackedWeight
from onnxlite.quantize.weight_only.storage import store_in_8_bits
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
#: Largest loss of SQNR by 8-bit storage of other weights, and the SQNR that is enough anyhow.
_MAX_STORAGE_LOSS_DB, _ENOUGH_DB = 3.0, 30.0
#: Seconds to time one candidate.
_BUDGET_S = 3.0


@dataclass(frozen=True)
class _Candidate:
    """Quantized model with its report and metrics.

    Attributes:
        model: the quantized model.
        report: of static quantization, or of dynamic if that is the only one.
        metrics: what was measured on the held-out samples.
        rest: of dynamic quantization after static.
    """

    model: ir.Model
    report: QuantizeStaticReport | QuantizeDynamicReport
    metrics: CandidateMetrics
    rest: QuantizeDynamicReport | None = None

    @property
    def summary(self) -> str:
        """What each step says of the candidate."""
        rest = "" if self.rest is None else f"; then {self.rest.summary}"
        return f"{self.report.summary}{rest}"


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
    trial = _Trial(model, split, feeds.inputs, options, context)
    # Rounding does not change the latency: use slow rounding only if static is the fastest.
    for way in _WAYS:
        trial.make(way, "nearest")
    fastest = trial.fastest()
    slow = options.rounding != "nearest" and options.effort != "fast"
    if slow and fastest in ("static", "mixed"):
        trial.make(fastest, options.rounding)
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
    result, stored = trial.stored(winner)
    if isinstance(stored, Skipped):
        skipped.append(stored)
        stored = ()
    note = f"; {len(stored)} weights stored in 8 bits" if stored else ""
    return result, QuantizeAutoReport(
        changed=True,
        summary=f"{best}, {winner.metrics}: {winner.summary}{note}",
        skipped=(*skipped, *_left_in_float(winner)),
        candidates=candidates,
        winner=winner.report,
        rest=winner.rest,
        stored_weights=stored,
        hold_out=split.record,
        seconds=time.perf_counter() - start,
    )


#: The order in which candidates are made: the last one needs the others.
_WAYS: tuple[Way, ...] = ("dynamic", "static", "mixed")
_STEPS: Mapping[Way, str] = {
    "static": "quantize-static",
    "dynamic": "quantize-dynamic",
    "mixed": "quantize-static-and-dynamic",
}


def _left_in_float(winner: _Candidate) -> Iterator[Skipped]:
    """Yield what the steps of the winner skipped, without layers that the other step took."""
    if winner.rest is None:
        yield from winner.report.skipped
        return
    static, dynamic = ({row.name for row in r.layers} for r in (winner.report, winner.rest))
    yield from (row for row in winner.report.skipped if row.node not in dynamic)
    names = {row.node for row in winner.report.skipped}
    yield from (row for row in winner.rest.skipped if row.node not in static | names)


class _Trial:
    """Candidates, and the reasons why some could not be made."""

    def __init__(
        self,
        model: ir.Model,
        split: FeedSplit,
        inputs: Sequence[InputSpec],
        options: QuantizeAuto,
        context: StepContext,
    ) -> None:
        self._model = model
        self._split = split
        self._inputs = inputs
        self._options = options
        self._context = context
        self.candidates: dict[Way, _Candidate] = {}
        self.skipped: list[Skipped] = []

    def make(self, way: Way, rounding: Rounding) -> None:
        """Quantize one way and measure the candidate."""
        try:
            made = self._mixed(rounding) if way == "mixed" else self._quantized(way, rounding)
            if made is None:
                return
            quantized, report, rest = made
            if not report.changed:
                self._skip(way, report.summary)
                return
            metrics = self._metrics(quantized)
        # The other way may still work.
        except (ExecutionError, VerificationError) as error:
            self._skip(way, str(error))
            return
        self.candidates[way] = _Candidate(quantized, report, metrics, rest)

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

    def stored(self, winner: _Candidate) -> tuple[ir.Model, tuple[PackedWeight, ...] | Skipped]:
        """Store in 8 bits what the winner reads as float, if that costs little.

        Returns:
            The model, and a row per stored weight or the reason against it.
        """
        if not self._options.storage:
            return winner.model, ()

        def kept(node: ir.Node) -> bool:
            return by_name(node, self._options.include, self._options.exclude) is not None

        smaller, rows = store_in_8_bits(winner.model, kept, self._context)
        if not rows:
            return winner.model, ()
        before = winner.metrics.sqnr_db
        after = Reference(self._model, self._split.held_out).errors(smaller).worst_db
        if after >= max(self._options.min_sqnr_db, min(before - _MAX_STORAGE_LOSS_DB, _ENOUGH_DB)):
            return smaller, rows
        message = f"in 8 bits the other weights would leave {after:.1f} of {before:.1f} dB"
        return winner.model, Skipped("store-weights", "", "too-coarse", message)

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

    def _metrics(self, candidate: ir.Model) -> CandidateMetrics:
        held_out = self._split.held_out
        return measure_candidate(
            self._model, candidate, held_out, inputs=self._inputs, budget_s=_BUDGET_S
        )

    def _quantized(
        self, way: Way, rounding: Rounding
    ) -> tuple[ir.Model, QuantizeStaticReport | QuantizeDynamicReport, None]:
        if way == "static":
            return *self._static(rounding), None
        options = self._options
        dynamic = QuantizeDynamic(
            target=options.target, include=options.include, exclude=options.exclude, storage=False
        )
        samples = self._split.fitted
        return *quantize_dynamic_ir(self._model, samples, dynamic, self._context), None

    def _static(
        self, rounding: Rounding, without: Iterable[str] = ()
    ) -> tuple[ir.Model, QuantizeStaticReport]:
        options = self._options
        static = QuantizeStatic(
            target=options.target,
            effort=options.effort,
            rounding=rounding,
            include=options.include,
            exclude=(*options.exclude, *map(escape, without)),
        )
        return quantize_static_ir(self._model, self._split.fitted, static, self._context)

    def _mixed(
        self, rounding: Rounding
    ) -> tuple[ir.Model, QuantizeStaticReport, QuantizeDynamicReport] | None:
        """Quantize each layer the way that suits it; None if one way suits all."""
        static, dynamic = self.candidates.get("static"), self.candidates.get("dynamic")
        if static is None or dynamic is None:
            return None
        assert isinstance(static.report, QuantizeStaticReport)
        assert isinstance(dynamic.report, QuantizeDynamicReport)
        on_integers = {row.name for row in static.report.layers}
        paying = {row.name for row in dynamic.report.layers}
        moved = self._moved(static, dynamic)
        names = moved | (paying - on_integers)
        if not names or not on_integers - moved:
            return None
        quantized, report = static.model, static.report
        if moved or rounding != "nearest":
            quantized, report = self._static(rounding, moved)
        options = QuantizeDynamic(
            target=self._options.target, include=tuple(map(escape, names)), storage=False
        )
        made, rest = quantize_rest_ir(quantized, self._split.fitted, options, self._context)
        return (made, report, rest) if report.changed and rest.changed else None

    def _moved(self, static: _Candidate, dynamic: _Candidate) -> set[str]:
        """Return the layers on integers both ways that are better with scales at run time."""
        assert isinstance(dynamic.report, QuantizeDynamicReport)
        least = self._options.min_sqnr_db
        if static.metrics.sqnr_db < least <= dynamic.metrics.sqnr_db:
            return {row.name for row in static.report.layers} & {
                row.name for row in dynamic.report.layers
            }
        feed = next(iter(self._split.held_out))
        return faster_dynamic(
            self._model, feed, static.report.layers, dynamic.report.layers, self._options.target
        )


def _row(way: Way, candidate: _Candidate) -> AutoCandidate:
    metrics = candidate.metrics
    return AutoCandidate(
        way=way,
        sqnr_db=metrics.sqnr_db,
        time_over_float=metrics.latency_ratio,
        size_over_float=metrics.size_ratio,
    )
