"""Tracker of channel rules: the questions and records of a rule about one node.

Every value has `ids`: an integer array of the value's rank whose axes have size 1 (all
positions alike) or their full size. Positions with the same id belong to the same *unit*
and can only be removed together; id 0 marks positions that are no unit's and always stay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

#: Ids of a value (see above), or of the positions along one axis (a *line*, one-dimensional).
Ids: TypeAlias = NDArray[np.int64]


class Tracker(Protocol):
    """Records of a rule about the node at hand; nothing is changed in the model."""

    @property
    def opset(self) -> int:
        """The model's version of the standard operator set."""
        ...

    def shape(self, value: ir.Value) -> tuple[int, ...]:
        """The concrete shape of an input or output of the node."""
        ...

    def ids(self, value: ir.Value) -> Ids:
        """The ids of a value; all 0 for a value without units."""
        ...

    def is_constant(self, value: ir.Value) -> bool:
        """Return True if the value depends on initializers only."""
        ...

    def put(self, value: ir.Value, ids: Ids) -> None:
        """Set the ids of an output; an output that gets none has no units.

        A unit that is alone in the value must stay.
        """
        ...

    def mint(self, count: int) -> Ids:
        """A line of new units, one per position."""
        ...

    def roots(self, ids: Ids) -> Ids:
        """The same units, each written with one id."""
        ...

    def tie(self, a: Ids, b: Ids) -> None:
        """Make the units at the same (broadcast) positions one unit."""
        ...

    def pin(self, ids: Ids, reason: str) -> None:
        """Units that must stay."""
        ...

    def bind(self, port: int, axis: int, line: Ids, *, fill: float | None = 0.0) -> None:
        """The slices of a constant input along `axis` that go away with the units of `line`.

        Args:
            port: an input of the node; nothing happens if it is absent.
            axis: not negative.
            line: one id per slice; or `[group, slice]` where the axis before, axis 0, is
                in groups that lose slices of their own, equally many.
            fill: what silences a unit when written in its slices; None if they must stay
                as they are (a divisor).
        """
        ...

    def recount(
        self,
        where: int | str,
        ids: Ids,
        axis: int,
        *,
        entry: int | None = None,
        bound: bool = False,
    ) -> None:
        """A number that counts positions: those kept of `ids` along `axis`.

        Args:
            where: the port or the attribute that holds the number. Entries of a port that
                are computed from the same axis at run time follow by themselves.
            ids: the positions that are counted.
            axis: of `ids`.
            entry: which entry of the list; None for a single number.
            bound: the number is a place on the axis, set whatever it is. Otherwise it is a
                size, of which 0 and -1 (of Reshape) follow by themselves.
        """
        ...

    def reindex(self, port: int, line: Ids) -> None:
        """A constant list of positions on the axis of `line`: the removed ones drop out."""
        ...

    def sizes(self, value: ir.Value) -> Sizes | None:
        """Return the positions that an integer vector counts, if it holds sizes of tracked axes."""
        ...

    def put_sizes(self, value: ir.Value, sizes: Sizes) -> None:
        """Set what an output counts."""
        ...


#: For every entry of an integer vector the ids and the axis that it counts, or None.
Sizes: TypeAlias = list[tuple[Ids, int] | None]

#: Records what one operator does to channels.
ChannelRule: TypeAlias = Callable[[ir.Node, Tracker], None]


def blank(rank: int) -> Ids:
    """The ids of a value without units."""
    return np.zeros((1,) * rank, np.int64)


def tracked_axes(ids: Ids) -> tuple[int, ...]:
    """The axes along which units differ."""
    return tuple(axis for axis, size in enumerate(ids.shape) if size > 1)


def tie_along(t: Tracker, ids: Ids, *axes: int) -> Ids:
    """Make units one along `axes`, which have size 1 afterwards."""
    for axis in axes:
        first = ids.take([0], axis)
        t.tie(ids, first)
        ids = first
    return ids


def line_of(t: Tracker, ids: Ids, axis: int) -> Ids:
    """The ids along `axis`, after tying along all other axes."""
    return tie_along(t, ids, *(a for a in tracked_axes(ids) if a != axis)).reshape(-1)


def spread(line: Ids, axis: int, rank: int) -> Ids:
    """The ids of a value with the units of `line` along `axis`."""
    return line.reshape(tuple(-1 if a == axis else 1 for a in range(rank)))


def aligned(ids: Ids, rank: int) -> Ids:
    """The ids of an operand as broadcasting sees them: axes of size 1 in front."""
    return ids.reshape((1,) * (rank - ids.ndim) + ids.shape)


def keep_axes(t: Tracker, ids: Ids, axes: tuple[int, ...], reason: str) -> Ids:
    """Ids for an operator that needs all of its other axes: they become the same along these.

    What then has no axis left must stay, for `reason`.
    """
    others = [axis for axis in tracked_axes(ids) if axis not in axes]
    if others and len(others) == len(tracked_axes(ids)):
        t.pin(ids, reason)
        return blank(ids.ndim)
    return tie_along(t, ids, *others)


def mixed_over(t: Tracker, ids: Ids, axes: tuple[int, ...], reason: str) -> Ids:
    """Ids of a result whose positions along `axes` depend on each other, and stay in place."""
    others = [axis for axis in tracked_axes(ids) if axis not in axes]
    if others:
        return tie_along(t, ids, *(axis for axis in tracked_axes(ids) if axis in axes))
    t.pin(ids, reason)
    return ids
