"""A Transpose between two reshapes, done in fewer steps.

Exporters flatten axes around a Transpose and split them again. All three nodes together
only permute *atoms*: the finest axes that every shape on the way is a product of. Sizes
known only at run time take part as distinct primes.
"""

from __future__ import annotations

from itertools import accumulate
from math import prod
from operator import mul

import onnx_ir as ir

from onnxlite.simplify.rewrite import Context, Outcome, ints, owned_by, replace_with, rule
from onnxlite.simplify.rules.shapes import RESHAPES, Dim, Entry, cannot_fail, shape_entries
from onnxlite.simplify.rules.transpose import perm_of

#: Far above any real axis, so that none of them divides a known size.
_PRIMES = (1_000_003, 1_000_033, 1_000_037, 1_000_039, 1_000_081)


@rule("merge-reshape-transpose", *RESHAPES)
def merge_reshape_transpose(node: ir.Node, _context: Context) -> Outcome:
    """Reshape -> Transpose -> Reshape: Transpose with at most one Reshape.

    Declines when an axis has to be split before and another one merged after, or more
    than one size is unknown.
    """
    transpose = owned_by(node.inputs[0], "Transpose", like=node)
    first = owned_by(transpose.inputs[0], *RESHAPES, like=transpose) if transpose else None
    if transpose is None or first is None or not (cannot_fail(first) and cannot_fail(node)):
        return None
    data, perm = first.inputs[0], perm_of(transpose)
    sizes = _numbered([data, first.outputs[0], node.outputs[0]])
    if data is None or sizes is None or perm is None:
        return None
    source, middle, target = sizes
    order = _atoms_in_order(source, middle, perm, target)
    if order is None:
        return None
    atoms, places = order
    groups = _consecutive(source, atoms, places)
    if groups is not None:  # the source's own axes only change places
        moved = ir.node("Transpose", [data], {"perm": groups})
        if [source[axis] for axis in groups] == target:
            return replace_with(node, moved)
        shape = _target([source[axis] for axis in groups], target)
        if shape is None:
            return None
        return replace_with(
            node, moved, ir.node("Reshape", [moved.outputs[0], ints(shape, f"{node.name}_shape")])
        )
    inverse = sorted(range(len(places)), key=places.__getitem__)
    groups = _consecutive(target, [atoms[i] for i in places], inverse)
    if groups is None:
        return None
    shape = _target(source, [target[axis] for axis in groups])
    if shape is None:
        return None
    split = ir.node("Reshape", [data, ints(shape, f"{node.name}_shape")])
    back = sorted(range(len(groups)), key=groups.__getitem__)
    return replace_with(node, split, ir.node("Transpose", [split.outputs[0]], {"perm": back}))


def _numbered(values: list[ir.Value | None]) -> list[list[int]] | None:
    """The shapes as numbers: named sizes are primes, one unnamed per shape follows from them."""
    shapes = [shape_entries(value) for value in values]
    names: dict[Entry, int] = {}
    for entry in shapes[0] or []:
        if isinstance(entry, Dim) and entry not in names:
            if len(names) == len(_PRIMES):
                return None
            names[entry] = _PRIMES[len(names)]
    result: list[list[int]] = []
    for shape in shapes:
        if shape is None:
            return None
        sizes = [entry if isinstance(entry, int) else names.get(entry, -1) for entry in shape]
        if sizes.count(-1) == 1:
            total, known = prod(result[0]), -prod(sizes)
            if not known or total % known:
                return None
            sizes[sizes.index(-1)] = total // known
        if min(sizes, default=1) < 1 or (result and prod(sizes) != prod(result[0])):
            return None
        result.append(sizes)
    return result


def _refined(left: list[int], right: list[int]) -> list[int] | None:
    """The coarsest factors of which the axes of both shapes are consecutive products."""
    ends = sorted({*accumulate(left[::-1], mul), *accumulate(right[::-1], mul)} - {1})
    factors, before = [], 1
    for end in ends:
        if end % before:
            return None
        factors.append(end // before)
        before = end
    return factors[::-1]


def _atoms_in_order(
    source: list[int], middle: list[int], perm: list[int], target: list[int]
) -> tuple[list[int], list[int]] | None:
    """The atoms in the source's order, and the places from which the target takes them."""
    atoms = _refined(source, middle)
    if atoms is None:
        return None
    order = _permuted(atoms, middle, perm)
    after = _refined([atoms[i] for i in order], target)
    if after is None:
        return None
    # Split the atoms further wherever the target cuts through one.
    finer: list[list[int]] = [[] for _ in atoms]
    rest = iter(after)
    for place in order:
        size = 1
        while size < atoms[place]:
            factor = next(rest)
            finer[place].append(factor)
            size *= factor
    atoms = [factor for parts in finer for factor in parts]
    return atoms, _permuted(atoms, middle, perm)


def _permuted(atoms: list[int], shape: list[int], perm: list[int]) -> list[int]:
    """Places of the atoms after permuting the axes of `shape`, which are products of them."""
    groups, place = [], 0
    for size in shape:
        group, product = [], 1
        while product < size:
            group.append(place)
            product *= atoms[place]
            place += 1
        groups.append(group)
    return [place for axis in perm for place in groups[axis]]


def _consecutive(shape: list[int], atoms: list[int], places: list[int]) -> list[int] | None:
    """The permutation of whole axes of `shape` that takes the atoms to `places`, if any."""
    axis_of, position = {}, 0
    for axis, size in enumerate(shape):
        product = 1
        while product < size:
            product *= atoms[position]
            axis_of[position] = axis
            position += 1
    if len(set(axis_of.values())) < len(shape):
        return None  # an axis of size 1 has no atom, so its place is not defined
    order: list[int] = []
    previous: int | None = None
    for place in places:
        axis = axis_of[place]
        if previous is not None and axis_of[previous] == axis:
            if place != previous + 1:
                return None
        elif axis in order:
            return None
        else:
            order.append(axis)
        previous = place
    return order


def _target(source: list[int], wanted: list[int]) -> list[int] | None:
    """A Reshape target from numbered sizes: 0 copies an unknown one, -1 infers it."""
    limit = min(_PRIMES)
    target = [
        size if size < limit else 0 if axis < len(source) and source[axis] == size else -1
        for axis, size in enumerate(wanted)
    ]
    return target if target.count(-1) <= 1 else None


RULES = (merge_reshape_transpose,)
