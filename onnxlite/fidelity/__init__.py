"""Fidelity of a candidate model to its reference: SQNR on the same feeds.

The signal to quantization noise ratio of an output over all feeds is

    SQNR  =  10 log10( sum reference^2 / sum (reference - candidate)^2 )    in dB

It is infinite where the two are equal, and minus infinite where the candidate is NaN or infinite
and the reference is not. Values that are not finite in the reference are left out. An output is cut
into parts of like scale and is as good as its worst part (`layout`, `output_error`); a model is as
good as its worst float output. Everything that measures how far a model, an output or a weight
is from another one measures it here.
"""

from onnxlite.fidelity.decibels import SquaredError, array_sqnr_db, noise_ratio, sqnr_db
from onnxlite.fidelity.layout import OutputLayout, OutputPart, PartKind, output_layout
from onnxlite.fidelity.lengths import common_outputs, common_part
from onnxlite.fidelity.output_error import OutputError, OutputErrors, PartError, paired_gain_db
from onnxlite.fidelity.reference import (
    Reference,
    ReferenceOutputs,
    Runnable,
    is_float,
    match_outputs,
    worst_sqnr_db,
)

__all__ = [
    "OutputError",
    "OutputErrors",
    "OutputLayout",
    "OutputPart",
    "PartError",
    "PartKind",
    "Reference",
    "ReferenceOutputs",
    "Runnable",
    "SquaredError",
    "array_sqnr_db",
    "common_outputs",
    "common_part",
    "is_float",
    "match_outputs",
    "noise_ratio",
    "output_layout",
    "paired_gain_db",
    "sqnr_db",
    "worst_sqnr_db",
]
