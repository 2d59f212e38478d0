"""Verify packed weights in ONNX Runtime before the model is returned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxlite.errors import ExecutionError, VerificationError
from onnxlite.graph import iter_nodes
from onnxlite.model import size_bytes
from onnxlite.quantize.weight_only.decode_graph import OPSET, Packed, decoder_model, first_rows
from onnxlite.quantize.weight_only.kernels import DOMAIN, PackedRows, product_model
from onnxlite.records import Skipped
from onnxlite.runtime import Session, optimized_operators, probe_feeds
from onnxlite.samples import Feed

#: Larger models are not loaded: they are made so that memory never holds all of them.
WHOLE_BELOW_BYTES = 1 << 30
#: Of those so many numbers of a weight are checked.
_CHECKED_NUMBERS = 1 << 20
#: Operators that only a decoder has.
_DECODING = frozenset({"BitShift", "Mod"})


def check_decoders(packed: Sequence[Packed], names: Sequence[str], *, every: bool) -> None:
    """Compare what ONNX Runtime decodes with what NumPy does, number by number.

    Args:
        packed: the weights.
        names: for messages.
        every: check all; otherwise the smallest of each type and kind of view.

    Raises:
        VerificationError: they differ.
    """
    chosen = dict(enumerate(packed))
    if not every:
        forms: dict[tuple[Any, ...], tuple[int, Packed]] = {}
        for index, one in sorted(enumerate(packed), key=lambda item: item[1].nbytes):
            form = (one.coding.kind, len(one.blocks.view), one.blocks.reduced, one.dtype)
            forms.setdefault(form, (index, one))
        chosen = dict(forms.values())
    for index, whole in chosen.items():
        one = whole if every else first_rows(whole, _CHECKED_NUMBERS)
        session = Session(decoder_model(one, OPSET), threads=1, optimization="none")
        (got,) = session.run({}).values()
        want = one.coding.decode(one.codes()).reshape(one.blocks.shape)
        if not np.array_equal(got, want.astype(got.dtype)):
            raise VerificationError(
                f"ONNX Runtime decodes weight {names[index]!r} {list(one.blocks.shape)} to other "
                f"numbers than were packed: exclude it and report this"
            )


def check_kernels(rows: Sequence[PackedRows], wanted: Sequence[Packed]) -> None:
    """Compare a product by packed rows in ONNX Runtime with one in NumPy.

    The smallest of each width, with and without zero points, is taken.

    Raises:
        VerificationError: they differ by more than float32 rounding.
    """
    forms: dict[tuple[int, bool], tuple[PackedRows, Packed]] = {}
    pairs = zip(rows, wanted, strict=True)
    for one, packed in sorted(pairs, key=lambda pair: pair[0].outputs * pair[0].features):
        forms.setdefault((one.bits, one.zeros is None), (one, packed))
    for one, packed in forms.values():
        weight = packed.coding.decode(packed.codes()).reshape(packed.blocks.shape)
        x = np.random.default_rng(0).standard_normal((2, one.features)).astype(np.float32)
        want = x @ (weight if one.columns else weight.T)
        (got,) = Session(product_model(one), threads=1).run({"x": x}).values()
        error = float(np.abs(got - want).max() / np.abs(want).max())
        if not error < 1e-4:
            raise VerificationError(
                f"ONNX Runtime's kernel for {one.bits}-bit weights {list(weight.shape)} is off by "
                f"{error:.2g} of the largest output: use mode='storage' and report this"
            )


def set_level(model: ir.Model, level: int) -> None:
    """Let every product by packed weights take its activations exactly or as int8."""
    for node in iter_nodes(model):
        if node.op_type == "MatMulNBits" and node.domain == DOMAIN:
            node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", level)


def check_model(
    original: ir.Model, model: ir.Model, feeds: Sequence[Feed], threads: int | None
) -> tuple[float | None, list[Skipped]]:
    """Load and run the packed model beside the original.

    Args:
        original: in float.
        model: the packed one.
        feeds: real inputs; if there are none, generated ones are tried.
        threads: of ONNX Runtime.

    Returns:
        Signal to noise of the worst output in dB, None where it is exact or was not run;
        and what could not be checked.

    Raises:
        ExecutionError: ONNX Runtime refuses the packed model and takes the original.
        VerificationError: decoding is left to run time, or an output is not finite.
    """
    if size_bytes(original) >= WHOLE_BELOW_BYTES:
        reason = "it is too large to be loaded here: layers were checked one by one"
        return None, [Skipped("verify", "", "too-large", reason)]
    try:
        feeds = list(feeds) or probe_feeds(original, count=1)
        expected = [Session(original, threads=threads).run(feed) for feed in feeds]
    except ExecutionError as error:
        return None, [Skipped("verify", "", "not-runnable", str(error))]
    _check_folded(model)
    session = Session(model, threads=threads)
    signal: dict[str, float] = {}
    noise: dict[str, float] = {}
    for feed, want in zip(feeds, expected, strict=True):
        got = session.run(feed)
        for name, array in want.items():
            if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
                continue
            if np.isfinite(array).all() and not np.isfinite(got[name]).all():
                raise VerificationError(
                    f"output {name!r} of the model with packed weights is NaN or infinite: "
                    "exclude the layers before it, or use more bits"
                )
            wide = array.astype(np.float64)
            signal[name] = signal.get(name, 0.0) + float((wide**2).sum())
            noise[name] = noise.get(name, 0.0) + float(((wide - got[name]) ** 2).sum())
    worst = [
        10 * float(np.log10(signal[name] / noise[name]))
        for name in signal
        if noise[name] > 0 and signal[name] > 0
    ]
    return min(worst, default=None), []


def _check_folded(model: ir.Model) -> None:
    """Raise unless ONNX Runtime has decoded every weight once it has loaded the model."""
    had = sum(node.op_type in _DECODING for node in iter_nodes(model))
    if not had:
        return
    if left := optimized_operators(model, optimization="basic")["BitShift"]:
        raise VerificationError(
            f"ONNX Runtime leaves {left} of the nodes that decode weights to run time, "
            "which would make the model slow: report this"
        )
