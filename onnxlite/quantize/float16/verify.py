"""Verification of a 16-bit model by its SQNR against the float32 model."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import onnx_ir as ir

from onnxlite.errors import ExecutionError, UnsupportedError, VerificationError
from onnxlite.fidelity import Reference
from onnxlite.model import size_bytes
from onnxlite.records import Skipped
from onnxlite.runtime import Session, probe_feeds
from onnxlite.samples import Samples

#: Larger models are run only if samples are given: loading takes twice the memory of the weights.
_MAX_BYTES_WITHOUT_SAMPLES = 1 << 30
#: Number of feeds that both models are run on.
_FEEDS = 4


class RefusedError(VerificationError):
    """ONNX Runtime does not load or run a 16-bit model."""


@dataclass(frozen=True)
class Float32Outputs:
    """Outputs of the float32 model.

    Attributes:
        reference: the outputs and their inputs.
        real: the inputs are samples; otherwise they are generated.
    """

    reference: Reference
    real: bool

    def sqnr_db(self, model: ir.Model) -> float:
        """Return the SQNR of the worst output of a 16-bit model in dB.

        It is infinite if all outputs are equal.

        Raises:
            RefusedError: ONNX Runtime refuses the model.
            VerificationError: an output is NaN or infinite although the float32 model's is finite.
        """
        try:
            errors = self.reference.errors(model)
        except ExecutionError as error:
            raise RefusedError(f"ONNX Runtime refuses the 16-bit model: {error}") from error
        errors.check_finite(
            "the 16-bit model",
            "give samples to find values out of range, or exclude the nodes before it",
        )
        return errors.worst_db


def measured_db(model: ir.Model, reference: Float32Outputs | Skipped) -> float | None:
    """Return the SQNR of a 16-bit model in dB; only load it where no input is known.

    Returns:
        None where there is nothing to compare with.

    Raises:
        VerificationError: see `Float32Outputs.sqnr_db`.
    """
    if isinstance(reference, Float32Outputs):
        return reference.sqnr_db(model)
    if reference.code == "not-runnable":
        try:
            Session(model, threads=1, random="drawn")
        except ExecutionError as error:
            raise RefusedError(f"ONNX Runtime refuses the 16-bit model: {error}") from error
    return None


def float32_outputs(
    model: ir.Model, samples: Samples | None, *, threads: int | None = None
) -> Float32Outputs | Skipped:
    """Run the float32 model on the first samples, or on generated inputs.

    Returns:
        The outputs, or the reason why the model was not run.

    Raises:
        ExecutionError: ONNX Runtime cannot run the model on the given samples.
    """
    if samples is not None:
        feeds = itertools.islice(samples, _FEEDS)
        return Float32Outputs(Reference(model, feeds, threads=threads), real=True)
    nbytes = size_bytes(model)
    if nbytes > _MAX_BYTES_WITHOUT_SAMPLES:
        message = f"the model holds {nbytes / 2**30:.1f} GiB of weights: give samples to run it"
        return Skipped("verify", "", "too-large", message)
    try:
        feeds_made = probe_feeds(model)
    except (ExecutionError, UnsupportedError) as error:
        return Skipped("verify", "", "not-runnable", str(error))
    return Float32Outputs(Reference(model, feeds_made, threads=threads), real=False)
