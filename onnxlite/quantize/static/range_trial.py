"""Trial of several choices of ranges on single samples, in one session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxlite.calibrate import Range
from onnxlite.fidelity import Reference, sqnr_db
from onnxlite.inputs import Feed
from onnxlite.quantize.accuracy.fake_quant import fake_quantized
from onnxlite.quantize.core.plan import QuantPlan
from onnxlite.runtime import Session

#: Smaller gains of ordinary samples may be chance.
_MIN_GAIN_DB = 0.25
#: Ordinary samples need this SQNR, and this gain if they are below.
_NEEDED_DB, _MIN_NEEDED_GAIN_DB = 25.0, 3.0


@dataclass(frozen=True)
class TrialFigures:
    """SQNR in dB of one choice of ranges: each sample's noise over its own signal, averaged.

    A sample that collapses counts in full, however quiet it is; infinite without samples.

    Attributes:
        ordinary_db: on ordinary samples, which were held out where there are enough.
        rare_db: on the rare samples that the narrower ranges cut.
    """

    ordinary_db: float
    rare_db: float


class RangeTrial:
    """Measures choices of ranges on the outputs of the model with fake quantization.

    Args:
        plan: what is quantized; its model is not changed.
        choices: a range of every value of the plan, by name; at least one choice.
        ordinary: feeds of one sample each.
        threads: of ONNX Runtime.

    Raises:
        ExecutionError: ONNX Runtime cannot run the model with Q and DQ.
    """

    def __init__(
        self,
        plan: QuantPlan,
        choices: Sequence[Mapping[str, Range]],
        ordinary: Sequence[Feed],
        *,
        threads: int | None,
    ) -> None:
        twin, self._scales = fake_quantized(plan, choices)
        self._integers = Session(twin, threads=threads, qdq="float")
        self._float = Session(plan.model, threads=threads)
        self._ordinary = self._references(ordinary)

    def compare(
        self, one: int, other: int, rare: Sequence[Feed]
    ) -> tuple[TrialFigures, TrialFigures]:
        """Measure two choices, by position, on the ordinary samples and on some rare ones."""
        samples = self._references(rare)
        before, after = (
            TrialFigures(self._mean_db(choice, self._ordinary), self._mean_db(choice, samples))
            for choice in (one, other)
        )
        return before, after

    def _references(self, feeds: Sequence[Feed]) -> list[Reference]:
        """Make a reference of each sample, so that every one is measured by itself."""
        return [Reference(self._float.run, [feed]) for feed in feeds]

    def _mean_db(self, choice: int, samples: Sequence[Reference]) -> float:
        given = self._scales[choice]
        ratios = [
            one.errors(lambda feed: self._integers.run(feed | given)).noise_ratio for one in samples
        ]
        return sqnr_db(1.0, float(np.mean(ratios))) if ratios else float("inf")


def narrower_holds(before: TrialFigures, after: TrialFigures) -> bool:
    """Tell whether narrower ranges gain on ordinary samples, and cost rare ones no more."""
    gain = after.ordinary_db - before.ordinary_db
    lost = before.rare_db - after.rare_db if after.rare_db < before.rare_db else 0.0
    return gain >= _MIN_GAIN_DB and lost <= gain


def leaving_out_pays(before: TrialFigures, after: TrialFigures) -> bool:
    """Tell whether ranges without outliers are better for the ordinary samples.

    Ordinary samples that are below what they need decide alone.
    """
    if before.ordinary_db < _NEEDED_DB:
        return after.ordinary_db - before.ordinary_db >= _MIN_NEEDED_GAIN_DB
    return narrower_holds(before, after)
