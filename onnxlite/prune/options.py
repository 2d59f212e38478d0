"""Options and reports of the steps that prune: channels, weights, and the storage of zeros."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import onnx_ir as ir
from msgspec import Meta

from onnxlite.errors import OptionError
from onnxlite.options import Effort, Exclude, Include, Limit, Seed
from onnxlite.prune.nm_pattern import Pattern
from onnxlite.records import Changes, LayerRow, ResolvedOptions, StepReport
from onnxlite.samples import SamplesLike
from onnxlite.step import Step, StepContext

#: Criteria of a unit's importance.
Importance: TypeAlias = Literal["auto", "reconstruction", "energy", "l1", "l2", "bn", "random"]
#: Scores the units of one group, from its name and its weights' slices `[units, elements]`.
ImportanceFunction: TypeAlias = Callable[[str, Sequence[Any]], Any]
#: The multiple that channels are kept in.
RoundTo: TypeAlias = int | Literal["auto"]
#: How zeros are distributed over layers.
Scope: TypeAlias = Literal["auto", "layer", "global", "sensitivity"]
#: How the weights to zero are chosen.
SparseMethod: TypeAlias = Literal["auto", "magnitude", "wanda", "obc"]


class ResizedWeight(LayerRow, frozen=True, kw_only=True):
    """A weight that became smaller or was removed.

    Attributes:
        port: which input of the node it is, from 0.
        before: its shape.
        after: its new shape; None if it was removed with its node.
    """

    port: int
    before: tuple[int, ...]
    after: tuple[int, ...] | None


class PruneChannelsChanges(Changes, frozen=True, kw_only=True):
    """What `prune_channels` counts.

    Attributes:
        units_removed: channels, or heads of attention.
        groups: groups that lost units.
        branches_removed: branches beside a shortcut that were removed whole.
        layers_repaired: layers with refitted weights.
    """

    units_removed: int = 0
    groups: int = 0
    branches_removed: int = 0
    layers_repaired: int = 0


class ResolvedWidths(ResolvedOptions, frozen=True, kw_only=True):
    """Options of `prune_channels` that select as many units without measuring latency.

    Attributes:
        widths: number of units that a group keeps, by its name; other groups keep all.
        latency: no goal.
    """

    widths: dict[str, int]
    latency: None = None


class PruneChannelsReport(StepReport, frozen=True, kw_only=True):
    """Report of `prune_channels`; for the other fields see `StepReport`.

    Attributes:
        layers: weights that became smaller.
        resolved_options: the widths, if latency was measured to find them.
    """

    changes: PruneChannelsChanges = PruneChannelsChanges()
    layers: tuple[ResizedWeight, ...] = ()
    resolved_options: ResolvedWidths | None = None


class PruneChannels(Step, frozen=True, kw_only=True):
    """Remove the least important channels and repair the rest; see `onnxlite.prune_channels`."""

    report: ClassVar[type[StepReport]] = PruneChannelsReport
    advice: ClassVar[str] = "remove less, or `tune` the result; without samples first `repair` it"
    renamed: ClassVar[dict[str, str]] = {
        "ratio": "remove",
        "protect": "exclude",
        "minimum": "min_channels",
    }

    efforts: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "fast": {"importance": "energy", "branches": False}
    }

    effort: Annotated[
        Effort,
        Meta(
            description='`"fast"` ranks units by their contribution and removes no branches, '
            'unless options ask for it; `"best"` refits the layers that remain on four times as '
            "many positions of their outputs."
        ),
    ] = "default"
    macs: (
        Annotated[
            float,
            Meta(gt=0, le=1, description="Fraction of MACs to keep: `0.7` keeps 70%."),
        ]
        | None
    ) = None
    params: (
        Annotated[float, Meta(gt=0, le=1, description="Fraction of parameters to keep.")] | None
    ) = None
    latency: (
        Annotated[
            float,
            Meta(
                gt=0,
                le=1,
                description="Fraction of the latency to keep, at batch size 1 on this machine. "
                "Layer times are measured and cached; the result is measured against the "
                "original and corrected.",
            ),
        ]
        | None
    ) = None
    remove: Annotated[
        Annotated[float, Meta(ge=0, lt=1)] | dict[str, Annotated[float, Meta(ge=0, lt=1)]] | None,
        Meta(
            description="Fraction of the units to remove from every group; or fractions by "
            "group name, which leaves all other groups as they are."
        ),
    ] = None
    widths: (
        Annotated[
            dict[str, Annotated[int, Meta(ge=0)]],
            Meta(
                description="Number of units to keep, by group name; all other groups stay as "
                "they are. A recipe stores the choice of `latency` in this form."
            ),
        ]
        | None
    ) = None
    importance: Annotated[
        Importance | ImportanceFunction,
        Meta(
            description='Criterion that ranks units. `"reconstruction"`: error left after the '
            "layers that read a unit are refitted, from second moments of the samples; "
            '`"energy"`: contribution to those layers; `"l1"`, `"l2"`: norm of the weights; '
            '`"bn"`: scale of a normalization that is still in the graph; `"random"`; or a '
            "function of a group's name and its weights' slices, each `[units, elements]`, that "
            'returns one number per unit. `"auto"` is `"reconstruction"` with samples, else '
            '`"l2"`.'
        ),
    ] = "auto"
    round_to: Annotated[
        Annotated[int, Meta(ge=1)] | Literal["auto"],
        Meta(
            description="Keep a multiple of this many channels. ONNX Runtime's float kernels "
            "work on blocks of 16 (AVX-512), 8 (AVX2) or 4 channels, so other widths cost time. "
            "A group no wider than this may shrink to its half, down to 4, if that helps the "
            'goal. `"auto"` takes the block of this machine.'
        ),
    ] = "auto"
    exclude: Annotated[
        tuple[str, ...],
        Meta(description="Patterns (`fnmatch`) of node or weight names whose shapes stay."),
    ] = ()
    min_channels: Annotated[
        int, Meta(ge=1, description="Least number of units to keep in every group.")
    ] = 1
    branches: Annotated[
        bool,
        Meta(
            description="Allow the removal of whole branches beside a shortcut (residual "
            "blocks, attention, feed-forward parts). A branch goes only if the repaired model "
            "without it is clearly closer to the original on held-out samples."
        ),
    ] = True
    repair: Annotated[
        bool | Literal["auto"],
        Meta(description='Refit the layers that remain; `"auto"` does so if there are samples.'),
    ] = "auto"
    limit: Limit = None
    seed: Seed = 0

    def validate(self) -> None:
        """Raise `OptionError` unless exactly one goal is given."""
        goals = ("macs", "params", "latency", "remove", "widths")
        given = [name for name in goals if getattr(self, name) is not None]
        if len(given) != 1:
            raise OptionError(
                "give exactly one of macs, params, latency (fractions to keep), remove (fraction "
                "of every group to remove) and widths (units that groups keep); given were "
                f"{', '.join(given) or 'none'}"
            )

    @property
    def needs_samples(self) -> bool:
        """True in a recipe: without samples the loss of accuracy is large."""
        return True

    def apply(
        self, model: ir.Model, samples: SamplesLike | None, context: StepContext
    ) -> tuple[ir.Model, PruneChannelsReport]:
        """Make the layers of `model` smaller and repair them on the samples."""
        from onnxlite.prune.channel_step import prune_channels_ir

        return prune_channels_ir(model, samples, self, context)


class PrunedWeight(LayerRow, frozen=True, kw_only=True):
    """A weight tensor with zeros.

    Attributes:
        weight: name of its initializer.
        shape: its shape.
        weights: number of its elements.
        zeros: number of elements that are zero now.
        zeroed: number of elements that became zero.
        sparsity_before: fraction of zeros before.
        sparsity: fraction of zeros now.
    """

    weight: str
    shape: tuple[int, ...]
    weights: int
    zeros: int
    zeroed: int
    sparsity_before: float
    sparsity: float


class PruneWeightsChanges(Changes, frozen=True, kw_only=True):
    """What `prune_weights` counts.

    Attributes:
        weights_zeroed: elements that became zero.
    """

    weights_zeroed: int = 0


class PruneWeightsReport(StepReport, frozen=True, kw_only=True):
    """Report of `prune_weights`; for the other fields see `StepReport`."""

    changes: PruneWeightsChanges = PruneWeightsChanges()
    layers: tuple[PrunedWeight, ...] = ()


class PruneWeights(Step, frozen=True, kw_only=True):
    """Set weights to zero, those that others can replace first; see `onnxlite.prune_weights`."""

    report: ClassVar[type[StepReport]] = PruneWeightsReport
    advice: ClassVar[str] = "set fewer weights to zero, or `repair` or `tune` the result"
    renamed: ClassVar[dict[str, str]] = {"steps": "rounds"}

    sparsity: (
        Annotated[
            float, Meta(ge=0, lt=1, description="Fraction of weights that are zero afterwards.")
        ]
        | None
    ) = None
    threshold: (
        Annotated[float, Meta(ge=0, description="Instead of sparsity: zero every weight below it.")]
        | None
    ) = None
    pattern: (
        Annotated[
            str,
            Meta(
                description='Instead of sparsity: `"N:M"`, at most N nonzero weights of every M '
                "consecutive ones in a sum (input channels of a convolution, rows of a matrix). "
                "Weights whose sum is no multiple of M are left alone."
            ),
        ]
        | None
    ) = None
    method: Annotated[
        SparseMethod,
        Meta(
            description='`"magnitude"`: the smallest weights; `"wanda"`: the smallest products '
            "of weight and input norm per output, nothing else changes (Sun et al. 2023); "
            '`"obc"`: chosen and compensated by second moments of the inputs (Frantar & '
            'Alistarh 2022, 2023); `"auto"`: `"obc"` with samples, else `"magnitude"`.'
        ),
    ] = "auto"
    scope: Annotated[
        Scope,
        Meta(
            description='`"layer"`: the same sparsity in each layer; `"global"`: over the '
            'model, by one magnitude threshold; `"sensitivity"`: over the model, by the effect '
            'of zeros on the outputs; `"auto"`: `"sensitivity"` for `"obc"`, else `"layer"`.'
        ),
    ] = "auto"
    rounds: Annotated[
        int,
        Meta(ge=1, description='Rounds of `"obc"` in which the sparsity is reached.'),
    ] = 1
    include: Include = ()
    exclude: Exclude = ()
    limit: Limit = None

    def validate(self) -> None:
        """Raise `OptionError` for options that do not go together."""
        if (self.sparsity, self.threshold, self.pattern).count(None) != 2:
            raise OptionError(
                "give either sparsity (a fraction of zeros) or threshold or pattern ('2:4'), "
                "exactly one of them"
            )
        if self.pattern is not None:
            Pattern.parse(self.pattern)
        if self.needs_samples and self.threshold is not None:
            raise OptionError(
                f"threshold compares magnitudes: method={self.method!r} needs sparsity"
            )
        by_magnitude = self.method == "magnitude" or self.threshold is not None
        if by_magnitude and (self.scope == "sensitivity" or self.rounds > 1):
            raise OptionError(
                "scope='sensitivity' and rounds need method='obc' or 'wanda' and samples"
            )

    @property
    def needs_samples(self) -> bool:
        """True if the method needs samples."""
        return self.method in ("wanda", "obc")

    @property
    def fits_samples(self) -> bool:
        """True if the method uses samples that are given."""
        return self.method != "magnitude" and self.threshold is None

    def apply(
        self, model: ir.Model, samples: SamplesLike | None, context: StepContext
    ) -> tuple[ir.Model, PruneWeightsReport]:
        """Set weights of `model` to zero."""
        from onnxlite.prune.weight_step import prune_weights_ir

        return prune_weights_ir(model, samples if self.fits_samples else None, self, context)


class SparseWeight(LayerRow, frozen=True, kw_only=True):
    """An initializer that is stored without its zeros.

    Attributes:
        weights: number of its elements.
        sparsity: fraction of zeros.
        dense_bytes: bytes with all elements.
        sparse_bytes: bytes of the other elements and their indices.
    """

    weights: int
    sparsity: float
    dense_bytes: int
    sparse_bytes: int


class SparseStorageChanges(Changes, frozen=True, kw_only=True):
    """What `sparse_storage` counts.

    Attributes:
        weights_sparse: initializers that are stored sparse.
    """

    weights_sparse: int = 0


class SparseStorageReport(StepReport, frozen=True, kw_only=True):
    """Report of `sparse_storage`; for the other fields see `StepReport`."""

    changes: SparseStorageChanges = SparseStorageChanges()
    layers: tuple[SparseWeight, ...] = ()


class SparseStorage(Step, frozen=True, kw_only=True):
    """Store weights that are mostly zeros as sparse; see `onnxlite.sparse_storage`."""

    report: ClassVar[type[StepReport]] = SparseStorageReport
    samples: ClassVar[Literal["needed", "optional", "unused"]] = "unused"
    runtime: ClassVar[tuple[str, ...]] = (
        "batch_axis",
        "progress",
    )

    def apply(
        self,
        model: ir.Model,
        samples: SamplesLike | None,
        context: StepContext,
    ) -> tuple[ir.Model, SparseStorageReport]:
        """Mark weights of `model` as sparse; samples are not used."""
        del samples
        from onnxlite.prune.sparse_storage import sparse_storage_ir

        return sparse_storage_ir(model, progress=context.progress)
