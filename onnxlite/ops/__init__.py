"""The operator table: one row per operator, the only place that knows operators.

A new operator is one more `OpSpec` in the file of its kind. An operator that is not
here is never quantized, never pruned and costs nothing; nothing else need be said.
"""

from onnxlite.ops.parameters import Parameter, iter_parameters
from onnxlite.ops.spec import OpSpec, QuantRule, ShapeOf
from onnxlite.ops.table import OPS, spec_of

__all__ = ["OPS", "OpSpec", "Parameter", "QuantRule", "ShapeOf", "iter_parameters", "spec_of"]
