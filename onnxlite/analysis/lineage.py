"""Lineage: the layer of the original model that each layer of a compressed one comes from.

A step that renames a layer or removes output channels records that here, so that later steps
and reports can match the layers of the two models. The record is kept in `ir.Model.meta`: it
is copied by clones and not saved to files. A layer without a record comes from the layer of
the same name, with all of its channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import cast

import msgspec
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.analysis.units import Binding
from onnxlite.errors import OptionError
from onnxlite.graph import attribute
from onnxlite.model import load
from onnxlite.ops import spec_of

_KEY = "onnxlite.lineage"
_ORIGINAL_KEY = "onnxlite.original"


class Origin(msgspec.Struct, frozen=True):
    """Origin of a layer.

    Attributes:
        node: name of the node in the original model whose output this one computes.
        kept: output channels of that node that are kept, ascending; None for all.
        layer: name of the original's layer that does the same work under another name: its
            output was fused with what follows, or it became an integer kernel. Empty if that
            is `node`.
    """

    node: str
    kept: tuple[int, ...] | None = None
    layer: str = ""

    @property
    def source(self) -> str:
        """Name of the original's layer, for tables and patterns of names."""
        return self.layer or self.node


def lineage_of(model: ir.Model) -> Mapping[str, Origin]:
    """Return all recorded origins, by the present name of the node."""
    # Clones share the mapping, so it is never changed in place.
    return cast(Mapping[str, Origin], model.meta.get(_KEY, MappingProxyType({})))


def restore_lineage(model: ir.Model, entries: Mapping[str, Origin]) -> None:
    """Record the result of `lineage_of` again, after the model was saved and loaded."""
    _put(model, entries)


def original_of(model: ir.Model) -> ir.Model | None:
    """Return the model that this one was made from; None if none is recorded."""
    return cast(ir.Model | None, model.meta.get(_ORIGINAL_KEY))


def record_original(model: ir.Model, original: ir.Model) -> None:
    """Record the model that `model` is made from; it must not be changed afterwards."""
    model.meta[_ORIGINAL_KEY] = original


def paired(candidate: Path | None, model: ir.Model, step: str) -> tuple[ir.Model, ir.Model]:
    """Return reference and candidate of a step that fits one model to another.

    Args:
        candidate: file of the candidate, whose reference is `model`; None if `model` is the
            candidate, whose reference is its recorded original.
        model: the present model of a recipe.
        step: name of the step, for the message.

    Raises:
        OptionError: no original of `model` is recorded.
    """
    if candidate is not None:
        return model, load(candidate)
    if (reference := original_of(model)) is None:
        raise OptionError(f"the step {step!r} needs the model that this one was made from")
    return reference, model


def origin_of(model: ir.Model, node_name: str) -> Origin:
    """Return the origin of a node; by default the node itself with all channels."""
    return lineage_of(model).get(node_name, Origin(node_name))


def record_kept(model: ir.Model, node_name: str, kept: Sequence[int]) -> None:
    """Record that a node keeps only some of its present output channels.

    Repeated calls compose: `kept` holds indices of the present channels.

    Raises:
        OptionError: an index is out of the range of the present channels.
    """
    _put(model, {node_name: _narrowed(origin_of(model, node_name), node_name, kept)})


def _narrowed(origin: Origin, node_name: str, kept: Sequence[int]) -> Origin:
    """Restrict an origin to some of the present output channels."""
    channels = tuple(int(index) for index in kept)
    if origin.kept is not None:
        if channels and not 0 <= min(channels) <= max(channels) < len(origin.kept):
            raise OptionError(
                f"node {node_name!r} has {len(origin.kept)} channels, so channel "
                f"{max(channels)} cannot be kept: "
                "give indices of the present channels, not of the original's"
            )
        channels = tuple(origin.kept[index] for index in channels)
    return Origin(origin.node, channels, origin.layer)


def record_renamed(model: ir.Model, old_name: str, new_name: str) -> None:
    """Record that a node was renamed, or replaced by the node `new_name`."""
    _put(model, {new_name: origin_of(model, old_name)})


def record_layers(model: ir.Model, pairs: Iterable[tuple[str, str]]) -> None:
    """Record layers whose work nodes of other names do now, with other outputs.

    Args:
        model: the present model.
        pairs: former and present name of each, in the order in which they were replaced.
    """
    entries: dict[str, Origin] = {}
    for old, new in pairs:
        if old == new:
            continue
        former = entries.get(old) or origin_of(model, old)
        entries[new] = msgspec.structs.replace(origin_of(model, new), layer=former.source)
    if entries:
        _put(model, entries)


def record_removed(
    model: ir.Model, bindings: Iterable[Binding], removed: NDArray[np.bool_]
) -> None:
    """Record the output channels that layers keep, before units are removed.

    Args:
        model: the model of the layers.
        bindings: bindings of weights, from the channel map.
        removed: bool[ids], True for removed units.
    """
    entries: dict[str, Origin] = {}
    for binding in bindings:
        for node, port in binding.uses:
            if binding.axis != _output_axis(node, port):
                continue
            lost = removed[binding.line.reshape(-1)]
            if spec_of(node).outputs_per_group:
                lost = np.tile(lost, attribute(node, "group", 1))
            if lost.any():
                name = node.name or ""
                origin = entries.get(name) or origin_of(model, name)
                entries[name] = _narrowed(origin, name, np.flatnonzero(~lost).tolist())
    _put(model, entries)


def _output_axis(node: ir.Node, port: int) -> int | None:
    """Axis of the output channels in a layer's weight, else None."""
    axis_of = spec_of(node).output_axis
    return axis_of(node, port) if axis_of is not None and port in spec_of(node).weights else None


def _put(model: ir.Model, entries: Mapping[str, Origin]) -> None:
    model.meta[_KEY] = MappingProxyType({**lineage_of(model), **entries})
