"""The peers of `benchmarks.int8`: each a function from a float model's path to a quantized one's.

NNCF is measured where it is installed (`pip install nncf`), the others come with the project.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxsim
from numpy.typing import NDArray
from onnxruntime import quantization as ortq

Array = NDArray[Any]
Quantizer = Callable[[Path, Path], None]


class Reader(ortq.CalibrationDataReader):  # type: ignore[misc]
    """Feeds one sample at a time, as onnxruntime.quantization's examples do."""

    def __init__(self, name: str, images: Array) -> None:
        self._feeds = iter([{name: image[None]} for image in images])

    def get_next(self) -> dict[str, Array] | None:
        """The next feed, None at the end."""
        return next(self._feeds, None)


def peers(input_name: str, images: Array) -> dict[str, Quantizer]:
    """The contestants by name; all calibrate on `images`."""

    def ort_with(**options: Any) -> Quantizer:
        def quantize(source: Path, target: Path) -> None:
            ortq.quantize_static(source, target, Reader(input_name, images), **options)

        return quantize

    def onnxsim_with(**options: Any) -> Quantizer:
        def quantize(source: Path, target: Path) -> None:
            batches = [{input_name: image[None]} for image in images]
            model = onnxsim.quantize_static(str(source), batches, **options)
            onnx.save(model, target)

        return quantize

    per_channel = {
        "per_channel": True,
        "activation_type": ortq.QuantType.QUInt8,
        "weight_type": ortq.QuantType.QInt8,
    }
    found = {
        "ort per-channel uint8": ort_with(**per_channel),
        "ort defaults": ort_with(),
        "onnxsim": onnxsim_with(),
        "onnxsim full graph": onnxsim_with(full_graph=True),
    }
    if importlib.util.find_spec("nncf") is not None:
        found["nncf"] = _nncf(input_name, images)
    return found


def _nncf(input_name: str, images: Array) -> Quantizer:
    def quantize(source: Path, target: Path) -> None:
        import nncf

        data = nncf.Dataset(
            [np.asarray(image[None]) for image in images], lambda x: {input_name: x}
        )
        model = nncf.quantize(onnx.load(source), data, subset_size=len(images))
        onnx.save(model, target)

    return quantize
