"""Raising the version of the standard operator set, when a later step needs it."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from onnxlite.errors import OptionError, UnsupportedError
from onnxlite.model import clone
from onnxlite.opset import opset_version
from onnxlite.opset import upgrade_opset as converted
from onnxlite.records import Skipped
from onnxlite.samples import SamplesLike
from onnxlite.simplify.verify import take_reference
from onnxlite.validity import interface_difference


def upgrade_opset(
    model: ir.Model, version: int, *, samples: SamplesLike | None = None, verify: bool = True
) -> ir.Model:
    """Convert a model to a newer standard operator set, and check that nothing changed.

    Args:
        model: stays as it is.
        version: the operator set to reach; an equal or newer model is returned as a copy.
        samples: inputs for the check; generated ones otherwise.
        verify: compare the result with the original in ONNX Runtime.

    Raises:
        OptionError: `version` is unknown to the installed onnx.
        UnsupportedError: an operator has no conversion, or the result differs.
    """
    newest = onnx.defs.onnx_opset_version()
    if not 1 <= version <= newest:
        raise OptionError(f"opset {version} does not exist here: onnx knows 1 to {newest}")
    current = opset_version(model)
    if current >= version:
        return clone(model)
    result = converted(model, version)
    if isinstance(result, Skipped):
        raise UnsupportedError(result.message)
    if (difference := interface_difference(model, result)) is None and verify:
        difference = take_reference(model, samples=samples).difference(result)
    if difference is not None:
        raise UnsupportedError(f"upgrading to opset {version} changes the model: {difference}")
    return result
