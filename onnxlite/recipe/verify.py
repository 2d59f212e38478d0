"""What every step's result is held against: the outputs of the input model."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir

from onnxlite.errors import ExecutionError, VerificationError
from onnxlite.runtime import Outputs, Session
from onnxlite.samples import Samples, SamplesLike, input_specs

_FEEDS_VERIFIED = 2


class Reference:
    """The input model's outputs on a few feeds."""

    def __init__(self, model: ir.Model, samples: SamplesLike) -> None:
        feeds = Samples(samples, input_specs(model))
        self._feeds = list(itertools.islice(feeds, _FEEDS_VERIFIED))
        session = Session(model, threads=1)
        self._outputs = [session.run(feed) for feed in self._feeds]

    def verify(self, model: ir.Model, where: str, *, any_width: bool = False) -> None:
        """Raise `VerificationError` unless `model` runs with outputs like the reference's.

        Args:
            model: what a step made.
            where: which step, for the message.
            any_width: float inputs and outputs may have another width than the reference's.
        """
        try:
            session = Session(model, threads=1)
            feeds = [session.suited(feed) for feed in self._feeds] if any_width else self._feeds
            results = [session.run(feed) for feed in feeds]
        except ExecutionError as error:
            raise VerificationError(
                f"{where} made a model that does not run, nothing was written; {error}"
            ) from error
        for expected, result in zip(self._outputs, results, strict=True):
            if fault := _fault(expected, result, any_width):
                raise VerificationError(f"{where} made a wrong model, nothing was written: {fault}")


def _fault(expected: Outputs, result: Outputs, any_width: bool) -> str | None:
    if list(expected) != list(result):
        return f"its outputs are {list(result)}, they were {list(expected)}"
    # Of a sequence or a map nothing but the name is compared.
    for name in [name for name, value in expected.items() if isinstance(value, np.ndarray)]:
        want, have = expected[name], result[name]
        like = have.dtype == want.dtype or (any_width and have.dtype.kind == want.dtype.kind == "f")
        if have.shape != want.shape or not like:
            return (
                f"output {name!r} is {have.dtype}{list(have.shape)}, "
                f"it was {want.dtype}{list(want.shape)}"
            )
        if want.dtype.kind == "f" and (bad := int((np.isfinite(want) & ~np.isfinite(have)).sum())):
            return f"output {name!r} has {bad} new NaN or infinite of {want.size} values"
    return None
