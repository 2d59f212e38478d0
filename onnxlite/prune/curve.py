"""What the units of a group are worth: in which order they go, and what each step costs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxlite.ops import Ids

Array64 = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """The damage of a group as more and more of its units go.

    Attributes:
        order: the group's units, those that matter least first.
        damage: float64[units + 1], of the first n units of that order together, as a share
            of what the layers that read them compute: 0 for none, comparable across groups.
    """

    order: Ids
    damage: Array64


def curve_of(units: Ids, scores: Array64) -> Curve:
    """The curve of units whose damages add up; ties keep the units' order."""
    order = np.argsort(scores, kind="stable")
    return Curve(units[order], np.concatenate([[0.0], np.cumsum(scores[order])]))
