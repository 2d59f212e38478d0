"""Search space: number formats, fractions of channels and training, as candidates with recipes.

A candidate is identified by data alone:

    CandidateId   = SweepAxis x fraction of the latency (or MACs) that channel pruning keeps
    SweepAxis     = NumberFormat x multiples of channels x training steps
    NumberFormat  = weights and activations, layers that stay float, QDQ or QOperator form

Labels are for people; nothing compares or parses them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import escape
from typing import Literal, TypeAlias

import msgspec

from onnxlite.options import Effort
from onnxlite.prune.options import RoundTo
from onnxlite.quantize.core.targets import TARGETS
from onnxlite.recipe import (
    PruneChannels,
    QuantizeDynamic,
    QuantizeStatic,
    QuantizeWeights,
    Simplify,
    ToFloat16,
    Tune,
)
from onnxlite.step import Step

FormatName = Literal[
    "float", "int8", "int8-dynamic", "4-bit-weights", "8-bit-weights", "float16-weights"
]
#: Bits of a weight in the file, for formats that store weights smaller and compute in float: they
#: hardly change the latency, so only their size can recommend them.
WEIGHT_BITS: Mapping[FormatName, int] = {
    "4-bit-weights": 4,
    "8-bit-weights": 8,
    "float16-weights": 16,
}
#: What channel pruning reduces: the latency measured here, or MACs, which are the same everywhere.
PruneBy = Literal["latency", "macs"]


class NumberFormat(msgspec.Struct, frozen=True, kw_only=True):
    """Number format of a model.

    Attributes:
        name: types of weights and activations.
        float_layers: names of layers that stay float; only with `"int8"`.
        qoperator: integer operators instead of Q and DQ nodes, which makes a smaller file; only
            with `"int8"`.
    """

    name: FormatName
    float_layers: tuple[str, ...] = ()
    qoperator: bool = False

    def __str__(self) -> str:
        text = self.name.replace("-weights", " weights").replace("-dynamic", " dynamic")
        if self.float_layers:
            count = len(self.float_layers)
            text += f" except {count} layer{'' if count == 1 else 's'}"
        return f"{text}, QOperator" if self.qoperator else text


class SweepAxis(msgspec.Struct, frozen=True, kw_only=True):
    """Family of candidates that differ only in the fraction that channel pruning keeps.

    Attributes:
        format: the number format.
        round_to: channels are kept in multiples of it.
        training_steps: steps of training on the original's outputs, between pruning and
            quantization; 0 for none.
    """

    format: NumberFormat
    round_to: RoundTo = "auto"
    training_steps: int = 0


class CandidateId(msgspec.Struct, frozen=True):
    """Identity of a candidate within one search.

    Attributes:
        axis: all of it but the fraction.
        fraction: of the latency (or MACs) of the float model that channel pruning keeps; 1
            without pruning.
    """

    axis: SweepAxis
    fraction: float = 1.0

    @property
    def format(self) -> NumberFormat:
        """Number format."""
        return self.axis.format

    @property
    def is_plain(self) -> bool:
        """True if it is a number format alone, without pruning and training."""
        return self == CandidateId(SweepAxis(format=self.axis.format))


@dataclass(frozen=True)
class Candidate:
    """A recipe to try.

    Attributes:
        id: its identity.
        label: a few words for progress and tables.
        steps: in order; the first one is exact, the others are approximations.
    """

    id: CandidateId
    label: str
    steps: tuple[Step, ...]


#: Steps of formats whose decisions by measurement are known, so that no candidate measures again.
ResolvedFormats: TypeAlias = Mapping[NumberFormat, Sequence[Step]]


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """Everything that may be tried for one model.

    Attributes:
        target: name of the runtime's integer types, see `quantize_static`.
        prune_by: what channel pruning reduces, and fractions are fractions of.
        seed: random seed of pruning and training.
        effort: of the steps.
    """

    target: str
    prune_by: PruneBy
    seed: int
    effort: Effort = "default"

    def formats(self) -> tuple[NumberFormat, ...]:
        """Formats of weights and activations, float first; see `weight_formats` for others."""
        names: list[FormatName] = ["float", "int8"]
        if TARGETS[self.target].ort_cpu is not None:
            names.append("int8-dynamic")
        return tuple(NumberFormat(name=name) for name in names)

    def weight_formats(self) -> tuple[NumberFormat, ...]:
        """Formats of weights alone, from few bits to many."""
        return tuple(NumberFormat(name=name) for name in WEIGHT_BITS)

    def qoperator_form(self, number_format: NumberFormat) -> NumberFormat | None:
        """The same format as integer operators; None if there is none or it has them already."""
        if number_format.name != "int8" or number_format.qoperator:
            return None
        if "qoperator" not in TARGETS[self.target].forms:
            return None
        return msgspec.structs.replace(number_format, qoperator=True)

    def candidate(self, key: CandidateId, resolved: ResolvedFormats) -> Candidate:
        """Build the recipe of a candidate.

        Args:
            key: which one.
            resolved: steps of formats that were measured already.
        """
        steps: list[Step] = [Simplify()]
        if key.fraction < 1:
            by_latency = self.prune_by == "latency"
            prune = PruneChannels(
                effort=self.effort,
                latency=key.fraction if by_latency else None,
                macs=None if by_latency else key.fraction,
                round_to=key.axis.round_to,
                seed=self.seed,
            )
            steps.append(prune)
        if key.axis.training_steps:
            # A few hundred samples are few to train on, so the original answers varied ones too.
            steps.append(Tune(steps=key.axis.training_steps, seed=self.seed, augment=True))
        steps += self._format_steps(key.format, resolved)
        return Candidate(key, self._label(key), tuple(steps))

    def _format_steps(
        self, number_format: NumberFormat, resolved: ResolvedFormats
    ) -> Sequence[Step]:
        if number_format in resolved:
            return resolved[number_format]
        if number_format.qoperator:
            base = msgspec.structs.replace(number_format, qoperator=False)
            *before, last = self._format_steps(base, resolved)
            return (*before, msgspec.structs.replace(last, form="qoperator"))
        if number_format.float_layers:
            base = msgspec.structs.replace(number_format, float_layers=())
            *before, last = self._format_steps(base, resolved)
            return (*before, _with_float_layers(last, number_format.float_layers))
        match number_format.name:
            case "float":
                return ()
            case "int8":
                return (QuantizeStatic(target=self.target, effort=self.effort),)
            case "int8-dynamic":
                return (QuantizeDynamic(target=self.target),)
            case "4-bit-weights":
                return (QuantizeWeights(bits=4, effort=self.effort),)
            case "8-bit-weights":
                return (QuantizeWeights(bits=8, effort=self.effort),)
            case "float16-weights":
                return (ToFloat16(),)

    def _label(self, key: CandidateId) -> str:
        if key.is_plain:
            return str(key.format)
        parts = [f"{key.fraction * 100:.3g}% of {_PRUNE_BY_TEXT[self.prune_by]}"]
        if key.axis.round_to != "auto":
            parts.append(f"multiples of {key.axis.round_to}")
        if key.axis.training_steps:
            parts.append(f"{key.axis.training_steps:,} training steps")
        return ", ".join([*parts, str(key.format)])


_PRUNE_BY_TEXT: Mapping[PruneBy, str] = {"latency": "float latency", "macs": "MACs"}


def can_tune() -> bool:
    """Tell whether torch, which training needs, is installed."""
    return importlib.util.find_spec("torch") is not None


def _with_float_layers(step: Step, layers: Sequence[str]) -> Step:
    """The step of INT8 with further layers in float."""
    assert isinstance(step, QuantizeStatic)
    added = (name for name in map(escape, layers) if name not in step.exclude)
    return msgspec.structs.replace(step, exclude=(*step.exclude, *added))
