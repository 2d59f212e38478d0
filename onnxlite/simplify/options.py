"""Options and report of simplification."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal, TypeAlias

import onnx_ir as ir
from msgspec import Meta

from onnxlite.errors import OptionError
from onnxlite.records import Changes, StepReport
from onnxlite.samples import SamplesLike
from onnxlite.step import Step, StepContext

OnnxsimChoice: TypeAlias = Literal["auto"] | bool


class SimplifyChanges(Changes, frozen=True, kw_only=True):
    """What `simplify` counts.

    Attributes:
        inline_functions: functions of the model whose calls were replaced by their nodes.
        lift_constants: Constant nodes that became initializers.
        merge_duplicate_initializers: initializers that equal another one.
        onnxsim: nodes that onnxsim removed.
        opset_upgraded: 1 if the model was brought to a newer operator set.
        remove_dead_nodes: nodes that no output depends on.
        rewrites: how often each rule fired, by its name. The rules are an open set.
    """

    inline_functions: int = 0
    lift_constants: int = 0
    merge_duplicate_initializers: int = 0
    onnxsim: int = 0
    opset_upgraded: int = 0
    remove_dead_nodes: int = 0
    rewrites: Mapping[str, int] = {}

    def counts(self) -> Iterator[tuple[str, int]]:
        """Yield each kind that occurred and each rule that fired, in the order of names."""
        fields = (name for name in self.__struct_fields__ if name != "rewrites")
        kinds = {name.replace("_", "-"): getattr(self, name) for name in fields}
        yield from sorted((k, n) for k, n in (kinds | dict(self.rewrites)).items() if n)


class SimplifyReport(StepReport, frozen=True, kw_only=True):
    """Report of `simplify`; it has no rows."""

    changes: SimplifyChanges = SimplifyChanges()


class Simplify(Step, frozen=True, kw_only=True):
    """Fold, fuse and clean up the graph; see `onnxlite.simplify`."""

    report: ClassVar[type[StepReport]] = SimplifyReport
    runtime: ClassVar[tuple[str, ...]] = (
        "batch_axis",
        "progress",
    )
    ties_lengths: ClassVar[bool] = False
    renamed: ClassVar[dict[str, str]] = {"time_limit": "time_limit_s"}

    verify: Annotated[
        bool,
        Meta(
            description="Compare every result with the original in ONNX Runtime (largest "
            "relative difference 1e-4). A rewrite that fails is left out and reported."
        ),
    ] = True
    onnxsim: Annotated[
        OnnxsimChoice,
        Meta(
            description='Run onnxsim too, in a child process: `"auto"` where it can add something, '
            "that is where the graph has operators that onnxlite has no rules for; True always."
        ),
    ] = "auto"
    opset: (
        Annotated[
            int,
            Meta(
                ge=1,
                description="Bring the model to at least this version of the standard operator "
                "set, so that LayerNormalization (17) and Gelu (20) can be fused. None: the "
                "version stays. A model that cannot be upgraded keeps its version, and the report "
                "says why.",
            ),
        ]
        | None
    ) = None
    time_limit_s: Annotated[
        float, Meta(gt=0, description="Seconds that onnxsim may take, in every round.")
    ] = 120.0

    max_growth: Annotated[
        float,
        Meta(
            ge=0,
            description="Fraction by which folded constants may enlarge the model. With 0 the "
            "result holds no more bytes of constants and nodes: what would store a constant "
            "twice is left unfolded.",
        ),
    ] = 0.0

    def validate(self) -> None:
        """Raise `OptionError` for an operator set that the installed onnx does not know."""
        if self.opset is None:
            return
        from onnx.defs import onnx_opset_version

        if self.opset > onnx_opset_version():
            raise OptionError(
                f"opset={self.opset} does not exist here: onnx knows 1 to {onnx_opset_version()}"
            )

    @property
    def fits_samples(self) -> bool:
        """False: samples only verify the rewrites."""
        return False

    def apply(
        self, model: ir.Model, samples: SamplesLike | None, context: StepContext
    ) -> tuple[ir.Model, SimplifyReport]:
        """Simplify `model`; rewrites are verified on the first samples."""
        from onnxlite.simplify.pipeline import simplify_ir

        return simplify_ir(model, samples, self, context)
