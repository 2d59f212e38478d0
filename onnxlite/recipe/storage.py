"""The step of sparse storage; see `onnxlite.recipe.steps`."""

from __future__ import annotations

from typing import ClassVar

import msgspec
import onnx_ir as ir

from onnxlite.prune.sparse_storage import sparse_storage_ir
from onnxlite.records import Progress, StepReport
from onnxlite.samples import SamplesLike


class SparseStorage(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="step", tag="sparse-storage"
):
    """Store weights that are mostly zeros without them; see `onnxlite.sparse_storage`."""

    needs_samples: ClassVar[bool] = False

    def apply(
        self, model: ir.Model, samples: SamplesLike, progress: Progress
    ) -> tuple[ir.Model, StepReport]:
        """Mark weights of `model`; samples are not used."""
        return sparse_storage_ir(model, progress=progress)
