"""Eligibility: removable groups and branches, and the numbers of units to keep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from math import gcd

import onnx_ir as ir

from onnxlite.analysis.branches import Branch, branches_of
from onnxlite.analysis.channels import ChannelMap, UnitGroup
from onnxlite.errors import OptionError
from onnxlite.machine import machine
from onnxlite.patterns import check_patterns, matches, nearest
from onnxlite.prune.options import PruneChannels, RoundTo

#: Minimum number of channels per block of a kernel.
_MIN_BLOCK = 4


def check_options(channels: ChannelMap, options: PruneChannels, *, samples: bool) -> None:
    """Raise `OptionError` for a criterion without samples, or a pinned group."""
    importance = options.importance
    if importance in ("energy", "reconstruction") and not samples:
        raise OptionError(f"importance {importance!r} needs samples: give samples, or choose 'l2'")
    names = {group.name: group for group in channels.groups}
    fractions = options.remove if isinstance(options.remove, Mapping) else {}
    for name in options.widths or fractions:
        if name not in names:
            hint = "".join(f"did you mean {near!r}? " for near in nearest(name, names)[:1])
            raise OptionError(
                f"no group of units is named {name!r}: {hint}`explain_channels` lists their names"
            )
        if (pin := names[name].pin) is not None:
            raise OptionError(
                f"the units of {name!r} cannot be removed: {pin.reason} ({pin.where})"
            )


def channel_block(round_to: RoundTo) -> int:
    """Resolve `round_to`; `"auto"` is the channel block of this machine's kernels."""
    return machine().channel_block if round_to == "auto" else round_to


def eligible_groups(channels: ChannelMap, exclude: Sequence[str]) -> frozenset[str]:
    """Return the names of the groups that are not pinned and have no excluded layer.

    Raises:
        OptionError: a pattern matches nothing.
    """
    excluded = _excluded(channels, exclude)
    return frozenset(
        group.name for group in channels.groups if group.pin is None and group.name not in excluded
    )


def removable_branches(
    model: ir.Model, channels: ChannelMap, eligible: Set[str], exclude: Sequence[str]
) -> Mapping[int, Branch]:
    """Find the branches of eligible groups without excluded nodes, by group."""
    return {
        index: branch
        for index, branch in branches_of(model, channels).items()
        if channels.groups[index].name in eligible
        and not matches(
            (
                name or ""
                for node in branch.nodes
                for name in (node.name, *(v.name for v in node.inputs if v is not None))
            ),
            exclude,
        )
    }


def allowed_counts(group: UnitGroup, *, block: int, minimum: int) -> tuple[int, ...]:
    """Numbers of units that a group may keep, in descending order from all.

    The number of positions (`group.width` per unit) is a multiple of `block`. A group of at
    most one block may keep half of it, and so on down to 4 positions.
    """
    total = len(group.units)
    step = block // gcd(block, group.width)
    counts = {total, *range(step, total, step)}
    while total <= step and block > _MIN_BLOCK:
        block //= 2
        counts.add(block // gcd(block, group.width))
    return tuple(sorted((c for c in counts if min(minimum, total) <= c <= total), reverse=True))


def count_to_keep(group: UnitGroup, fraction: float, *, block: int, minimum: int) -> int:
    """Number of units to keep if a fraction of them is to be removed.

    The nearest number whose positions on the narrowest axis are a multiple of `block`; all
    units if there is no such number below.
    """
    total = len(group.units)
    step = block // gcd(block, group.width)
    least = -(-minimum // step) * step
    wanted = max(least, round((1 - fraction) * total / step) * step)
    return min(wanted, total)


def removed_by_widths(
    channels: ChannelMap, eligible: Set[str], branches: Set[int], widths: Mapping[str, int]
) -> tuple[int, ...]:
    """Number of units to remove from every group for given widths.

    Args:
        channels: units of the model.
        eligible: names of the groups that may lose units.
        branches: groups that may lose all units, with their branch.
        widths: number of units to keep, by the name of the group.

    Raises:
        OptionError: a width is out of range, or its group is excluded.
    """
    removed = []
    for index, group in enumerate(channels.groups):
        total = len(group.units)
        kept = widths.get(group.name, total)
        least = 0 if index in branches else 1
        if not least <= kept <= total:
            raise OptionError(
                f"widths: {group.name!r} must keep between {least} and {total} units, not {kept}: "
                "`explain_channels` lists the groups"
            )
        if kept < total and group.name not in eligible:
            raise OptionError(
                f"widths: {group.name!r} is excluded and cannot keep {kept} of {total} units: "
                "remove it from `widths` or from `exclude`"
            )
        removed.append(total - kept)
    return tuple(removed)


def _excluded(channels: ChannelMap, patterns: Sequence[str]) -> set[str]:
    """Return the groups with an excluded layer."""
    check_patterns(
        patterns,
        (name for group in channels.groups for name in _names(group)),
        what="layer with units",
        compared="the names of nodes and of their weights",
    )
    return {group.name for group in channels.groups if matches(_names(group), patterns)}


def _names(group: UnitGroup) -> Iterator[str]:
    for binding in group.bindings:
        yield binding.value.name or ""
    for node in group.layers:
        yield node.name or ""
