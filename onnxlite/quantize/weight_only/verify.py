"""Verify packed weights in ONNX Runtime before the model is returned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxlite.errors import ExecutionError, VerificationError
from onnxlite.fidelity import Reference
from onnxlite.graph import iter_nodes
from onnxlite.inputs import Feed
from onnxlite.model import size_bytes
from onnxlite.quantize.weight_only.decode_graph import (
    DECODING_OPERATORS,
    PackedTensor,
    decoder_model,
    first_rows,
    load_nbytes,
)
from onnxlite.quantize.weight_only.kernels import KernelWeight, product_model
from onnxlite.records import Skipped
from onnxlite.runtime import Session, checking_session, optimized_operators, probe_feeds

#: Larger models are not loaded as a whole, to bound memory.
LOADED_BELOW_BYTES = 1 << 30
#: Numbers of each weight that are checked in larger models.
_CHECKED_NUMBERS = 1 << 20
#: Memory for decoding per session; weights are checked in batches of this size.
_SESSION_BYTES = 1 << 26
#: Weights per session: ONNX Runtime loads a graph in time that grows faster than its nodes.
_SESSION_WEIGHTS = 256
#: Largest accepted error of a kernel, over the largest output.
_MAX_KERNEL_ERROR = 1e-4


def check_decoders(weights: Sequence[PackedTensor], names: Sequence[str], *, every: bool) -> None:
    """Compare weights decoded by ONNX Runtime and by NumPy for equality.

    Args:
        weights: the packed weights.
        names: names of the weights, for messages.
        every: check all weights; otherwise the smallest one of each type and view.

    Raises:
        VerificationError: a decoded weight differs.
    """
    chosen = list(zip(weights, names, strict=True))
    if not every:
        forms: dict[tuple[Any, ...], tuple[PackedTensor, str]] = {}
        for packed, name in sorted(chosen, key=lambda pair: pair[0].nbytes):
            form = (
                packed.coding.kind,
                len(packed.blocks.view),
                packed.blocks.reduced,
                packed.dtype,
            )
            forms.setdefault(form, (first_rows(packed, _CHECKED_NUMBERS), name))
        chosen = list(forms.values())
    for batch in _batches(chosen):
        model = decoder_model([packed for packed, _ in batch])
        decoded = Session(model, threads=1, optimization="none").run({})
        for (packed, name), found in zip(batch, decoded.values(), strict=True):
            if not np.array_equal(found, packed.decoded().astype(found.dtype)):
                raise VerificationError(
                    f"ONNX Runtime decodes weight {name!r} {list(packed.blocks.shape)} to other "
                    f"numbers than were packed: exclude it and report this"
                )


def _batches(
    weights: Sequence[tuple[PackedTensor, str]],
) -> Iterator[list[tuple[PackedTensor, str]]]:
    """Group weights into sessions: few sessions, each of bounded memory."""
    batch: list[tuple[PackedTensor, str]] = []
    nbytes = 0
    for packed, name in weights:
        wanted = load_nbytes(packed)
        full = len(batch) == _SESSION_WEIGHTS or nbytes + wanted > _SESSION_BYTES
        if batch and full:
            yield batch
            batch, nbytes = [], 0
        batch.append((packed, name))
        nbytes += wanted
    if batch:
        yield batch


def check_kernels(weights: Sequence[tuple[KernelWeight, PackedTensor]]) -> None:
    """Compare kernels in ONNX Runtime with the product in NumPy.

    The smallest weight of each width is checked, with and without zero points.

    Raises:
        VerificationError: they differ by more than float32 rounding.
    """
    forms: dict[tuple[int, bool], tuple[KernelWeight, PackedTensor]] = {}
    for kernel, packed in sorted(weights, key=lambda pair: pair[0].outputs * pair[0].features):
        forms.setdefault((kernel.bits, kernel.zeros is None), (kernel, packed))
    for kernel, packed in forms.values():
        weight = packed.decoded()
        x = np.random.default_rng(0).standard_normal((2, kernel.features)).astype(np.float32)
        expected = x @ (weight if kernel.columns else weight.T)
        (product,) = Session(product_model(kernel), threads=1).run({"x": x}).values()
        error = float(np.abs(product - expected).max() / np.abs(expected).max())
        if not error < _MAX_KERNEL_ERROR:
            raise VerificationError(
                f"ONNX Runtime's kernel for {kernel.bits}-bit weights {list(weight.shape)} is off "
                f"by {error:.2g} of the largest output: use mode='storage' and report this"
            )


def reference_outputs(
    original: ir.Model, feeds: Sequence[Feed], threads: int | None
) -> Reference | Skipped:
    """Run the float model on the feeds, or on a generated one if there are none.

    Returns:
        The outputs, or the reason why the model was not run.
    """
    if size_bytes(original) >= LOADED_BELOW_BYTES:
        reason = "the model is too large to load for verification: layers were checked one by one"
        return Skipped("verify", "", "too-large", reason)
    try:
        return Reference(original, feeds or probe_feeds(original, count=1), threads=threads)
    except ExecutionError as error:
        return Skipped("verify", "", "not-runnable", str(error))


def check_model(reference: Reference, model: ir.Model) -> float:
    """Run the packed model on the reference's feeds.

    Returns:
        SQNR of the worst output in dB; infinite if it is exact.

    Raises:
        ExecutionError: ONNX Runtime refuses the packed model.
        VerificationError: weights are decoded at run time, or an output is not finite.
    """
    _check_folded(model)
    errors = reference.errors(checking_session(model).run)
    errors.check_finite(
        "the model with packed weights", "exclude the layers before it, or use more bits"
    )
    return errors.worst_db


def _check_folded(model: ir.Model) -> None:
    """Raise unless ONNX Runtime decodes every weight while it loads the model."""
    if not any(node.op_type in DECODING_OPERATORS for node in iter_nodes(model)):
        return
    if left := optimized_operators(model, optimization="basic")["BitShift"]:
        raise VerificationError(
            f"ONNX Runtime does not fold {left} of the nodes that decode weights at load, "
            "which would make the model slow: report this"
        )
