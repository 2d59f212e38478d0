"""Which units of a group go: scores from the weights alone, and how many."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from math import gcd
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnxlite.analysis.channels import ChannelMap, UnitGroup
from onnxlite.analysis.units import Binding, in_groups
from onnxlite.errors import OptionError
from onnxlite.ops import Ids

Importance = Literal["l1", "l2", "random"]

Array = NDArray[Any]


def choose_units(
    channels: ChannelMap,
    *,
    ratio: float | Mapping[str, float],
    importance: Importance,
    round_to: int,
    protect: Sequence[str],
    minimum: int,
    seed: int,
) -> dict[str, Ids]:
    """The units to remove, by name of their group; see `onnxlite.prune_channels`.

    Raises:
        OptionError: a value out of range, or a name or pattern that matches nothing.
    """
    _check(channels, ratio, importance, round_to, minimum)
    shielded = _protected(channels, protect)
    rng = np.random.default_rng(seed)
    chosen: dict[str, Ids] = {}
    for group in channels.groups:
        share = ratio if isinstance(ratio, float | int) else ratio.get(group.name, 0.0)
        if group.pin is not None or group.name in shielded or share == 0:
            continue
        kept = count_to_keep(group, share, round_to=round_to, minimum=minimum)
        if kept < len(group.units):
            scores = unit_scores(channels, group, importance, rng)
            order = np.argsort(scores, kind="stable")
            chosen[group.name] = group.units[np.sort(order[: len(group.units) - kept])]
    return chosen


def count_to_keep(group: UnitGroup, share: float, *, round_to: int, minimum: int) -> int:
    """How many units stay when `share` of them is to go.

    The nearest count whose positions on the narrowest axis are a multiple of `round_to`;
    all stay if there is no such count below.
    """
    total = len(group.units)
    step = round_to // gcd(round_to, group.width)
    least = -(-minimum // step) * step
    wanted = max(least, round((1 - share) * total / step) * step)
    return min(wanted, total)


def unit_scores(
    channels: ChannelMap, group: UnitGroup, importance: Importance, rng: np.random.Generator
) -> NDArray[np.float64]:
    """A score per unit of a group: the norm of its slices, in and out.

    The slices of every layer weigh the same: their norms are divided by the layer's mean,
    `s[u] = mean over bindings of |w[u]| / mean(|w|)`. Vectors (bias, normalisation)
    count only where there is nothing else. The norm is that of Li et al. 2017.
    """
    if importance == "random":
        return rng.permutation(len(group.units)).astype(np.float64)
    terms = [_norms(channels, group, b, a, importance) for b, a in _weights(group)]
    total = np.zeros(len(group.units))
    for term in terms:
        total += term / (max(float(term.mean()), 1e-30) * len(terms))
    return total


def _weights(group: UnitGroup) -> list[tuple[Binding, Array]]:
    arrays = []
    for binding in group.bindings:
        assert binding.value.const_value is not None
        arrays.append((binding, binding.value.const_value.numpy()))
    matrices = [(b, a) for b, a in arrays if sum(size > 1 for size in a.shape) > 1]
    return matrices or arrays


def _norms(
    channels: ChannelMap, group: UnitGroup, binding: Binding, array: Array, importance: str
) -> NDArray[np.float64]:
    total = np.zeros(len(group.units))
    for part, line in in_groups(array, channels.root[binding.line]):
        rows = np.moveaxis(part, binding.axis, 0).reshape(len(line), -1).astype(np.float64)
        sums = np.abs(rows).sum(1) if importance == "l1" else np.square(rows).sum(1)
        own = np.isin(line, group.units)
        np.add.at(total, np.searchsorted(group.units, line[own]), sums[own])
    return total if importance == "l1" else np.asarray(np.sqrt(total))


def _check(
    channels: ChannelMap,
    ratio: float | Mapping[str, float],
    importance: str,
    round_to: int,
    minimum: int,
) -> None:
    shares = [ratio] if isinstance(ratio, float | int) else list(ratio.values())
    if wrong := [share for share in shares if not 0 <= share < 1]:
        raise OptionError(f"ratio is a share to remove, 0 to below 1, given was {wrong[0]}")
    if importance not in ("l1", "l2", "random"):
        raise OptionError(f"importance is 'l1', 'l2' or 'random', given was {importance!r}")
    if round_to < 1 or minimum < 1:
        raise OptionError(f"round_to ({round_to}) and minimum ({minimum}) are 1 or more")
    names = {group.name: group for group in channels.groups}
    for name in ratio if isinstance(ratio, Mapping) else ():
        if name not in names:
            raise OptionError(
                f"no group of units is named {name!r}: `explain_channels` lists their names"
            )
        if (pin := names[name].pin) is not None:
            raise OptionError(f"the units of {name!r} must stay: {pin.reason} ({pin.where})")


def _protected(channels: ChannelMap, patterns: Sequence[str]) -> set[str]:
    """The groups that a protected layer is part of."""
    found: set[str] = set()
    matched: set[str] = set()
    for group in channels.groups:
        for name in _names(group):
            if hits := [pattern for pattern in patterns if fnmatchcase(name, pattern)]:
                matched.update(hits)
                found.add(group.name)
    if unused := sorted(set(patterns) - matched):
        raise OptionError(
            f"no layer with units matches {', '.join(map(repr, unused))}: patterns are compared "
            "with the names of nodes and of their weights"
        )
    return found


def _names(group: UnitGroup) -> Iterator[str]:
    for binding in group.bindings:
        yield binding.value.name or ""
    for node in group.layers:
        yield node.name or ""
