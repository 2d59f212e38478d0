"""Remove channel units from a model, or set them to zero (zero-mask them).

Both follow one `ChannelMap`. Equal outputs of the two verify it, because removal shifts later
channels and a wrong index changes the outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.analysis.channels import ChannelMap
from onnxlite.analysis.lineage import record_removed
from onnxlite.analysis.shapes import infer_shapes
from onnxlite.analysis.units import Binding, Recount, Reindex, in_groups
from onnxlite.graph import Names, add_initializer, attribute, const_array, value_names
from onnxlite.ops import Ids
from onnxlite.prune.block_removal import remove_branches, removed_branches, zero_mask_branches

Array = NDArray[Any]


def remove_units(model: ir.Model, channels: ChannelMap, units: Iterable[int]) -> None:
    """Rewrite in place: remove `units` from weights, counts, shape constants and shapes.

    Args:
        model: the model that `channels` was derived from; dynamic axes stay dynamic.
        channels: units of the model; invalid for the rewritten model.
        units: ids of units that are not pinned; every group must keep one, except for groups
            with a removable branch (`onnxlite.analysis.branches`).
    """
    removed = _mask(channels, units)
    remove_branches(model, removed_branches(model, channels, removed))
    bindings = list(_left(channels.bindings))
    record_removed(model, bindings, removed)
    names = value_names(model)
    _rewrite(model, bindings, removed, names, _without)
    for recount in channels.recounts:
        if recount.node.graph is not None:
            _apply_count(model, recount, removed, names)
    for reindex in channels.reindexes:
        if reindex.node.graph is not None:
            _apply_index(model, reindex, removed, names)
    infer_shapes(model, refresh=True)


def zero_mask_units(model: ir.Model, channels: ChannelMap, units: Iterable[int]) -> None:
    """Rewrite in place: set all slices that are bound to `units` to 0.

    The producers of a unit then compute zeros, and the slices of weights that read it are zero
    as well. Divisors do not change. A branch whose whole group is removed adds nothing to its
    sum, not even the bias of its consumers.
    """
    removed = _mask(channels, units)
    zero_mask_branches(model, removed_branches(model, channels, removed))
    _rewrite(model, channels.bindings, removed, value_names(model), _masked)


def _left(bindings: Iterable[Binding]) -> Iterator[Binding]:
    """Yield the bindings, without uses by removed nodes."""
    for binding in bindings:
        uses = tuple(use for use in binding.uses if use[0].graph is not None)
        if uses:
            yield replace(binding, uses=uses)


def _mask(channels: ChannelMap, units: Iterable[int]) -> NDArray[np.bool_]:
    """Make bool[ids], True for removed units."""
    chosen = np.zeros(len(channels.root), bool)
    chosen[np.fromiter(units, np.int64)] = True
    chosen[0] = False
    return chosen[channels.root]


#: Function of an array, an axis, a mask of removed slices, and the fill value.
_Edit = Callable[[Array, int, NDArray[np.bool_], float | None], Array]


def _without(array: Array, axis: int, lost: NDArray[np.bool_], _fill: float | None) -> Array:
    parts = [np.compress(~own, part, axis) for part, own in in_groups(array, lost)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _masked(array: Array, axis: int, lost: NDArray[np.bool_], fill: float | None) -> Array:
    if fill is None:
        return array
    array = array.copy()
    for part, own in in_groups(array, lost):
        np.moveaxis(part, axis, 0)[own] = fill
    return array


def _rewrite(
    model: ir.Model,
    bindings: Iterable[Binding],
    removed: NDArray[np.bool_],
    names: Names,
    edit: _Edit,
) -> None:
    """Rewrite in place: edit the bound initializers; copy those with other uses."""
    edits: dict[tuple[ir.Value, tuple[tuple[ir.Node, int], ...]], list[Binding]] = {}
    matrices: dict[ir.Value, list[Binding]] = {}
    for binding in bindings:
        if not removed[binding.line].any():
            continue
        if _is_vector(binding.value):
            edits.setdefault((binding.value, tuple(binding.uses)), []).append(binding)
        else:
            matrices.setdefault(binding.value, []).append(binding)
    for value, found in matrices.items():
        _set(value, _edited(value, found, removed, edit))
    for (value, uses), found in edits.items():
        array = _edited(value, found, removed, edit)
        if len(list(value.uses())) == len(uses) and not value.is_graph_output():
            _set(value, array)
            continue
        own = _own(model, names, value, array)
        for node, port in uses:
            node.replace_input_with(port, own)


def _is_vector(value: ir.Value) -> bool:
    assert value.const_value is not None
    return sum(int(size) > 1 for size in value.const_value.shape.numpy()) <= 1


def _edited(
    value: ir.Value, bindings: Iterable[Binding], removed: NDArray[np.bool_], edit: _Edit
) -> Array:
    assert value.const_value is not None
    array: Array = value.const_value.numpy()
    for binding in bindings:
        array = edit(array, binding.axis, removed[binding.line], binding.fill)
    return array


def _set(value: ir.Value, array: Array) -> None:
    assert value.const_value is not None
    dtype = value.const_value.dtype
    array = np.ascontiguousarray(array)
    value.const_value = ir.Tensor(array, dtype=dtype, name=value.name)
    value.shape = ir.Shape(array.shape)


def _own(model: ir.Model, names: Names, value: ir.Value, array: Array) -> ir.Value:
    """Add an initializer for one use of `value`."""
    assert value.const_value is not None
    own = add_initializer(model.graph, names.fresh(f"{value.name}_own"), array)
    if own.dtype != value.const_value.dtype:
        own.const_value = ir.Tensor(array, dtype=value.const_value.dtype, name=own.name)
        own.type = ir.TensorType(value.const_value.dtype)
    return own


def _apply_count(
    model: ir.Model, recount: Recount, removed: NDArray[np.bool_], names: Names
) -> None:
    node, where = recount.node, recount.where
    count = _kept(recount.ids, recount.axis, removed)
    if isinstance(where, str):
        old = attribute(node, where)
        if recount.entry is None:
            node.attributes[where] = ir.AttrInt64(where, count)
        else:
            new = [count if i == recount.entry else int(n) for i, n in enumerate(old)]
            node.attributes[where] = ir.AttrInt64s(where, new)
        return
    value = node.inputs[where]
    array = const_array(value)
    assert value is not None
    assert array is not None
    entry = recount.entry or 0
    if int(array.reshape(-1)[entry]) == count:
        return
    array = array.copy()
    array.reshape(-1)[entry] = count
    # Exporters share small constants between unrelated nodes.
    if len(list(value.uses())) == 1 and not value.is_graph_output():
        _set(value, array)
    else:
        node.replace_input_with(where, _own(model, names, value, array))


def _kept(ids: Ids, axis: int, removed: NDArray[np.bool_]) -> int:
    """Count the slices along `axis` that keep a position."""
    lines = np.moveaxis(~removed[ids], axis, 0).reshape(ids.shape[axis], -1)
    return int(lines.any(1).sum())


def _apply_index(
    model: ir.Model, reindex: Reindex, removed: NDArray[np.bool_], names: Names
) -> None:
    value = reindex.node.inputs[reindex.port]
    picked = const_array(value)
    assert value is not None
    assert picked is not None
    kept = ~removed[reindex.line]
    place = np.cumsum(kept) - 1
    new = place[picked[kept[picked]]].astype(picked.dtype)
    reindex.node.replace_input_with(reindex.port, _own(model, names, value, new))
