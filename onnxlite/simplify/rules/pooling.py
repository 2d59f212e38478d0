"""Means over space as pooling, which ONNX Runtime runs in its fast layout and in integers."""

from __future__ import annotations

import onnx_ir as ir

from onnxlite.graph import attribute, rank, scalar, static_dim
from onnxlite.simplify.rewrite import (
    Context,
    Outcome,
    Refused,
    axes_of,
    const_ints,
    owned_by,
    replace_with,
    rule,
)


@rule("mean-to-pool", "ReduceMean")
def mean_to_pool(node: ir.Node, _context: Context) -> Outcome:
    """ReduceMean(x, axes 2, 3) of a rank-4 x -> GlobalAveragePool(x).

    Only float32, the one type for which ONNX Runtime's CPU kernels pool globally. Without
    keepdims it would take a Flatten more; quantization does it where it needs that.
    """
    data = node.inputs[0]
    axes = axes_of(node)
    if data is None or rank(data) != 4 or data.dtype != ir.DataType.FLOAT or axes is None:
        return None
    if sorted(axis % 4 for axis in axes) != [2, 3]:
        return None
    if not attribute(node, "keepdims", 1):
        return None
    return replace_with(node, ir.node("GlobalAveragePool", [data]))


@rule("pool-to-global", "AveragePool", "MaxPool")
def pool_to_global(node: ir.Node, _context: Context) -> Outcome:
    """AveragePool or MaxPool with a window of the whole image -> the global pool.

    Declines when the image's size is not known, or with padding, dilation or indices.
    """
    data = node.inputs[0]
    if data is None or rank(data) not in (3, 4, 5) or len(node.outputs) > 1:
        return None
    window = attribute(node, "kernel_shape", [])
    size = [static_dim(data, axis) for axis in range(2, rank(data) or 0)]
    if window != size or any(attribute(node, "pads", [])):
        return None
    if attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    if any(d != 1 for d in attribute(node, "dilations", [])):
        return None
    return replace_with(node, ir.node(f"Global{node.op_type}", [data]))


@rule("fold-pad", "Conv")
def fold_pad(node: ir.Node, _context: Context) -> Outcome:
    """Pad with zeros over space -> Conv: Conv with larger `pads`.

    Declines for other modes and values, padded batch or channels, and automatic padding.
    """
    pad = owned_by(node.inputs[0], "Pad", like=node)
    dims = rank(node.inputs[1])
    if pad is None or dims is None:
        return None
    pads = _zero_pads(pad, dims)
    if pads is None:
        return None
    if attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return Refused("the convolution pads automatically")
    if any(pads[:2]) or any(pads[dims : dims + 2]) or min(pads) < 0:
        return Refused("the padding covers batch or channels, or crops")
    spatial = dims - 2
    own = attribute(node, "pads", [0] * 2 * spatial)
    added = [*pads[2:dims], *pads[dims + 2 :]]
    attributes = {k: v for k, v in node.attributes.items() if k not in ("pads", "auto_pad")}
    attributes["pads"] = ir.AttrInt64s("pads", [a + b for a, b in zip(own, added, strict=True)])
    return replace_with(
        node, ir.Node("", "Conv", [pad.inputs[0], *node.inputs[1:]], attributes.values())
    )


def _zero_pads(pad: ir.Node, dims: int) -> list[int] | None:
    """The pads of a constant-mode Pad with zeros over all axes; None for anything else."""
    if attribute(pad, "mode", "constant") != "constant" or attribute(pad, "value", 0.0):
        return None
    pads = attribute(pad, "pads")
    if pads is None and len(pad.inputs) > 1:
        pads = const_ints(pad.inputs[1])
    if len(pad.inputs) > 2 and pad.inputs[2] is not None and scalar(pad.inputs[2]) != 0:
        return None
    if pads is None or (len(pad.inputs) > 3 and pad.inputs[3] is not None):
        return None
    return pads if len(pads) == 2 * dims else None


@rule("pool-flatten", "Squeeze")
def squeeze_after_pool(node: ir.Node, _context: Context) -> Outcome:
    """GlobalAveragePool -> Squeeze of both spatial axes: Flatten, one form for all exporters."""
    pool = owned_by(node.inputs[0], "GlobalAveragePool", "GlobalMaxPool", like=node)
    axes = axes_of(node)
    if pool is None or rank(pool.inputs[0]) != 4 or axes is None:
        return None
    if sorted(axis % 4 for axis in axes) != [2, 3]:
        return None
    return replace_with(node, ir.node("Flatten", [node.inputs[0]], {"axis": 1}))


RULES = (mean_to_pool, pool_to_global, fold_pad, squeeze_after_pool)
