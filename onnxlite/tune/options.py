"""The options of tuning, and which of them go together."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlite.errors import OptionError

LOSSES = ("auto", "kl", "mse")


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """See `onnxlite.tune`."""

    steps: int | None = None
    time_limit: float | None = None
    loss: str | Callable[..., Any] = "auto"
    labels: NDArray[Any] | Sequence[int] | None = None
    lr: float | None = None
    batch: int = 32
    inner: bool = True
    blocks: bool = True
    vary: bool = False
    limit: int | None = None
    seed: int = 0
    threads: int | None = None
    checkpoint: str | os.PathLike[str] | None = None

    def check(self) -> None:
        """Raise `OptionError` for what is out of range."""
        if self.steps is not None and self.steps < 1:
            raise OptionError(f"steps={self.steps}: it counts steps, from 1 on")
        if self.time_limit is not None and not self.time_limit > 0:
            raise OptionError(f"time_limit={self.time_limit}: give seconds above 0")
        if not callable(self.loss) and self.loss not in LOSSES:
            raise OptionError(f"loss={self.loss!r}: use one of {', '.join(LOSSES)}, or a function")
        if self.lr is not None and not (self.lr > 0 and math.isfinite(self.lr)):
            raise OptionError(f"lr={self.lr}: give a finite number above 0")
        if self.batch < 1:
            raise OptionError(f"batch={self.batch}: it counts samples, from 1 on")
        if self.threads is not None and self.threads < 1:
            raise OptionError(f"threads={self.threads}: give a number from 1 on")

    def classes(self, count: int) -> NDArray[np.int64] | None:
        """The labels, one for each of `count` samples."""
        if self.labels is None:
            return None
        array = np.asarray(self.labels)
        if array.shape != (count,) or array.dtype.kind not in "iu":
            raise OptionError(
                f"labels of shape {list(array.shape)} and type {array.dtype} for {count} samples: "
                "give one whole number per sample"
            )
        return array.astype(np.int64)
