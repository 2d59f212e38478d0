"""The steps of the golden hashes: all that no clock decides, with every option that matters."""

from __future__ import annotations

from collections.abc import Callable

import onnx

import onnxlite as ol
from tests.golden.nets import Golden, Inputs

Step = Callable[[onnx.ModelProto, Inputs], ol.Result]


def _pruned(model: onnx.ModelProto) -> ol.Result:
    """The model without a third of its units, unrepaired: what repair and tuning start from."""
    return ol.prune_channels(model, remove=0.34, importance="l2", round_to=1)


#: Steps by name; each gets the simplified model.
STEPS: dict[str, Step] = {
    "prune-ratio": lambda model, _: _pruned(model),
    "prune-macs": lambda model, x: ol.prune_channels(model, samples=x, macs=0.6, round_to=4),
    "prune-params": lambda model, x: ol.prune_channels(
        model, samples=x, params=0.6, importance="energy", branches=False, round_to=1
    ),
    "zeros-magnitude": lambda model, _: ol.prune_weights(model, sparsity=0.6, scope="global"),
    "zeros-obc": lambda model, x: ol.prune_weights(model, sparsity=0.6, samples=x),
    "zeros-wanda": lambda model, x: ol.prune_weights(
        model, pattern="2:4", method="wanda", samples=x
    ),
    "sparse": lambda model, _: ol.sparse_storage(ol.prune_weights(model, sparsity=0.9)),
    "repair": lambda model, x: ol.repair(model, _pruned(model), x),
    "int8": lambda model, x: ol.quantize_static(model, x, placement="everything"),
    "int8-nearest": lambda model, x: ol.quantize_static(
        model, x, placement="everything", rounding="nearest", observer="mse", equalize=False
    ),
    "int8-percentile": lambda model, x: ol.quantize_static(
        model, x, placement="everything", rounding="nearest", observer="percentile", smooth=False
    ),
    "int8-average": lambda model, x: ol.quantize_static(
        model, x, placement="everything", rounding="nearest", observer="moving-average", smooth=True
    ),
    "int8-qoperator": lambda model, x: ol.quantize_static(
        model, x, placement="everything", form="qoperator"
    ),
    "int8-4-bits": lambda model, x: ol.quantize_static(
        model, x, placement="everything", weight_bits=4
    ),
    "int8-arm": lambda model, x: ol.quantize_static(model, x, target="cpu-arm"),
    "int8-avx2": lambda model, x: ol.quantize_static(
        model, x, target="cpu-avx2", placement="everything"
    ),
    "int8-qnn": lambda model, x: ol.quantize_static(
        model, x, target="qnn", int16=["*"], rounding="nearest"
    ),
    "int8-tensorrt": lambda model, x: ol.quantize_static(
        model, x, target="tensorrt", rounding="nearest"
    ),
    "int8-openvino": lambda model, x: ol.quantize_static(
        model, x, target="openvino", rounding="nearest"
    ),
    "dynamic-integer": lambda model, x: ol.quantize_dynamic(model, samples=x, kernel="integer"),
    "dynamic-blocks": lambda model, x: ol.quantize_dynamic(model, samples=x, kernel="blocks"),
    "weights-4": lambda model, x: ol.quantize_weights(model, samples=x),
    "weights-hqq-3": lambda model, _: ol.quantize_weights(model, bits=3),
    "weights-rtn-5": lambda model, _: ol.quantize_weights(
        model, bits=5, method="rtn", first_last_bits="same"
    ),
    "weights-ternary": lambda model, x: ol.quantize_weights(model, samples=x, bits="ternary"),
    "weights-binary": lambda model, x: ol.quantize_weights(model, samples=x, bits="binary"),
    "weights-size": lambda model, x: ol.quantize_weights(model, samples=x, max_size=0.3),
    "weights-compute": lambda model, x: ol.quantize_weights(model, samples=x, mode="compute"),
    "float16": lambda model, x: ol.to_float16(model, samples=x),
    "float16-storage": lambda model, _: ol.to_float16(model, mode="storage"),
}

#: Steps that are slow or need torch: on two nets only.
SLOW: dict[str, Step] = {
    "tune": lambda model, x: ol.tune(
        model, _pruned(model), x, steps=12, lr=0.01, batch_size=8, threads=1
    ),
}
SLOW_ON = ("residual", "perceptron")

#: The steps that trained nets go through: real ones, and many times as large as the others.
TRAINED = (
    "prune-ratio",
    "zeros-magnitude",
    "sparse",
    "int8",
    "int8-nearest",
    "int8-qoperator",
    "int8-arm",
    "dynamic-integer",
    "dynamic-blocks",
    "weights-4",
    "weights-hqq-3",
    "weights-compute",
    "float16",
    "float16-storage",
)
#: Of these only the first is pruned by MACs and repaired: a minute of processor time each.
LONG = ("prune-macs", "repair", "zeros-obc")


def simplified(golden: Golden) -> onnx.ModelProto:
    """The first step: what every other one gets."""
    return ol.simplify(golden.model, samples=golden.samples).model


def steps_of(net: str) -> dict[str, Step]:
    """The steps that a net goes through."""
    steps = STEPS
    if net in ("residual", "mobilenet", "transformer"):
        names = TRAINED + (LONG if net == "residual" else ())
        steps = {name: STEPS[name] for name in names}
    return steps | (SLOW if net in SLOW_ON else {})
