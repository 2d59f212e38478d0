"""Upgrade of a model's operator set, for steps that need newer operators."""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx import version_converter

from onnxlite.graph import STANDARD_DOMAINS
from onnxlite.model import clone, embedded, serialized
from onnxlite.records import Skipped
from onnxlite.validity import take_weights


def opset_version(model: ir.Model) -> int:
    """Version of the standard operator set that the model uses; 1 if it declares none."""
    versions = [v for d, v in model.opset_imports.items() if d in STANDARD_DOMAINS and v]
    return max(versions, default=1)


def upgrade_opset(model: ir.Model, version: int) -> ir.Model | Skipped:
    """Convert `model` to at least opset `version`, with ONNX's own version converter.

    Weights are not copied: the converter sees them as inputs, and they return afterwards.

    Args:
        model: it is not changed.
        version: the least version wanted.

    Returns:
        The model itself if it is new enough, a converted copy, or why neither is possible.
    """
    have = opset_version(model)
    if have >= version:
        return model
    try:
        return _converted(model, version)
    # The converter throws RuntimeError, ConvertError and checker errors of many kinds.
    except Exception as error:
        text = str(error).strip().splitlines()
        return Skipped(
            "upgrade-opset",
            "",
            "not-possible",
            f"it is at opset {have}, {version} is needed, and ONNX's converter cannot upgrade "
            f"it ({text[0] if text else type(error).__name__}): export it again at opset "
            f"{version} or newer",
        )


def _converted(model: ir.Model, version: int) -> ir.Model:
    skeleton = clone(model)
    carried = take_weights(skeleton, [skeleton.graph])
    # The others are small. A reference to a file would lose its folder on the way.
    with embedded(skeleton):
        proto: onnx.ModelProto = version_converter.convert_version(serialized(skeleton), version)
    result = ir.from_proto(proto)
    assert isinstance(result, ir.Model)
    for value in list(result.graph.inputs):
        if value.name in carried:
            result.graph.inputs.remove(value)
            value.const_value = carried[value.name]
            result.graph.register_initializer(value)
    result.metadata_props.update(model.metadata_props)
    result.producer_name, result.producer_version = model.producer_name, model.producer_version
    result.doc_string, result.domain = model.doc_string, model.domain
    result.model_version = model.model_version
    result.meta.update(model.meta)
    return result
