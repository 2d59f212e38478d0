"""Eligibility: the groups and branches that may lose units, and the numbers they may keep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from fnmatch import fnmatchcase
from math import gcd

import onnx_ir as ir

from onnxlite.analysis.branches import Branch, branches_of
from onnxlite.analysis.channels import ChannelMap, UnitGroup
from onnxlite.errors import OptionError
from onnxlite.machine import machine
from onnxlite.prune.options import PruneChannels, RoundTo

#: Kernels need at least this many channels at once.
_MIN_BLOCK = 4


def check_options(channels: ChannelMap, options: PruneChannels, *, samples: bool) -> None:
    """Raise `OptionError` for a criterion without samples, or a group that may not shrink."""
    importance = options.importance
    if importance in ("energy", "reconstruction") and not samples:
        raise OptionError(f"importance {importance!r} is measured: give samples, or take 'l2'")
    names = {group.name: group for group in channels.groups}
    fractions = options.remove if isinstance(options.remove, Mapping) else {}
    for name in options.widths or fractions:
        if name not in names:
            raise OptionError(
                f"no group of units is named {name!r}: `explain_channels` lists their names"
            )
        if (pin := names[name].pin) is not None:
            raise OptionError(f"the units of {name!r} must stay: {pin.reason} ({pin.where})")


def channel_block(round_to: RoundTo) -> int:
    """The multiple that channels are kept in; `"auto"` is the block of this machine's kernels."""
    return machine().channel_block if round_to == "auto" else round_to


def eligible_groups(channels: ChannelMap, exclude: Sequence[str]) -> frozenset[str]:
    """The names of the groups that may lose units: not pinned, and no layer excluded.

    Raises:
        OptionError: a pattern that matches nothing.
    """
    excluded = _excluded(channels, exclude)
    return frozenset(
        group.name for group in channels.groups if group.pin is None and group.name not in excluded
    )


def removable_branches(
    model: ir.Model, channels: ChannelMap, eligible: Set[str], exclude: Sequence[str]
) -> Mapping[int, Branch]:
    """The branches that may be removed, by their eligible group: no node of them is excluded."""
    return {
        index: branch
        for index, branch in branches_of(model, channels).items()
        if channels.groups[index].name in eligible
        and not any(
            fnmatchcase(value or "", pattern)
            for node in branch.nodes
            for value in (node.name, *(v.name for v in node.inputs if v is not None))
            for pattern in exclude
        )
    }


def allowed_counts(group: UnitGroup, *, block: int, minimum: int) -> tuple[int, ...]:
    """How many units of a group may be kept, in descending order from all.

    Counts are those whose positions (`group.width` a unit) are a multiple of `block`. A
    group of no more than one block may go to half of it, and so on down to 4 positions.
    """
    total = len(group.units)
    step = block // gcd(block, group.width)
    counts = {total, *range(step, total, step)}
    while total <= step and block > _MIN_BLOCK:
        block //= 2
        counts.add(block // gcd(block, group.width))
    return tuple(sorted((c for c in counts if min(minimum, total) <= c <= total), reverse=True))


def count_to_keep(group: UnitGroup, fraction: float, *, block: int, minimum: int) -> int:
    """How many units stay when a fraction of them is to be removed.

    The nearest count whose positions on the narrowest axis are a multiple of `block`;
    all stay if there is no such count below.
    """
    total = len(group.units)
    step = block // gcd(block, group.width)
    least = -(-minimum // step) * step
    wanted = max(least, round((1 - fraction) * total / step) * step)
    return min(wanted, total)


def removed_by_widths(
    channels: ChannelMap, eligible: Set[str], branches: Set[int], widths: Mapping[str, int]
) -> tuple[int, ...]:
    """How many units of every group are removed if those named keep so many.

    Args:
        channels: the units.
        eligible: names of the groups that may lose some.
        branches: groups that may lose all, with their branch.
        widths: units to keep, by the names of groups.

    Raises:
        OptionError: more units than there are, fewer than must stay, or an excluded group.
    """
    removed = []
    for index, group in enumerate(channels.groups):
        total = len(group.units)
        kept = widths.get(group.name, total)
        least = 0 if index in branches else 1
        if not least <= kept <= total:
            raise OptionError(
                f"{group.name!r} has {total} units and keeps {least} at least, given was {kept}: "
                "`explain_channels` shows every group"
            )
        if kept < total and group.name not in eligible:
            raise OptionError(
                f"the units of {group.name!r} are excluded and cannot be {kept}: name it in "
                "`widths` or in `exclude`, not in both"
            )
        removed.append(total - kept)
    return tuple(removed)


def _excluded(channels: ChannelMap, patterns: Sequence[str]) -> set[str]:
    """The groups that an excluded layer is part of."""
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
