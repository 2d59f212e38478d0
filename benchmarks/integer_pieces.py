"""Do attention's products and activations pay on integers? `python -m benchmarks.integer_pieces`.

Small models of one operator among its usual neighbours, on one thread, as a share of the
processor time of the first variant:

- attention: a product of two activations in float, against both quantized anew in each run, and
  against both quantized by calibrated scales (Q and DQ), the result in float each time;
- activations: two integer convolutions 1x1 with HardSwish, SiLU or GELU between them, computed
  in float behind a DQ, against the same in pieces that have integer kernels. GELU has none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
from numpy.typing import NDArray

from benchmarks._tables import publish
from onnxlite.model import load
from onnxlite.records import no_progress
from onnxlite.runtime import Session
from onnxlite.timing import time_ratios

_HEAD = '<ir_version: 9, opset_import: ["": 20]>'
_BUDGET_S = 1.5

_PRODUCTS = {
    "float": "y = MatMul(a, b)",
    "scales of each run": """qa, sa, za = DynamicQuantizeLinear(a)
        qb, sb, zb = DynamicQuantizeLinear(b) i = MatMulInteger(qa, qb, za, zb)
        f = Cast<to=1>(i) sab = Mul(sa, sb) y = Mul(f, sab)""",
    "calibrated scales": """qa = QuantizeLinear(a, s, z) da = DequantizeLinear(qa, s, z)
        qb = QuantizeLinear(b, s, z) db = DequantizeLinear(qb, s, z) y = MatMul(da, db)""",
}

_PAIR = """q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)
    w = DequantizeLinear<axis=0>(wq, ws, wz) b = DequantizeLinear<axis=0>(bq, bs, bz)
    t = Conv(d, w, b) tq = QuantizeLinear(t, s, z) td = DequantizeLinear(tq, s, z)
    %s
    rq = QuantizeLinear(a, s, z) rd = DequantizeLinear(rq, s, z)
    u = Conv(rd, w, b) uq = QuantizeLinear(u, s, z) y = DequantizeLinear(uq, s, z)"""
_ACTIVATIONS = {
    ("HardSwish", "float"): "a = HardSwish(td)",
    ("HardSwish", "pieces"): """half = DequantizeLinear(hq, hs, z0) x6 = DequantizeLinear(tq, s6, z)
        h = Add(x6, half) gq = QuantizeLinear(h, s1, z0) g = DequantizeLinear(gq, s1, z0)
        a = Mul(td, g)""",
    ("SiLU", "float"): "g = Sigmoid(td) a = Mul(td, g)",
    ("SiLU", "pieces"): """g = Sigmoid(td) gq = QuantizeLinear(g, s1, z0)
        gd = DequantizeLinear(gq, s1, z0) a = Mul(td, gd)""",
    ("GELU", "float"): "a = Gelu(td)",
}


def attention(heads: int, rows: int, inner: int, columns: int) -> list[dict[str, Any]]:
    """Rows of the table for one shape of a product of two activations."""
    text = f"""{_HEAD} g (float[1,{heads},{rows},{inner}] a, float[1,{heads},{inner},{columns}] b)
        => (float[1,{heads},{rows},{columns}] y) <float s = {{0.03}}, uint8 z = {{128}}>"""
    rng = np.random.default_rng(0)
    feed = {
        "a": rng.standard_normal((1, heads, rows, inner)).astype(np.float32),
        "b": rng.standard_normal((1, heads, inner, columns)).astype(np.float32),
    }
    sessions = [_session(f"{text} {{ {body} }}", {}) for body in _PRODUCTS.values()]
    ratios = [1.0, *time_ratios(sessions, feed, budget_s=_BUDGET_S, progress=no_progress)]
    shape = f"{heads} x [{rows},{inner}] [{inner},{columns}]"
    return [
        {"operator": "MatMul of activations", "shape": shape, "variant": name, "time": ratio}
        for name, ratio in zip(_PRODUCTS, ratios, strict=True)
    ]


def activations(channels: int, side: int) -> list[dict[str, Any]]:
    """Rows of the table for one size of image between two convolutions."""
    declared = f"""{_HEAD} g (float[1,{channels},{side},{side}] x)
        => (float[1,{channels},{side},{side}] y)
        <float s = {{0.05}}, uint8 z = {{128}}, uint8 z0 = {{0}}, float s1 = {{0.003921569}},
         float s6 = {{0.008333333}}, uint8 hq = {{255}}, float hs = {{0.001960784}}>"""
    rng = np.random.default_rng(0)
    constants: dict[str, NDArray[Any]] = {
        "wq": rng.integers(-127, 128, (channels, channels, 1, 1)).astype(np.int8),
        "ws": np.full(channels, 0.001, np.float32),
        "wz": np.zeros(channels, np.int8),
        "bq": np.zeros(channels, np.int32),
        "bs": np.full(channels, 0.00005, np.float32),
        "bz": np.zeros(channels, np.int32),
    }
    feed = {"x": rng.standard_normal((1, channels, side, side)).astype(np.float32)}
    sessions = [
        _session(f"{declared} {{ {_PAIR % body} }}", constants) for body in _ACTIVATIONS.values()
    ]
    times = [1.0, *time_ratios(sessions, feed, budget_s=_BUDGET_S, progress=no_progress)]
    found = dict(zip(_ACTIVATIONS, times, strict=True))
    return [
        {
            "operator": operator,
            "shape": f"{channels} x {side} x {side}",
            "variant": variant,
            "time": time / found[operator, "float"],
        }
        for (operator, variant), time in found.items()
    ]


def _session(text: str, constants: dict[str, NDArray[Any]]) -> Session:
    proto = onnx.parser.parse_model(text)
    for name, array in constants.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return Session(load(proto), threads=1)


def main() -> None:
    """Measure and publish."""
    rows = [row for length in (16, 128) for row in attention(12, length, 32, length)]
    rows += [row for length in (16, 128) for row in attention(12, length, length, 32)]
    rows += attention(12, 512, 64, 512)
    for channels, side in ((64, 28), (96, 14), (240, 14), (32, 56)):
        rows += activations(channels, side)
    publish("integer_pieces", rows, title="Operators on integers among their neighbours")


if __name__ == "__main__":
    main()
