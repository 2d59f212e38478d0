"""Context of a search: the request, and what all phases need."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeAlias

import onnx
import onnx_ir as ir
from msgspec import Meta

from onnxlite.cache import Cache, digest_of
from onnxlite.evaluate import Latency
from onnxlite.inputs import input_specs
from onnxlite.model import PlainModel, disk_bytes, to_bytes
from onnxlite.options import Effort, Seed
from onnxlite.quantize.core.targets import target_named
from onnxlite.samples import Samples, SamplesLike
from onnxlite.search.budget import Budget
from onnxlite.search.candidates import SearchSpace
from onnxlite.search.deadline import Deadline
from onnxlite.search.records import Prefer, Trial
from onnxlite.search.split import SampleSplit
from onnxlite.search.strategy import SearchProblem
from onnxlite.search.trial_cache import samples_digest
from onnxlite.task_metrics import ChosenMetric

#: Called with every trial as it ends.
TrialSink: TypeAlias = Callable[[Trial], None]


class OptimizeOptions(Budget, frozen=True, kw_only=True):
    """Options of `optimize`: the limits of a budget, and how the search goes."""

    renamed: ClassVar[dict[str, str]] = {"time_limit": "time_limit_s"}

    prefer: Annotated[
        Prefer | None,
        Meta(
            description='Objective among the results that meet the budget: `"latency"`, '
            '`"size"`, `"both"` (their product), or `"quality"`. `"latency"` takes the smallest of '
            "those within 3% of the fastest. None is "
            '`"latency"`, or `"quality"` if the budget limits nothing but latency and size.'
        ),
    ] = None
    target: Annotated[
        str, Meta(description="Runtime whose integer types are used, see `quantize_static`.")
    ] = "cpu"
    time_limit_s: (
        Annotated[
            float,
            Meta(
                gt=0,
                description="Seconds; then the best result so far is taken. None is a limit that "
                "follows from the time of one run and the number of samples, from 90 seconds to "
                "half an hour.",
            ),
        ]
        | None
    ) = None
    effort: Annotated[
        Effort,
        Meta(
            description='Effort of the steps, see there. `"default"` is `"fast"` where the time '
            "limit is less than half of the default one."
        ),
    ] = "default"
    output: (
        Annotated[
            Path,
            Meta(
                description="Write the result here, atomically; nothing is written if it is the "
                "original."
            ),
        ]
        | None
    ) = None
    cache: Annotated[
        Path | Literal[False] | None,
        Meta(
            description="Folder of the results of trials, from which an interrupted search "
            "resumes; None is a folder of the user's cache, False keeps nothing."
        ),
    ] = None
    seed: Seed = 0

    def validate(self) -> None:
        """Raise `OptionError` for an unknown target."""
        target_named(self.target)


@dataclass(frozen=True, kw_only=True)
class SearchJob:
    """One search: what was asked for, and what its phases need.

    Attributes:
        model: the input as the caller gave it.
        original: the same, loaded.
        options: of `optimize`, but the limits.
        budget: the limits.
        split: samples for calibration, selection and final check.
        metric: what `max_drop` limits.
        cache: results of earlier trials.
        deadline: time limit and progress.
        on_trial: called with every trial as it ends.
        effort: of the steps.
        floor_db: floor of results, see `usability`.
        benchmark: measures the latency of a model relative to another, like
            `evaluate.benchmark`.
    """

    model: PlainModel
    original: ir.Model
    options: OptimizeOptions
    budget: Budget
    split: SampleSplit
    metric: ChosenMetric
    cache: Cache
    deadline: Deadline
    on_trial: TrialSink | None
    effort: Effort
    floor_db: float | None
    benchmark: Callable[..., Latency]

    @cached_property
    def serialized(self) -> bytes:
        """The original, serialised."""
        return to_bytes(self.original)

    @cached_property
    def digest(self) -> str:
        """Hash of the original."""
        return digest_of(self.serialized)

    @cached_property
    def input_bytes(self) -> int:
        """Size of the input's file."""
        if isinstance(self.model, str | os.PathLike):
            return disk_bytes(self.model)
        return (
            self.model.ByteSize()
            if isinstance(self.model, onnx.ModelProto)
            else len(self.serialized)
        )

    @cached_property
    def calibration_digest(self) -> str:
        """Hash of the calibration samples."""
        return samples_digest(self._samples(self.split.calibration))

    @cached_property
    def selection_digest(self) -> str:
        """Hash of the selection samples and their labels."""
        return samples_digest(self._samples(self.split.selection), self.split.selection_labels)

    @property
    def prefer(self) -> Prefer:
        """Objective among the results that meet the budget."""
        return self.options.prefer or ("latency" if self.budget.limits_quality else "quality")

    @property
    def problem(self) -> SearchProblem:
        """Search space, limits and objective."""
        # What makes a model small makes it fast as well, but not the other way round.
        space = SearchSpace(
            target=self.options.target,
            prune_by="macs" if self.prefer == "size" else "latency",
            seed=self.options.seed,
            effort=self.effort,
        )
        return SearchProblem(space=space, budget=self.budget, prefer=self.prefer)

    @property
    def source(self) -> PlainModel:
        """The original's file, where there is one."""
        return self.model if isinstance(self.model, str | os.PathLike) else self.original

    def _samples(self, samples: SamplesLike) -> Samples:
        return Samples(samples, input_specs(self.original))
