"""Importance of units by their weights: damage curves of l1, l2, batch norm and others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.analysis.channels import ChannelMap, UnitGroup
from onnxlite.analysis.units import Binding, in_groups
from onnxlite.errors import OptionError
from onnxlite.ops import Ids, spec_of
from onnxlite.prune.options import Importance, ImportanceFunction

Array64 = NDArray[np.float64]


@dataclass(frozen=True)
class DamageCurve:
    """Damage of removing the units of a group in order of importance.

    Attributes:
        order: the group's units, the least important first.
        damage: float64[units + 1], damage of removing the first n units of that order, as a
            fraction of the output of the layers that read them: 0 for n = 0, comparable
            across groups.
    """

    order: Ids
    damage: Array64


def curve_of(units: Ids, scores: Array64) -> DamageCurve:
    """Build a curve from additive scores; ties keep the units' order."""
    order = np.argsort(scores, kind="stable")
    return DamageCurve(units[order], np.concatenate([[0.0], np.cumsum(scores[order])]))


Array = NDArray[Any]

#: Criteria that need samples.
FROM_SAMPLES = ("energy", "reconstruction")


def weight_curve(
    channels: ChannelMap,
    group: UnitGroup,
    importance: Importance | ImportanceFunction,
    rng: np.random.Generator,
) -> DamageCurve | str:
    """Compute a group's curve from its weights, or the reason why it has none."""
    units = len(group.units)
    if importance == "random":
        return curve_of(group.units, rng.permutation(units) / max(units * (units - 1) / 2, 1))
    if callable(importance):
        return curve_of(group.units, _custom_scores(channels, group, importance))
    if importance == "bn":
        scales = [b for b in group.bindings if any(spec_of(n).gain == p for n, p in b.uses)]
        if not scales:
            return "no normalization with a scale per channel belongs to it (it may be folded)"
        scores = sum(_normalized(np.abs(_slices(channels, group, b)[:, 0])) for b in scales)
        return curve_of(group.units, np.asarray(scores, np.float64) / len(scales))
    power = 1 if importance == "l1" else 2
    terms = [
        _normalized((np.abs(_slices(channels, group, binding)) ** power).sum(axis=1))
        for binding in _scored_bindings(group)
    ]
    scores = np.mean(terms, axis=0)
    # A unit that is always zero, or that no layer reads, is removed without damage.
    return curve_of(group.units, np.where(_zero_units(channels, group), 0.0, scores))


def _normalized(scores: Array) -> Array64:
    return np.asarray(scores / max(float(scores.sum()), 1e-30), np.float64)


def _custom_scores(channels: ChannelMap, group: UnitGroup, function: ImportanceFunction) -> Array64:
    slices = [_slices(channels, group, binding) for binding in group.bindings]
    scores = np.asarray(function(group.name, slices), np.float64)
    if scores.shape != (len(group.units),) or not np.isfinite(scores).all():
        raise OptionError(
            f"importance function returned shape {scores.shape} for group {group.name!r}: return "
            f"one finite number for each of its {len(group.units)} units"
        )
    return scores - scores.min() if (scores < 0).any() else scores


def _scored_bindings(group: UnitGroup) -> Sequence[Binding]:
    """Return the matrices of a group; its vectors if it has no matrix."""
    return [b for b in group.bindings if _is_matrix(b)] or group.bindings


def _is_matrix(binding: Binding) -> bool:
    assert binding.value.const_value is not None
    return sum(int(size) > 1 for size in binding.value.const_value.shape.numpy()) > 1


def _slices(channels: ChannelMap, group: UnitGroup, binding: Binding) -> Array64:
    """Slices of a weight by unit, float64[units, elements]; short rows are zero-padded."""
    assert binding.value.const_value is not None
    parts: list[list[Array]] = [[] for _ in group.units]
    for part, line in in_groups(binding.value.const_value.numpy(), channels.root[binding.line]):
        rows = np.moveaxis(part, binding.axis, 0).reshape(len(line), -1)
        for place in np.flatnonzero(np.isin(line, group.units)):
            parts[int(np.searchsorted(group.units, line[place]))].append(rows[place])
    found = [np.concatenate(own) for own in parts]
    slices = np.zeros((len(found), max(map(len, found))))
    for row, own in zip(slices, found, strict=True):
        row[: len(own)] = own
    return slices


def _zero_units(channels: ChannelMap, group: UnitGroup) -> NDArray[np.bool_]:
    """Mark units whose producing weights, or whose reading weights, are all zero."""
    reads: list[NDArray[np.bool_]] = []
    makes: list[NDArray[np.bool_]] = []
    for binding, zero in _zero_slices(channels, group):
        (reads if _is_read(binding) else makes).append(zero)
    none = np.zeros(len(group.units), bool)
    return np.asarray(
        (np.all(reads, axis=0) if reads else none) | (np.all(makes, axis=0) if makes else none)
    )


def _zero_slices(
    channels: ChannelMap, group: UnitGroup
) -> Iterator[tuple[Binding, NDArray[np.bool_]]]:
    for binding in group.bindings:
        yield binding, np.asarray(~_slices(channels, group, binding).any(axis=1))


def _is_read(binding: Binding) -> bool:
    """Return True if a weight multiplies units instead of producing them."""
    return _is_matrix(binding) and any(_reads(binding, node, port) for node, port in binding.uses)


def _reads(binding: Binding, node: ir.Node, port: int) -> bool:
    spec = spec_of(node)
    return (
        spec.output_axis is not None
        and port in spec.weights
        and binding.axis != spec.output_axis(node, port)
    )
