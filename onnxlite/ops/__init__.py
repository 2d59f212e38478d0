"""The operator table: one row per operator, the only place that knows operators.

A new operator is one more `OpSpec` in the file of its kind. An operator that is not
here is never quantized, never pruned and costs nothing; nothing else need be said.
"""

from onnxlite.ops.channels_sizes import carry_sizes
from onnxlite.ops.coded import CodedWeight, coded_weight
from onnxlite.ops.constant_path import bind_behind
from onnxlite.ops.geometry import GemmForm, Geometry
from onnxlite.ops.linear_layer import LinearLayer, find_layers
from onnxlite.ops.parameters import Parameter, iter_parameters, trained_ports
from onnxlite.ops.row_use import RowUse, row_use
from onnxlite.ops.spec import OpSpec, QuantRule, ShapeOf
from onnxlite.ops.table import OPS, spec_of
from onnxlite.ops.tracker import ChannelRule, Ids, Sizes, Tracker, blank, tracked_axes

__all__ = [
    "OPS",
    "ChannelRule",
    "CodedWeight",
    "GemmForm",
    "Geometry",
    "Ids",
    "LinearLayer",
    "OpSpec",
    "Parameter",
    "QuantRule",
    "RowUse",
    "ShapeOf",
    "Sizes",
    "Tracker",
    "bind_behind",
    "blank",
    "carry_sizes",
    "coded_weight",
    "find_layers",
    "iter_parameters",
    "row_use",
    "spec_of",
    "tracked_axes",
    "trained_ports",
]
