"""Targets: the integer types and kernels of a runtime, one row each.

The rows follow the runtimes' own documentation:

- ONNX Runtime, "Quantize ONNX models" (data types per processor) and its QNN page;
- NVIDIA TensorRT, "Explicit quantization" (zero points must be 0, biases stay float, Q and DQ
  behind the activation that TensorRT fuses itself);
- OpenVINO, "Low precision transformations" (uint8 activations, int8 weights per channel);
- Qualcomm QNN as ONNX Runtime's quantizer sets it up (MatMul per tensor, 16-bit activations,
  no range below 0.0001, everything between the inputs and the outputs on integers).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Literal, get_args

import onnx_ir as ir

from onnxlite.errors import OptionError
from onnxlite.graph import static_dim
from onnxlite.machine import machine
from onnxlite.ops import spec_of
from onnxlite.quantize.core.options import Form, WeightBits
from onnxlite.quantize.core.qtypes import INT8, UINT8, UINT16, QType

#: Layers that sum fewer products keep weights of 8 bits.
_MIN_PRODUCTS = 16


@dataclass(frozen=True, kw_only=True)
class Target:
    """Integer types and kernels of a runtime.

    Attributes:
        name: as given by the user.
        activation: type of activations.
        weight: type of weights.
        per_channel: one weight scale per output channel.
        per_tensor_ops: operators whose weights have one scale although others have more.
        avoid_saturation: the kernels add products in int16, so pairs of weights are bounded.
        pads_channels: which products those kernels add up depends on how they pad an odd number
            of input channels, so there every weight is bounded.
        one_sided: a symmetric activation type is used in full where values have one sign: the
            zero point lies at its end instead of the middle.
        quantize_bias: biases are int32 at `scale_x * scale_w`; otherwise they stay float.
        float_output: which layers may go from integers to float: `"some"` are those that the
            operator table says of, `"all"`, or `"none"`: then every output has an integer form.
        refuses: operators that the runtime has no integer kernel for.
        narrow: type of weights of layers that add up many products, where it is another one.
        smallest_range: no activation gets a narrower range than this.
        forms: what the runtime reads; integer operators are ONNX Runtime's own.
        implied_zeros: a DequantizeLinear may leave out a zero point that is 0.
        wide: the type of 16-bit activations, None where there are none that are fast.
        ort_cpu: it is ONNX Runtime on a CPU of this architecture. Only such a target can be timed,
            has kernels whose scales are found at run time, and looks rows of 8 bits up.
    """

    name: str
    activation: QType
    weight: QType
    per_channel: bool
    per_tensor_ops: frozenset[str] = frozenset()
    avoid_saturation: bool = False
    pads_channels: bool = False
    one_sided: bool = False
    quantize_bias: bool = True
    float_output: Literal["some", "all", "none"] = "some"
    refuses: frozenset[str] = frozenset()
    smallest_range: float = 0.0
    forms: tuple[Form, ...] = ("qdq",)
    implied_zeros: bool = False
    wide: QType | None = None
    narrow: QType | None = None
    ort_cpu: Literal["x86", "arm"] | None = None

    @property
    def runs_here(self) -> bool:
        """True for ONNX Runtime on this machine, which can be timed."""
        return self.ort_cpu is not None and (self.ort_cpu == "arm") == machine().is_arm

    @property
    def absorbs(self) -> bool:
        """True if the range of an activation's integers can do the work of a Relu or Clip.

        It needs a zero point at the end of the type: a symmetric one reaches as far below
        zero as above, so there the Relu stays, before the Q and DQ that follow it.
        """
        return not self.activation.symmetric or self.one_sided

    def offering(self, form: Form, int16: Sequence[str] = ()) -> Target:
        """Return the row if it has such a form and activations; raise `OptionError` otherwise."""
        if int16 and self.wide is None:
            able = ", ".join(name for name, row in TARGETS.items() if row.wide is not None)
            raise OptionError(
                f"target {self.name!r} has no kernels for 16-bit activations: exclude these "
                f"layers, so that they stay float, or use a target that has them ({able})"
            )
        if form not in self.forms:
            able = ", ".join(name for name, row in TARGETS.items() if form in row.forms)
            raise OptionError(
                f'target {self.name!r} does not read form "{form}": use form="qdq", or a target '
                f"that does ({able})"
            )
        return self

    def with_weight_bits(self, bits: WeightBits) -> Target:
        """Return the row with weights of fewer bits, in the same kernels."""
        if bits not in get_args(WeightBits):
            known = ", ".join(map(str, get_args(WeightBits)))
            raise OptionError(f"weight_bits={bits}: use one of {known}")
        if bits == self.weight.bits:
            return self
        narrow = dataclasses.replace(self.weight, bits=bits)
        return dataclasses.replace(self, narrow=narrow)

    def goes_to_float(self, node: ir.Node) -> bool:
        """Tell whether an integer node needs no integer form of its output."""
        rule = spec_of(node).quant
        if rule is None or self.float_output == "none":
            return False
        return rule.float_output or (self.float_output == "all" and rule.kind == "compute")

    def weight_type(self, node: ir.Node) -> QType:
        """Give the type of a layer's weights: half of the range where pairs are not known."""
        rule = spec_of(node).quant
        if self.narrow is not None and self._adds_many(node):
            return self.narrow
        if not self.pads_channels or rule is None or rule.reduction_axes is None:
            return self.weight
        axes = rule.reduction_axes(node)
        channels = static_dim(node.inputs[rule.weight or 0], axes[-1]) if len(axes) > 1 else 0
        if not channels or channels % 2 == 0:
            return self.weight
        return dataclasses.replace(self.weight, bits=self.weight.bits - 1)

    def _adds_many(self, node: ir.Node) -> bool:
        """Tell whether an output sums so many products that errors of weights average out."""
        rule, summed = spec_of(node).quant, spec_of(node).summed_axes
        if rule is None or rule.weight is None or summed is None:
            return False
        sizes = [static_dim(node.inputs[rule.weight], a) or 0 for a in summed(node, rule.weight)]
        return prod(sizes) >= _MIN_PRODUCTS

    def channel_axis(self, node: ir.Node) -> int | None:
        """Give the axis of a layer's weight that has scales, None for one scale."""
        rule = spec_of(node).quant
        if rule is None or rule.channel_axis is None:
            return None
        if not self.per_channel or node.op_type in self.per_tensor_ops:
            return None
        return rule.channel_axis(node)


