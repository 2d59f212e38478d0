"""What a caller may ask of static quantization, as one record that every stage reads."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Literal

from onnxlite.calibrate import ObserverName

#: How weights are rounded: `"compensated"` fits them to the samples before they are rounded.
Rounding = Literal["compensated", "nearest"]

#: Of weights; below 8 they are packed.
WeightBits = Literal[8, 6, 4, 3]

#: How integers are written down: Q and DQ nodes around float operators, or integer operators.
Form = Literal["qdq", "qoperator"]

#: What runs on integers: where that was measured to be faster, or wherever it is possible.
PlacementBy = Literal["measured", "everything"]

#: `"auto"` smooths where the measured error falls; True everywhere; False nowhere.
Smooth = Literal["auto"] | bool

#: Which range of an activation its integers cover; `"auto"` decides for each by measuring.
ObserverChoice = Literal[ObserverName, "auto"]


@dataclass(frozen=True, kw_only=True)
class StaticOptions:
    """The options of `onnxlite.quantize_static`, which tells what they mean."""

    target: str = "cpu"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    placement: PlacementBy = "measured"
    rounding: Rounding = "compensated"
    smooth: Smooth = "auto"
    equalize: bool = True
    embeddings: bool = True
    form: Form = "qdq"
    int16: tuple[str, ...] = ()
    min_sqnr_db: float | None = None
    observer: ObserverChoice = "auto"
    weight_bits: WeightBits = 8
    limit: int | None = None
    threads: int | None = None
    executor: Executor | None = None
