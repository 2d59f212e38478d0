"""Common part of outputs whose lengths depend on values, where they could not be tied."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlite.errors import VerificationError
from onnxlite.runtime import Outputs


def common_part(
    name: str, reference: NDArray[Any], candidate: NDArray[Any], *, varying: bool
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Cut two outputs to the sizes that both have.

    Args:
        name: of the output, for the message.
        reference: any shape.
        candidate: the same number of axes.
        varying: lengths depend on values, so that sizes may differ.

    Returns:
        Both as they are where their shapes agree.

    Raises:
        VerificationError: the numbers of axes differ, or sizes that may not.
    """
    shapes = np.shape(reference), np.shape(candidate)
    if shapes[0] == shapes[1]:
        return reference, candidate
    if not varying or len(shapes[0]) != len(shapes[1]):
        raise VerificationError(
            f"output {name!r} is {list(shapes[1])} in the candidate and {list(shapes[0])} in the "
            "reference: these models do not compute the same thing"
        )
    cut = tuple(slice(min(sizes)) for sizes in zip(*shapes, strict=True))
    return reference[cut], candidate[cut]


def common_outputs(
    reference: Outputs, candidate: Outputs, *, varying: bool
) -> tuple[Outputs, Outputs]:
    """Cut all outputs of two models to the sizes that both have, see `common_part`."""
    if not varying:
        return reference, candidate
    pairs = {
        name: common_part(name, array, candidate[name], varying=True)
        for name, array in reference.items()
    }
    return {n: one for n, (one, _) in pairs.items()}, {n: two for n, (_, two) in pairs.items()}
