"""The step of zeros in weights; see `onnxlite.recipe.steps`."""

from __future__ import annotations

from typing import Annotated

import msgspec
import onnx_ir as ir
from msgspec import Meta

from onnxlite.prune import prune_weights_ir
from onnxlite.prune.weight_step import Scope, SparseMethod, check_choice
from onnxlite.records import Progress, StepReport
from onnxlite.samples import SamplesLike


class PruneWeights(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="step", tag="prune-weights"
):
    """Set weights to zero, those that others make up for if there are samples.

    See `onnxlite.prune_weights`.
    """

    sparsity: Annotated[float, Meta(ge=0, lt=1)] | None = None
    threshold: Annotated[float, Meta(ge=0)] | None = None
    pattern: str | None = None
    method: SparseMethod = "auto"
    scope: Scope = "auto"
    steps: Annotated[int, Meta(ge=1)] = 1
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    limit: Annotated[int, Meta(ge=1)] | None = None

    def __post_init__(self) -> None:
        check_choice(
            self.sparsity,
            self.threshold,
            self.pattern,
            self.method,
            self.scope,
            self.steps,
            samples=True,
        )

    @property
    def needs_samples(self) -> bool:
        """Whether the method cannot do without."""
        return self.method in ("wanda", "obc")

    @property
    def by_samples(self) -> bool:
        """Whether samples decide if there are any."""
        return self.method != "magnitude" and self.threshold is None

    def apply(
        self, model: ir.Model, samples: SamplesLike | None, progress: Progress
    ) -> tuple[ir.Model, StepReport]:
        """Give the weights of `model` their zeros."""
        return prune_weights_ir(
            model,
            sparsity=self.sparsity,
            threshold=self.threshold,
            pattern=self.pattern,
            method=self.method,
            samples=samples if self.by_samples else None,
            scope=self.scope,
            steps=self.steps,
            include=self.include,
            exclude=self.exclude,
            limit=self.limit,
            progress=progress,
        )
