"""What may be tried: number formats, and how much of the channels goes before them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from onnxlite.prune.choose import RoundTo
from onnxlite.recipe.steps import PruneChannels, QuantizeStatic, Simplify, Step


@dataclass(frozen=True)
class Candidate:
    """A recipe to try.

    Attributes:
        label: in a few words, for progress and tables.
        steps: in order; the first one is exact, the others lose something.
        line: the family it belongs to: all that differs within one is `share`.
        share: of the MACs, that pruning leaves; 1 without pruning.
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
    """

    name: str
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Line:
    """Candidates that differ in one number, the share of the MACs that is left.

    Attributes:
        name: unique.
        make: the candidate of a share below 1.
    """

    name: str
    make: Callable[[float], Candidate]


def formats(*, target: str, seed: int) -> Iterator[Format]:
    """The number formats, float first."""
    yield Format("float", ())
    yield Format("int8", (QuantizeStatic(target=target),))


def unpruned(form: Format) -> Candidate:
    """A format on the simplified model."""
    return Candidate(form.name, (Simplify(), *form.steps), form.name)


def pruning_line(form: Format, *, round_to: RoundTo, seed: int) -> Line:
    """Ever fewer channels in one format.

    Args:
        form: the format.
        round_to: multiples of what the channels are left in.
        seed: of the pruning.
    """
    suffix = "" if round_to == "auto" else f" by {round_to}"
    name = f"{form.name}{suffix}"

    def make(share: float) -> Candidate:
        step = PruneChannels(macs=share, round_to=round_to, seed=seed)
        label = f"{share:.0%} of MACs{suffix}, {form.name}"
        return Candidate(label, (Simplify(), step, *form.steps), name, share)

    return Line(name, make)
