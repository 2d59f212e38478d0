"""SQNR of a 16-bit model against the float32 one on the same inputs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.errors import ExecutionError, UnsupportedError, VerificationError
from onnxlite.model import size_bytes
from onnxlite.records import Skipped
from onnxlite.runtime import Outputs, Session, probe_feeds
from onnxlite.samples import Feed, Samples, input_specs

#: ONNX Runtime holds two copies of the weights while loading: above this, only on request.
_MAX_UNASKED_BYTES = 1 << 30
_FEEDS = 4


@dataclass(frozen=True)
class Float16Reference:
    """Some inputs, and what the float32 model makes of them.

    Attributes:
        feeds: inputs.
        outputs: the float32 model's outputs, one record per feed.
        real: whether the inputs are samples, and not generated.
    """

    feeds: Sequence[Feed]
    outputs: Sequence[Outputs]
    real: bool

    def sqnr_db(self, model: ir.Model, *, threads: int | None = None) -> float:
        """Signal to noise of the worst float output of `model`; infinite where all are equal.

        Raises:
            VerificationError: ONNX Runtime refuses the model, or an output is NaN or infinite
                where the float32 model's is not.
        """
        signal: dict[str, float] = {}
        noise: dict[str, float] = {}
        types = {spec.name: np.dtype(spec.dtype) for spec in input_specs(model)}
        try:
            session = Session(model, threads=threads)
            for feed, wanted in zip(self.feeds, self.outputs, strict=True):
                found = session.run(
                    {
                        name: array.astype(types[name]) if array.dtype.kind == "f" else array
                        for name, array in feed.items()
                    }
                )
                for name, want in wanted.items():
                    if isinstance(want, np.ndarray) and want.dtype.kind == "f":
                        power, lost = _energies(name, want, found[name])
                        signal[name] = signal.get(name, 0.0) + power
                        noise[name] = noise.get(name, 0.0) + lost
        except ExecutionError as error:
            raise VerificationError(f"ONNX Runtime refuses the 16-bit model: {error}") from error
        ratios = [
            10 * math.log10(max(signal[name], 1e-300) / noise[name])
            for name in signal
            if noise[name]
        ]
        return min(ratios, default=math.inf)


def float16_reference(
    model: ir.Model, samples: Samples | None, *, threads: int | None = None
) -> Float16Reference | Skipped:
    """Run the float32 model on the first samples, or on generated inputs; or say why not.

    Raises:
        ExecutionError: samples were given, and ONNX Runtime does not run the model on them.
    """
    nbytes = size_bytes(model)
    if samples is None and nbytes > _MAX_UNASKED_BYTES:
        return Skipped(
            "verify",
            "",
            "too-large",
            f"it holds {nbytes / 2**30:.1f} GiB of weights: give samples to run it anyway",
        )
    if samples is None:
        try:
            feeds = probe_feeds(model)
        except (ExecutionError, UnsupportedError) as error:
            return Skipped("verify", "", "not-runnable", str(error))
    else:
        feeds = list(itertools.islice(samples, _FEEDS))
    session = Session(model, threads=threads)
    return Float16Reference(feeds, [session.run(feed) for feed in feeds], real=samples is not None)


def _energies(name: str, want: NDArray[Any], have: NDArray[Any]) -> tuple[float, float]:
    finite = np.isfinite(want)
    if bad := int((finite & ~np.isfinite(have)).sum()):
        raise VerificationError(
            f"output {name!r} has {bad} new NaN or infinite of {want.size} values in 16 bits: "
            "give samples, by which overflow is found, or keep=[...] the nodes before it"
        )
    exact, got = want[finite].astype(np.float64), have[finite].astype(np.float64)
    return float((exact**2).sum()), float(((exact - got) ** 2).sum())