#: ONNX Runtime on x86 with VNNI: uint8 activations are about twice as fast as int8 ones,
#: because only they stay in one type from kernel to kernel (see docs/design.md).
_CPU = Target(
    name="cpu",
    activation=UINT8,
    weight=INT8,
    per_channel=True,
    forms=("qdq", "qoperator"),
    implied_zeros=True,
    ort_cpu="x86",
)
_CPU_AVX2 = dataclasses.replace(_CPU, name="cpu-avx2", avoid_saturation=True)
#: ONNX Runtime on 64-bit ARM multiplies int8 by int8 (SDOT, SMMLA).
_CPU_ARM = dataclasses.replace(_CPU, name="cpu-arm", activation=INT8, one_sided=True, ort_cpu="arm")
#: oneDNN's kernels; those of AVX-512 without VNNI saturate as ONNX Runtime's do.
_OPENVINO = dataclasses.replace(
    _CPU_AVX2,
    name="openvino",
    forms=("qdq",),
    pads_channels=True,
    ort_cpu=None,
)
#: Zero points other than 0 are refused by the parser; pointwise operators on integers gain
#: nothing, because TensorRT fuses them with what is before them.
_TENSORRT = Target(
    name="tensorrt",
    activation=INT8,
    weight=INT8,
    per_channel=True,
    quantize_bias=False,
    float_output="all",
    refuses=frozenset({"LeakyRelu", "Mul", "Sigmoid", "Softmax"}),
)
#: The Hexagon tensor processor: floats are slow or refused, so logits are integers as well.
_QNN = Target(
    name="qnn",
    activation=UINT8,
    weight=INT8,
    per_channel=True,
    per_tensor_ops=frozenset({"Gemm", "MatMul"}),
    float_output="none",
    smallest_range=1e-4,
    wide=UINT16,
)
#: Any runtime that reads QDQ: the commonest types, and no kernel saturates.
_GENERIC = dataclasses.replace(
    _CPU_AVX2,
    name="generic",
    forms=("qdq",),
    implied_zeros=False,
    ort_cpu=None,
    wide=UINT16,
)

TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        target.name: target
        for target in (_CPU, _CPU_AVX2, _CPU_ARM, _OPENVINO, _TENSORRT, _QNN, _GENERIC)
    }
)


def target_named(name: str) -> Target:
    """Find a target's row; raises `OptionError` that lists the names.

    `"cpu"` means this machine: on ARM the row is `cpu-arm`; on x86 without VNNI instructions
    it is `cpu-avx2`, which is as fast and runs on every x86 without saturating.
    """
    if name not in TARGETS:
        raise OptionError(f"unknown target {name!r}: choose one of {', '.join(TARGETS)}")
    if name == "cpu" and machine().is_arm:
        return _CPU_ARM
    if name == "cpu" and not machine().has_vnni:
        return _CPU_AVX2
    return TARGETS[name]
