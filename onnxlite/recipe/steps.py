"""The steps a recipe is made of: each one is the options of one public function, as data.

A step is frozen, compares by value and goes to TOML and back. Its `apply` takes a model
it may change. To add a step: write its class, and add it to `Step`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, TypeAlias, get_args

import msgspec
import onnx_ir as ir
from msgspec import Meta

from onnxlite.prune import prune_channels_ir
from onnxlite.prune.channel_step import Repair
from onnxlite.prune.eligibility import RoundTo
from onnxlite.prune.importance import Importance
from onnxlite.prune.target_search import Goal
from onnxlite.quantize import (
    Form,
    ObserverChoice,
    PlacementBy,
    Rounding,
    Smooth,
    StaticOptions,
    WeightBits,
    quantize_mixed_ir,
)
from onnxlite.quantize.core.targets import target_named
from onnxlite.recipe.dynamic import QuantizeAuto, QuantizeDynamic
from onnxlite.recipe.half import ToFloat16
from onnxlite.recipe.lowbits import QuantizeWeights
from onnxlite.recipe.sparse import PruneWeights
from onnxlite.recipe.storage import SparseStorage
from onnxlite.recipe.tuning import Tune
from onnxlite.records import Progress, StepReport
from onnxlite.samples import SamplesLike
from onnxlite.simplify import simplify_ir


class Simplify(msgspec.Struct, frozen=True, kw_only=True, tag_field="step", tag="simplify"):
    """Fold, fuse and clean up the graph; see `onnxlite.simplify`."""

    needs_samples: ClassVar[bool] = False

    verify: bool = True
    onnxsim: bool = True
    time_limit: Annotated[float, Meta(gt=0)] = 120.0

    def apply(
        self, model: ir.Model, samples: SamplesLike, progress: Progress
    ) -> tuple[ir.Model, StepReport]:
        """Simplify `model`, checking the rewrites on the first samples."""
        return simplify_ir(
            model,
            samples=samples,
            verify=self.verify,
            onnxsim=self.onnxsim,
            time_limit=self.time_limit,
            progress=progress,
        )


class PruneChannels(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="step", tag="prune-channels"
):
    """Remove the least important channels and repair the rest; see `onnxlite.prune_channels`."""

    needs_samples: ClassVar[bool] = True

    macs: Annotated[float, Meta(gt=0, le=1)] | None = None
    params: Annotated[float, Meta(gt=0, le=1)] | None = None
    latency: Annotated[float, Meta(gt=0, le=1)] | None = None
    ratio: Annotated[float, Meta(ge=0, lt=1)] | None = None
    widths: dict[str, Annotated[int, Meta(ge=0)]] | None = None
    importance: Importance = "auto"
    round_to: RoundTo = "auto"
    protect: tuple[str, ...] = ()
    minimum: Annotated[int, Meta(ge=1)] = 1
    branches: bool = True
    repair: Repair = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        Goal(**{name: getattr(self, name) for name in Goal.__struct_fields__}).check()

    def apply(
        self, model: ir.Model, samples: SamplesLike, progress: Progress
    ) -> tuple[ir.Model, StepReport]:
        """Make the layers of `model` smaller, repaired on the calibration samples."""
        return prune_channels_ir(
            model,
            samples=samples,
            macs=self.macs,
            params=self.params,
            latency=self.latency,
            ratio=self.ratio,
            widths=self.widths,
            importance=self.importance,
            round_to=self.round_to,
            protect=self.protect,
            minimum=self.minimum,
            branches=self.branches,
            repair=self.repair,
            seed=self.seed,
            progress=progress,
        )


class QuantizeStatic(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="step", tag="quantize-static"
):
    """INT8 weights and activations with scales from samples; see `onnxlite.quantize_static`."""

    needs_samples: ClassVar[bool] = True

    target: str = "cpu"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    placement: PlacementBy = "measured"
    rounding: Rounding = "compensated"
    smooth: Smooth = "auto"
    embeddings: bool = True
    observer: ObserverChoice = "auto"
    weight_bits: WeightBits = 8
    equalize: bool = True
    form: Form = "qdq"
    int16: tuple[str, ...] = ()
    min_sqnr_db: float | None = None
    limit: Annotated[int, Meta(ge=1)] | None = None

    def __post_init__(self) -> None:
        target_named(self.target).offering(self.form, self.int16)

    def apply(
        self, model: ir.Model, samples: SamplesLike, progress: Progress
    ) -> tuple[ir.Model, StepReport]:
        """Quantize `model` with the ranges that the calibration samples show."""
        return quantize_mixed_ir(
            model,
            samples,
            StaticOptions(
                target=self.target,
                include=self.include,
                exclude=self.exclude,
                placement=self.placement,
                rounding=self.rounding,
                smooth=self.smooth,
                embeddings=self.embeddings,
                observer=self.observer,
                weight_bits=self.weight_bits,
                equalize=self.equalize,
                form=self.form,
                int16=self.int16,
                min_sqnr_db=self.min_sqnr_db,
                limit=self.limit,
            ),
            progress=progress,
        )


Step: TypeAlias = (
    Simplify
    | PruneChannels
    | PruneWeights
    | SparseStorage
    | QuantizeStatic
    | QuantizeWeights
    | ToFloat16
    | QuantizeDynamic
    | QuantizeAuto
    | Tune
)

#: Every step class by its name in recipes and reports.
STEPS: dict[str, type[Step]] = {str(cls.__struct_config__.tag): cls for cls in get_args(Step)}


#: Steps that decide by samples if there are any, and take None otherwise.
SamplesOptional: TypeAlias = PruneWeights | ToFloat16 | QuantizeWeights | QuantizeDynamic


def uses_samples(step: Step) -> bool:
    """Whether a step decides by samples if it gets any, so that none may be evaluated on."""
    if isinstance(step, PruneWeights):
        return step.by_samples
    return step.needs_samples or isinstance(step, SamplesOptional)


def changes_io(step: Step) -> bool:
    """Whether a step gives the model's float inputs and outputs another width."""
    return isinstance(step, ToFloat16) and step.io == "float16"


def step_name(step: Step) -> str:
    """The name of a step in recipes and reports: `"prune-weights"`."""
    return str(step.__struct_config__.tag)
