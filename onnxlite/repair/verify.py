"""The last word on a repair: the whole model on samples that no layer was fitted to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.errors import OptionError
from onnxlite.runtime import Outputs, Session
from onnxlite.samples import Feed

#: From a feed to the outputs by name.
Run: TypeAlias = Callable[[Feed], Outputs]


@dataclass(frozen=True)
class Verdict:
    """Signal to noise against the reference, in dB, of the worst output; infinite if equal."""

    before_db: float
    after_db: float

    @property
    def worse(self) -> bool:
        """Whether the repaired model is further from the reference than it was."""
        return not self.after_db >= self.before_db


def verify(
    reference: ir.Model,
    before: ir.Model,
    after: ir.Model,
    feeds: Sequence[Feed],
    *,
    threads: int | None,
    fuse_qdq: bool = True,
) -> Verdict:
    """Run all three on `feeds`; see `runtime.Session` for `fuse_qdq`.

    Raises:
        OptionError: the models' outputs differ in number or shape.
        ExecutionError: ONNX Runtime does not run one of them.
    """
    sides = (Session(side, threads=threads, fuse_qdq=fuse_qdq).run for side in (before, after))
    return judge(Session(reference, threads=threads).run, sides, feeds)


def judge(reference: Run, sides: Iterable[Run], feeds: Sequence[Feed]) -> Verdict:
    """The verdict on two ways to run a model, before and after, each asked for when it is due.

    Raises:
        OptionError: the outputs differ in number or shape.
    """
    before, after = ratings(reference, sides, feeds)
    return Verdict(before, after)


def ratings(reference: Run, sides: Iterable[Run], feeds: Sequence[Feed]) -> list[float]:
    """Signal to noise in dB of the worst output, of any number of ways to run a model.

    Raises:
        OptionError: the outputs differ in number or shape.
    """
    expected = [reference(feed) for feed in feeds]
    return [_worst_db(expected, side, feeds) for side in sides]


def _worst_db(expected: Sequence[Outputs], run: Run, feeds: Sequence[Feed]) -> float:
    signal: dict[str, float] = {}
    noise: dict[str, float] = {}
    for feed, want in zip(feeds, expected, strict=True):
        outputs = run(feed)
        if len(outputs) != len(want):
            raise OptionError(
                f"the model has outputs {list(outputs)} and the reference {list(want)}: repair "
                "needs the model that this one was made from"
            )
        same_names = outputs.keys() == want.keys()
        for place, (name, array) in enumerate(want.items()):
            other = outputs[name] if same_names else list(outputs.values())[place]
            if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
                continue
            if array.shape != np.shape(other):
                raise OptionError(
                    f"output {name!r} is {list(np.shape(other))} in the model and "
                    f"{list(array.shape)} in the reference, so it cannot be repaired against it"
                )
            signal[name] = signal.get(name, 0.0) + _energy(array)
            noise[name] = noise.get(name, 0.0) + _energy(array.astype(np.float64) - other)
    return min((_db(signal[name], noise[name]) for name in signal), default=math.inf)


def _energy(array: NDArray[Any]) -> float:
    return float(np.square(array, dtype=np.float64).sum())


def _db(signal: float, noise: float) -> float:
    if math.isnan(noise):
        return -math.inf
    return 10 * math.log10(max(signal, 1e-300) / noise) if noise > 0 else math.inf
