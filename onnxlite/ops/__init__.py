"""The operator table: one row per operator, the only place that knows operators.

A new operator is one more `OpSpec` in the file of its kind. An operator that is not
here is never quantized, never pruned and costs nothing; nothing else need be said.
"""

from onnxlite.ops.coded_weight import CodedWeight, coded_weight
from onnxlite.ops.computed import bind_behind, carry_sizes, entry_source
from onnxlite.ops.geometry import GemmForm, Geometry
from onnxlite.ops.lengths import ValueLengths, value_lengths
from onnxlite.ops.linear_layer import LinearLayer, Product, find_layers, find_product
from onnxlite.ops.noise import noise_seed
from onnxlite.ops.spec import CONTRIB_DOMAIN, OpSpec, Quantized, QuantRule, RowUse, ShapeOf
from onnxlite.ops.table import (
    OPS,
    OutputSource,
    Parameter,
    iter_parameters,
    last_axis_affine,
    output_bounds,
    output_source,
    row_use,
    spec_of,
    trained_ports,
    writes_inputs,
)
from onnxlite.ops.tied_noise import is_random, may_draw, random_outputs, tie_noise
from onnxlite.ops.tracker import ChannelRule, Ids, Sizes, Tracker, blank, tracked_axes

__all__ = [
    "CONTRIB_DOMAIN",
    "OPS",
    "ChannelRule",
    "CodedWeight",
    "GemmForm",
    "Geometry",
    "Ids",
    "LinearLayer",
    "OpSpec",
    "OutputSource",
    "Parameter",
    "Product",
    "QuantRule",
    "Quantized",
    "RowUse",
    "ShapeOf",
    "Sizes",
    "Tracker",
    "ValueLengths",
    "bind_behind",
    "blank",
    "carry_sizes",
    "coded_weight",
    "entry_source",
    "find_layers",
    "find_product",
    "is_random",
    "iter_parameters",
    "last_axis_affine",
    "may_draw",
    "noise_seed",
    "output_bounds",
    "output_source",
    "random_outputs",
    "row_use",
    "spec_of",
    "tie_noise",
    "tracked_axes",
    "trained_ports",
    "value_lengths",
    "writes_inputs",
]
