"""Raising the version of the standard operator set, when a later step needs it."""

from __future__ import annotations

import onnx
import onnx.version_converter
import onnx_ir as ir

from onnxlite.errors import OptionError, UnsupportedError
from onnxlite.graph import STANDARD_DOMAINS
from onnxlite.model import PROTO_LIMIT_BYTES, clone, load, size_bytes, to_proto
from onnxlite.samples import SamplesLike
from onnxlite.simplify.verify import same_interface, take_reference


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
    current = opset_of(model)
    if current >= version:
        return clone(model)
    if size_bytes(model) >= PROTO_LIMIT_BYTES:
        raise UnsupportedError(
            f"upgrading from opset {current} to {version} needs the whole model in one message "
            "of at most 2 GiB: export it again at the newer opset"
        )
    try:
        result = load(onnx.version_converter.convert_version(to_proto(model), version))
    # The converter raises bare RuntimeErrors, and others for operators it does not know.
    except Exception as error:
        raise UnsupportedError(
            f"cannot upgrade from opset {current} to {version}: {str(error).splitlines()[0]}"
        ) from error
    if (difference := same_interface(model, result)) is None and verify:
        difference = take_reference(model, samples=samples).difference(result)
    if difference is not None:
        raise UnsupportedError(f"upgrading to opset {version} changes the model: {difference}")
    result.meta.update(model.meta)
    result.metadata_props.update(model.metadata_props)
    return result


def opset_of(model: ir.Model) -> int:
    """The version of the standard operator set that a model uses; 1 if it names none."""
    versions = [v for d, v in model.graph.opset_imports.items() if d in STANDARD_DOMAINS]
    return int(max(versions, default=1))
