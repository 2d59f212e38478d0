"""Everything onnxlite raises on purpose.

    OnnxliteError
    ├── ModelError            the model itself is the problem
    │   ├── LoadError         cannot be read: missing, truncated, not ONNX, external data gone
    │   ├── InvalidModelError readable but not a valid graph: cycle, undefined value, ...
    │   ├── UnsupportedError  valid, but this step cannot handle it, and says what can
    │   └── SaveError         cannot be written; nothing at the target was changed
    ├── SamplesError          calibration or evaluation data do not fit the model
    ├── ExecutionError        ONNX Runtime refused to load or to run the model
    ├── VerificationError     a result differs from its reference by more than allowed
    ├── OptionError           an argument or a recipe is wrong (also a ValueError)
    └── MissingPackageError   an optional package is not installed (also an ImportError)

A message says what is wrong, where (node, operator, shape) and what to do.
"""

from __future__ import annotations

#: What to do where a mask or a number is too large.
OVERFLOW_ADVICE = (
    "check the preprocessing, and mask with a number like -1e4 instead of -inf or the smallest "
    "float; integers hold neither, and sums with those overflow"
)


class OnnxliteError(Exception):
    """Base of every error that onnxlite raises on purpose."""


class ModelError(OnnxliteError):
    """The model itself is the problem."""


class LoadError(ModelError):
    """The model cannot be read."""


class InvalidModelError(ModelError):
    """The file is ONNX but its graph is not valid."""


class UnsupportedError(ModelError):
    """The model is valid but this step cannot handle it."""


class SaveError(ModelError):
    """The model cannot be written; nothing at the target was changed."""


class SamplesError(OnnxliteError):
    """Calibration or evaluation data do not fit the model."""


class ExecutionError(OnnxliteError):
    """ONNX Runtime refused to load or to run the model."""


class VerificationError(OnnxliteError):
    """A result differs from its reference by more than allowed."""


class OptionError(OnnxliteError, ValueError):
    """An argument or a recipe is wrong."""


class MissingPackageError(OnnxliteError, ImportError):
    """An optional package is not installed."""
