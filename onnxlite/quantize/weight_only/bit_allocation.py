"""Allocate bits to weights under a size budget: where they remove most output noise per byte.

The noise at the outputs is measured once per weight, rounded alone to few bits. For small errors it
is proportional to the weight's own rounding error, which extrapolates it to the other widths. A
greedy ascent from the fewest bits takes, again and again, the widening that removes most noise per
byte (the convex hull of each weight's widths).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeGuard

import numpy as np
import onnx_ir as ir

from onnxlite.errors import ExecutionError, OptionError
from onnxlite.model import clone, size_bytes, to_bytes
from onnxlite.packing import Bits
from onnxlite.quantize.weight_only.decode_graph import node_bytes, packed_nbytes
from onnxlite.quantize.weight_only.fit import decoded_tensor
from onnxlite.quantize.weight_only.kernels import refusal
from onnxlite.quantize.weight_only.options import WeightOptions
from onnxlite.quantize.weight_only.plan import Chosen, nearest
from onnxlite.quantize.weight_only.selection import Weight
from onnxlite.quantize.weight_only.verify import WHOLE_BELOW_BYTES
from onnxlite.runtime import Session, probe_feeds
from onnxlite.samples import Feed

#: Widths that compete, fewest first.
WIDTHS: tuple[Bits, ...] = ("ternary", 2, 3, 4, 5, 6, 8)
#: Of a weight that a kernel reads: others would be stored in the next larger one of these.
KERNEL_WIDTHS: tuple[Bits, ...] = (2, 4, 8)
#: The widths at which damage is measured, the first that a weight may have.
PROBES: tuple[Bits, ...] = (3, 4)


@dataclass(frozen=True)
class Choice:
    """A weight at one width.

    Attributes:
        bits: the width.
        nbytes: in the file.
        damage: noise at the outputs.
    """

    bits: Bits
    nbytes: int
    damage: float


def allocate(choices: Sequence[Sequence[Choice]], budget: int) -> list[Bits] | None:
    """The width of every weight, None if even the fewest bits exceed the budget.

    Args:
        choices: of each weight, by rising size.
        budget: bytes for all of them.
    """
    hulls = [_hull(each) for each in choices]
    chosen = [0] * len(hulls)
    spent = sum(hull[0].nbytes for hull in hulls)
    if spent > budget:
        return None
    open_ends = set(range(len(hulls)))
    while open_ends:
        best, gain = -1, -1.0
        for index in sorted(open_ends):
            hull, at = hulls[index], chosen[index]
            if at + 1 == len(hull) or spent + hull[at + 1].nbytes - hull[at].nbytes > budget:
                open_ends.discard(index)
                continue
            rate = _rate(hull[at], hull[at + 1])
            if rate > gain:
                best, gain = index, rate
        if best < 0:
            break
        spent += hulls[best][chosen[best] + 1].nbytes - hulls[best][chosen[best]].nbytes
        chosen[best] += 1
    return [hull[at].bits for hull, at in zip(hulls, chosen, strict=True)]


def _rate(narrow: Choice, wide: Choice) -> float:
    """Damage taken away per byte."""
    return (narrow.damage - wide.damage) / max(1, wide.nbytes - narrow.nbytes)


def _hull(choices: Sequence[Choice]) -> list[Choice]:
    """The choices on the lower convex hull of damage over bytes."""
    hull: list[Choice] = []
    for choice in sorted(choices, key=lambda c: (c.nbytes, c.damage)):
        if hull and choice.damage >= hull[-1].damage:
            continue
        while len(hull) > 1 and _rate(hull[-2], hull[-1]) <= _rate(hull[-1], choice):
            hull.pop()
        hull.append(choice)
    return hull


def output_noise(
    model: ir.Model,
    rounded: Mapping[str, Callable[[], ir.TensorProtocol | None]],
    feeds: Sequence[Feed],
    threads: int | None,
) -> dict[str, float] | None:
    """What each weight, rounded alone, adds to the outputs, over the outputs' own energy.

    Args:
        model: in float, normalised.
        rounded: the other tensor of each weight, by name.
        feeds: inputs; if there are none, generated ones.
        threads: of ONNX Runtime.

    Returns:
        By name; None if the model cannot be run.
    """
    try:
        feeds = list(feeds) or probe_feeds(model, count=1)
        session = Session(model, threads=threads)
        expected = [session.run(feed) for feed in feeds]
    except ExecutionError:
        return None
    names = [
        name for name, array in expected[0].items() if getattr(array, "dtype", None) == np.float32
    ]
    energy = {name: sum(float((e[name] ** 2).sum()) for e in expected) for name in names}
    noise: dict[str, float] = {}
    for weight, tensor in rounded.items():
        changed, other = clone(model), tensor()
        for graph in changed.graphs():
            if weight in graph.initializers and other is not None:
                graph.initializers[weight].const_value = other
        session = Session(changed, threads=threads)
        total = 0.0
        for feed, want in zip(feeds, expected, strict=True):
            got = session.run(feed)
            total += sum(
                float(((want[name] - got[name]) ** 2).sum()) / energy[name]
                for name in names
                if energy[name] > 0
            )
        noise[weight] = total
    return noise


def budgeted(
    source: ir.Model,
    model: ir.Model,
    weights: Sequence[Weight],
    options: WeightOptions,
    feeds: Sequence[Feed],
    file_bytes: Callable[[Sequence[Weight]], int],
) -> list[Weight]:
    """The weights with the widths that `options.size` allows; those that do not pay are left out.

    Args:
        source: the float model as it came; its file is what the size is a share of.
        model: the same, normalised.
        weights: those that may get few bits.
        options: with a size.
        feeds: inputs that damage is measured on.
        file_bytes: the size of the model with weights of these widths, as it would be saved;
            of models that are too large for that the size is estimated.

    Raises:
        OptionError: the fewest bits are too many.
    """
    assert options.size is not None
    widths: dict[str, dict[Bits, Chosen]] = {}
    by_name = {weight.value.name or "": weight for weight in weights}
    for name, weight in by_name.items():
        by_kernel = options.mode == "compute" and refusal(weight) is None
        competing = KERNEL_WIDTHS if by_kernel else WIDTHS
        found = {bits: nearest(replace(weight, bits=bits), options) for bits in competing}
        pays = {bits: one for bits, one in found.items() if isinstance(one, Chosen)}
        if pays:
            widths[name] = pays
    whole = size_bytes(source) < WHOLE_BELOW_BYTES
    total = len(to_bytes(source)) if whole else size_bytes(source)
    noise: dict[str, float] | None = None
    if whole:
        probes = {n: partial(_decoded, _probe(pays)) for n, pays in widths.items()}
        noise = output_noise(model, probes, feeds, options.threads)
        if noise is not None:
            noise = _guessed(noise, {n: _probe(pays) for n, pays in widths.items()})
    choices = [_choices(pays, None if noise is None else noise[n]) for n, pays in widths.items()]
    fixed = total - sum(by_name[name].tensor.nbytes for name in widths)
    budget = int(options.size * total) - fixed
    bits = allocate(choices, budget)
    if bits is None:
        least = fixed + sum(min(c.nbytes for c in each) for each in choices)
        raise OptionError(
            f"size={options.size} cannot be reached: with the fewest bits everywhere the model "
            f"has about {least / total:.3f} of its size"
        )

    def widened(bits: Sequence[Bits]) -> list[Weight]:
        return [replace(by_name[n], bits=b) for n, b in zip(widths, bits, strict=True)]

    first = widened(bits)
    if not whole:
        return first
    # What the estimate has too much, for nodes and for floats that will have 16 bits, is spent.
    chosen = (
        next(c.nbytes for c in each if c.bits == b) for each, b in zip(choices, bits, strict=True)
    )
    spare = fixed + sum(chosen) - file_bytes(first)
    more = allocate(choices, budget + spare)
    if more is not None and file_bytes(widened(more)) <= options.size * total:
        return widened(more)
    return first


def _choices(pays: Mapping[Bits, Chosen], noise: float | None) -> list[Choice]:
    """Bytes and damage of one weight's widths; damage grows with the weight's rounding error."""
    probe = _probe(pays)
    unit = 1.0 if probe is None or not probe.coded.noise else 1 / probe.coded.noise
    if noise is None:
        first = next(iter(pays.values()))
        noise, unit = 1.0, 1 / max(first.coded.signal, 1e-30)
    return [
        Choice(
            bits,
            packed_nbytes(one.blocks, one.coded.coding) + node_bytes(one.kind),
            noise * unit * one.coded.noise,
        )
        for bits, one in pays.items()
    ]


def _guessed(noise: Mapping[str, float], probes: Mapping[str, Chosen | None]) -> dict[str, float]:
    """Damage where no sample shows any: as much, for its rounding error, as elsewhere.

    Such a weight is in a branch that no sample takes; it must not pay for the others.
    """
    lost = {n: one.coded.noise / one.coded.signal for n, one in probes.items() if _rounds(one)}
    shown = [noise[name] / lost[name] for name in lost if noise[name] > 0]
    usual = float(np.median(shown)) if shown else 1.0
    return {n: value or usual * lost.get(n, 0.0) for n, value in noise.items()}


def _rounds(one: Chosen | None) -> TypeGuard[Chosen]:
    return one is not None and one.coded.noise > 0 and one.coded.signal > 0


def _probe(pays: Mapping[Bits, Chosen]) -> Chosen | None:
    return next((pays[bits] for bits in PROBES if bits in pays), None)


def _decoded(one: Chosen | None) -> ir.TensorProtocol | None:
    if one is None:
        return None
    return decoded_tensor(one.tensor, one.blocks, one.coded.coding, one.codes(None))
