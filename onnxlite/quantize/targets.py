"""What a runtime wants: one row per target."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from onnxlite.errors import OptionError
from onnxlite.machine import machine
from onnxlite.quantize.qtypes import INT8, UINT8, QType


@dataclass(frozen=True, kw_only=True)
class Target:
    """The integer types that a runtime has fast kernels for.

    Attributes:
        name: as given by the user.
        activation: type of activations.
        weight: type of weights.
        per_channel: one weight scale per output channel.
        avoid_saturation: the kernels add products in int16, so pairs of weights are bounded.
    """

    name: str
    activation: QType
    weight: QType
    per_channel: bool
    avoid_saturation: bool = False


#: ONNX Runtime on x86 with VNNI: uint8 activations are about twice as fast as int8 ones,
#: because only they stay in one type from kernel to kernel (see docs/design.md).
_CPU = Target(name="cpu", activation=UINT8, weight=INT8, per_channel=True)
_CPU_AVX2 = dataclasses.replace(_CPU, name="cpu-avx2", avoid_saturation=True)

TARGETS: Mapping[str, Target] = MappingProxyType(
    {target.name: target for target in (_CPU, _CPU_AVX2)}
)


def target_named(name: str) -> Target:
    """The target's row; raises `OptionError` that lists the names.

    `"cpu"` means this machine: where it has no VNNI instructions, the row is `cpu-avx2`,
    which is as fast and runs on every x86 without saturating.
    """
    if name not in TARGETS:
        raise OptionError(f"unknown target {name!r}: choose one of {', '.join(TARGETS)}")
    if name == "cpu" and not machine().has_vnni:
        return _CPU_AVX2
    return TARGETS[name]
