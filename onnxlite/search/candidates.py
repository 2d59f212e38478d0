"""What may be tried: number formats, and how much of the channels goes before them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from glob import escape
from typing import Literal

import msgspec

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

INT8 = "int8"
#: Between a format's name and what its channels are multiples of, in the name of a line.
BY = " by "

#: What channels are chosen by: time of this machine, or work, which is the same everywhere.
Priced = Literal["latency", "macs"]
_WORDS: dict[Priced, str] = {"latency": "float latency", "macs": "MACs"}


@dataclass(frozen=True)
class Candidate:
    """A recipe to try.

    Attributes:
        label: in a few words, for progress and tables.
        steps: in order; the first one is exact, the others lose something.
        line: the family it belongs to: all that differs within one is `share`.
        share: of the latency (or MACs), that pruning leaves; 1 without pruning.
    """

    label: str
    steps: tuple[Step, ...]
    line: str
    share: float = 1.0


@dataclass(frozen=True)
class Format:
    """How numbers are kept: the steps that come last.

    Attributes:
        name: in labels.
        steps: none for float.
        bits: of a weight in the file, where the format changes nothing else: then it makes a
            model hardly faster, and the file no smaller than this.
    """

    name: str
    steps: tuple[Step, ...]
    bits: int | None = None


@dataclass(frozen=True)
class SweepAxis:
    """Candidates that differ in one number, the share of the latency (or MACs) that is left.

    Attributes:
        name: unique.
        make: the candidate of a share below 1.
    """

    name: str
    make: Callable[[float], Candidate]


def can_tune() -> bool:
    """Whether the package is there that tuning needs."""
    return importlib.util.find_spec("torch") is not None


def formats(*, target: str) -> Iterator[Format]:
    """The number formats, float first, those of weights alone from few bits to many."""
    yield Format("float", ())
    yield Format(INT8, (QuantizeStatic(target=target),))
    if TARGETS[target].ort_cpu is not None:
        yield Format("int8 dynamic", (QuantizeDynamic(target=target),))
    yield Format("4-bit weights", (QuantizeWeights(bits=4),), 4)
    yield Format("8-bit weights", (QuantizeWeights(bits=8),), 8)
    yield Format("float16 weights", (ToFloat16(),), 16)


def mixed(form: Format, layers: Sequence[str]) -> Format:
    """An INT8 format of which some layers stay float."""
    *before, last = form.steps
    assert isinstance(last, QuantizeStatic)
    kept = tuple(name for name in map(escape, layers) if name not in last.exclude)
    step = msgspec.structs.replace(last, exclude=(*last.exclude, *kept))
    count = f"{len(layers)} layer{'' if len(layers) == 1 else 's'}"
    return Format(f"{form.name} but {count}", (*before, step))


def compact(form: Format) -> Format | None:
    """An INT8 format written as integer operators, without Q and DQ nodes: a smaller file."""
    last = form.steps[-1] if form.steps else None
    if not isinstance(last, QuantizeStatic) or "qoperator" not in TARGETS[last.target].forms:
        return None
    step = msgspec.structs.replace(last, form="qoperator")
    return Format(f"{form.name} as operators", (*form.steps[:-1], step))


def unpruned(form: Format) -> Candidate:
    """A format on the simplified model."""
    return Candidate(form.name, (Simplify(), *form.steps), form.name)


def pruning_line(
    form: Format,
    *,
    round_to: RoundTo,
    seed: int,
    by: Priced,
    training: int | None = None,
) -> SweepAxis:
    """Ever fewer channels in one format.

    Args:
        form: the format.
        round_to: multiples of what the channels are left in.
        seed: of the pruning.
        by: channels go where that saves most of it; shares are shares of it.
        training: steps that what is left is trained for on the answers of the original, before
            it is quantized.
    """
    suffix = "" if round_to == "auto" else f"{BY}{round_to}"
    suffix += f"{BY}{training:,} steps of training" if training is not None else ""
    name = f"{form.name}{suffix}"

    def make(share: float) -> Candidate:
        latency, macs = (share, None) if by == "latency" else (None, share)
        step = PruneChannels(latency=latency, macs=macs, round_to=round_to, seed=seed)
        label = f"{share:.0%} of {_WORDS[by]}{suffix}, {form.name}"
        # Some hundred samples are few to train on: the original answers varied ones as well.
        tune = () if training is None else (Tune(steps=training, seed=seed, augment=True),)
        return Candidate(label, (Simplify(), step, *tune, *form.steps), name, share)

    return SweepAxis(name, make)
