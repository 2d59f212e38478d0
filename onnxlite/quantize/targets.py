"""What a runtime wants: one row per target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from onnxlite.errors import OptionError
from onnxlite.quantize.qtypes import INT8, UINT8, QType


@dataclass(frozen=True, kw_only=True)
class Target:
    """The integer types that a runtime has fast kernels for.

    Attributes:
        name: as given by the user.
        activation: type of activations.
        weight: type of weights.
        per_channel: one weight scale per output channel.
    """

    name: str
    activation: QType
    weight: QType
    per_channel: bool


#: ONNX Runtime on x86: uint8 activations are about twice as fast as int8 ones, because
#: only they stay in one type from kernel to kernel (see docs/design.md).
_CPU = Target(name="cpu", activation=UINT8, weight=INT8, per_channel=True)

TARGETS: Mapping[str, Target] = MappingProxyType({target.name: target for target in (_CPU,)})


def target_named(name: str) -> Target:
    """The target's row; raises `OptionError` that lists the names."""
    if name not in TARGETS:
        raise OptionError(f"unknown target {name!r}: choose one of {', '.join(TARGETS)}")
    return TARGETS[name]
