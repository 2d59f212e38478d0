"""How far a candidate is from the float model on some inputs: one number for all outputs."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from onnxlite.errors import VerificationError
from onnxlite.runtime import Session
from onnxlite.samples import Feed


def worst_sqnr_db(
    reference: ir.Model,
    candidate: ir.Model,
    feeds: Iterable[Feed],
    *,
    threads: int | None = None,
) -> float | None:
    """Signal to quantization noise of the output that suffers most, over all feeds, in dB.

    Returns:
        10 log10(sum(ref^2) / sum((ref - cand)^2)); None where no output differs, or where none
        is a float. Values that are not finite in the reference are left out.

    Raises:
        VerificationError: an output is not finite where the reference is.
        ExecutionError: ONNX Runtime does not run one of the models.
    """
    first, second = Session(reference, threads=threads), Session(candidate, threads=threads)
    signal: dict[str, float] = {}
    noise: dict[str, float] = {}
    for feed in feeds:
        expected, got = first.run(feed), second.run(feed)
        for name, want in expected.items():
            if not isinstance(want, np.ndarray) or want.dtype.kind != "f":
                continue
            finite = np.isfinite(want)
            have = got[name]
            if have.shape != want.shape or not np.isfinite(have[finite]).all():
                raise VerificationError(
                    f"output {name!r} of the quantized model is NaN or infinite, or of another "
                    "shape than the original's: exclude the layers before it and report this"
                )
            exact = want[finite].astype(np.float64)
            signal[name] = signal.get(name, 0.0) + float((exact**2).sum())
            error = float(((exact - have[finite]) ** 2).sum())
            noise[name] = noise.get(name, 0.0) + error
    return min(
        (
            10 * math.log10(power / noise[name])
            for name, power in signal.items()
            if power and noise[name]
        ),
        default=None,
    )
