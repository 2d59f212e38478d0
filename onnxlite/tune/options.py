"""Options of tuning."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnxlite.errors import OptionError

#: Class of each sample.
Labels: TypeAlias = NDArray[np.integer[Any]] | Sequence[int]

LOSSES = ("auto", "kl", "mse")


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """See `onnxlite.tune`."""

    steps: int | None = None
    time_limit_s: float | None = None
    loss: str | Callable[..., Any] = "auto"
    lr: float | None = None
    batch_size: int = 32
    inner: bool = True
    blocks: bool = True
    augment: bool = False
    limit: int | None = None
    seed: int = 0
    checkpoint: str | os.PathLike[str] | None = None

    def check(self) -> None:
        """Raise `OptionError` for an option out of range."""
        if self.steps is not None and self.steps < 1:
            raise OptionError(f"steps={self.steps}: give a number of steps from 1 on")
        if self.time_limit_s is not None and not self.time_limit_s > 0:
            raise OptionError(f"time_limit={self.time_limit_s}: give seconds above 0")
        if not callable(self.loss) and self.loss not in LOSSES:
            raise OptionError(f"loss={self.loss!r}: use one of {', '.join(LOSSES)}, or a function")
        if self.lr is not None and not (self.lr > 0 and math.isfinite(self.lr)):
            raise OptionError(f"lr={self.lr}: give a finite number above 0")
        if self.batch_size < 1:
            raise OptionError(f"batch={self.batch_size}: give a number of samples from 1 on")
