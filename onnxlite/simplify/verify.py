"""Verification that a rewritten model computes the same, in ONNX Runtime.

The relative difference of two tensors is `max|a - b| / max|a|`: the error measured
against the size of what the tensor holds, so that values near zero do not blow it up.
Integers, booleans and strings must be equal, and NaN and infinities must sit in the same
places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxlite.errors import ExecutionError, UnsupportedError
from onnxlite.inputs import Feed, InputSpec, input_specs
from onnxlite.model import size_bytes
from onnxlite.ops import random_outputs, tie_noise
from onnxlite.runtime import Optimization, Outputs, Session, checking_session, probe_feeds
from onnxlite.samples import Samples, SamplesLike, generate

#: Largest allowed relative difference of a float32 or float64 output.
TOLERANCE = 1e-4
#: Where rounding alone makes larger differences, so many times these are allowed, up to a limit.
_ROUNDINGS, _MOST_ALLOWED = 4.0, 0.1
#: ONNX Runtime holds two copies of the weights while loading: above this, only on request.
MAX_UNASKED_BYTES = 1 << 30
_SAMPLES = 4


@dataclass(frozen=True)
class Reference:
    """Feeds and the original's outputs on them, or the reason why there are none.

    Attributes:
        feeds: inputs on which the original ran.
        outputs: its outputs, one record per feed.
        skipped: why nothing can be verified, None if it can.
        runs: False if ONNX Runtime refused the original itself.
        unstable: outputs that differ from run to run although the noise of random operators is
            tied (`ops/noise.py`), which are not compared.
        model: the original.
    """

    feeds: tuple[Feed, ...] = ()
    outputs: tuple[Outputs, ...] = ()
    skipped: str | None = None
    runs: bool = True
    unstable: frozenset[str] = frozenset()
    model: ir.Model | None = None

    @cached_property
    def rounding(self) -> Mapping[str, float]:
        """Relative difference of outputs between two ways in which ONNX Runtime runs the original.

        On made-up inputs it may be large: a detector that finds nothing in noise has outputs of
        the size of float32's rounding errors.
        """
        if self.model is None:
            return {}
        found: dict[str, float] = {}
        levels: tuple[Optimization, ...] = ("none", "basic")
        for level in levels:
            session = Session(self.model, threads=1, optimization=level)
            for feed, expected in zip(self.feeds, self.outputs, strict=True):
                for name, value in session.run(feed).items():
                    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
                        error = relative_difference(expected[name], value)
                        found[name] = max(found.get(name, 0.0), error)
        return found

    def difference(self, candidate: ir.Model) -> str | None:
        """Say how `candidate` differs from the original; None if it does not."""
        if self.skipped is not None:
            return None
        try:
            session = checking_session(candidate)
        except (ExecutionError, UnsupportedError) as error:
            return str(error)
        for feed, expected in zip(self.feeds, self.outputs, strict=True):
            try:
                found = session.run(feed)
            except ExecutionError as error:
                return str(error)
            if list(found) != list(expected):
                return f"the outputs are {list(found)} instead of {list(expected)}"
            for name, value in expected.items():
                if name in self.unstable or mismatch(value, found[name]) is None:
                    continue
                allowed = min(_ROUNDINGS * self.rounding.get(name, 0.0), _MOST_ALLOWED)
                wrong = mismatch(value, found[name], tolerance=max(TOLERANCE, allowed))
                if wrong is not None:
                    return f"output {name!r}: {wrong}"
        return None


def take_reference(
    model: ir.Model, *, samples: SamplesLike | None = None, verify: bool = True
) -> Reference:
    """Run the original on samples, or on generated inputs that it accepts.

    Raises:
        SamplesError: the samples do not fit the model.
        ExecutionError: samples were given and the model does not run on them.
    """
    if not verify:
        return Reference(skipped="verification was turned off")
    nbytes = size_bytes(model)
    if samples is None and nbytes > MAX_UNASKED_BYTES:
        return Reference(
            skipped=f"the model holds {nbytes / 2**30:.1f} GiB of weights, and verifying would "
            f"need about {2 * nbytes / 2**30:.0f} GiB of memory: give samples to do it anyway"
        )
    if samples is not None:
        feeds = list(Samples(samples, input_specs(model), batch_size=2, limit=_SAMPLES))
    else:
        try:
            feeds = probe_feeds(model, count=2)
        except (ExecutionError, UnsupportedError) as error:
            return Reference(skipped=str(error), runs=False)
    session = checking_session(model)
    outputs = [session.run(feed) for feed in feeds]
    if samples is None and (other := _resized(feeds[0], input_specs(model))) is not None:
        try:
            outputs.append(session.run(other))
            feeds.append(other)
        except ExecutionError:
            pass  # not every axis declared dynamic really is; the other feeds stand
    unstable = _unstable(model, session, feeds, outputs)
    return Reference(tuple(feeds), tuple(outputs), unstable=unstable, model=model)


def _resized(feed: Feed, specs: Sequence[InputSpec]) -> Feed | None:
    """A feed with every named axis one longer: what a baked-in dynamic axis fails on."""
    dims: dict[str, int] = {}
    for spec in specs:
        for axis, dim in enumerate(spec.shape or ()):
            if isinstance(dim, str):
                dims[dim] = int(feed[spec.name].shape[axis]) + 1
    return generate(specs, count=1, seed=1, dims=dims)[0] if dims else None


def _unstable(
    model: ir.Model, session: Session, feeds: Sequence[Feed], outputs: Sequence[Outputs]
) -> frozenset[str]:
    """Find outputs that random operators change from run to run although noise is tied."""
    if not random_outputs(tie_noise(model)):
        return frozenset()
    again = [session.run(feed) for feed in feeds]
    return frozenset(
        name
        for first, second in zip(outputs, again, strict=True)
        for name in first
        if mismatch(first[name], second[name]) is not None
    )


def mismatch(expected: Any, found: Any, *, tolerance: float = TOLERANCE) -> str | None:
    """Say how two outputs of ONNX Runtime differ; None if they agree."""
    if isinstance(expected, list | tuple):
        if not isinstance(found, list | tuple) or len(found) != len(expected):
            return "a sequence of another length"
        texts = (mismatch(a, b, tolerance=tolerance) for a, b in zip(expected, found, strict=True))
        return next((text for text in texts if text is not None), None)
    if isinstance(expected, dict):
        if not isinstance(found, dict) or list(expected) != list(found):
            return "a map with other keys"
        return mismatch(list(expected.values()), list(found.values()), tolerance=tolerance)
    if not isinstance(expected, np.ndarray) or not isinstance(found, np.ndarray):
        return None if type(expected) is type(found) and expected == found else "another value"
    if expected.dtype != found.dtype or expected.shape != found.shape:
        return f"{found.dtype}{list(found.shape)} instead of {expected.dtype}{list(expected.shape)}"
    if expected.dtype.kind not in "fc":
        return None if np.array_equal(expected, found) else "different values"
    error = relative_difference(expected, found)
    allowed = max(tolerance, 8 * float(np.finfo(expected.dtype).eps))
    if expected.dtype == np.float64:
        allowed = tolerance
    return None if error <= allowed else f"relative difference {error:.2g}, allowed {allowed:.2g}"


def relative_difference(expected: Any, found: Any) -> float:
    """`max|a - b| / max|a|` of two float arrays; infinite if NaN or infinities move."""
    a, b = np.asarray(expected, np.float64), np.asarray(found, np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)):
        return float("inf")
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return float("inf")
    a, b = a[finite], b[finite]
    if a.size == 0:
        return 0.0
    scale = max(float(np.abs(a).max()), float(np.finfo(np.float32).tiny))
    return float(np.abs(a - b).max()) / scale
