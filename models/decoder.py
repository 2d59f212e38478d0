"""A Llama-like decoder of any size, written tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.fetch import atomic


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """Sizes of a decoder; the defaults are those of TinyLlama: 1.1 billion parameters.

    Heads of keys and values are shared by groups of query heads (Ainslie et al. 2023).
    """

    layers: int = 22
    width: int = 2048
    hidden: int = 5632
    heads: int = 32
    key_heads: int = 4
    vocabulary: int = 32000

    @property
    def head(self) -> int:
        """Width of a head."""
        return self.width // self.heads


def large_decoder(path: Path, *, sizes: Decoder | None = None, seed: int = 0) -> Path:
    """Write a decoder with random weights as external data, float32.

    Input `ids: int64[batch, length]`, output `logits: float32[batch, length, vocabulary]`,
    opset 20. A block is

        h = x + Attention(RMSNorm(x));  y = h + Down(Silu(Gate(n)) * Up(n)),  n = RMSNorm(h)

    with rotary positions and a causal mask, as Llama (Touvron et al. 2023). Weights are normal
    with variance 1 / inputs, so that values stay of one size. Memory: one tensor at a time.
    """
    sizes = sizes or Decoder()
    rng = np.random.default_rng(seed)
    data = path.with_name(path.name + ".data")
    with atomic(path) as partial_model, atomic(data) as partial_data:
        with partial_data.open("wb") as file:
            tensors: list[TensorProto] = []
            for name, shape, std in _weights(sizes):
                tensor = TensorProto(name=name, dims=shape)
                tensor.data_type = TensorProto.FLOAT
                tensor.data_location = TensorProto.EXTERNAL
                place = {"location": data.name, "offset": file.tell(), "length": 4 * np.prod(shape)}
                for key, value in place.items():
                    tensor.external_data.add(key=key, value=str(value))
                for start in range(0, shape[0], 1024):
                    rows = min(1024, shape[0] - start)
                    values = rng.standard_normal((rows, shape[1]), np.float32)
                    values *= np.float32(std)
                    values.tofile(file)
                tensors.append(tensor)
        tensors += [numpy_helper.from_array(array, name) for name, array in _constants(sizes)]
        graph = helper.make_graph(
            list(_nodes(sizes)),
            "decoder",
            [helper.make_tensor_value_info("ids", TensorProto.INT64, ("batch", "length"))],
            [
                helper.make_tensor_value_info(
                    "logits", TensorProto.FLOAT, ("batch", "length", sizes.vocabulary)
                )
            ],
            tensors,
        )
        opset = [helper.make_opsetid("", 20)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=9)
        partial_model.write_bytes(model.SerializeToString())
    return path


def _weights(sizes: Decoder) -> Iterator[tuple[str, tuple[int, int], float]]:
    """Name, shape and standard deviation of every matrix."""
    width, hidden = sizes.width, sizes.hidden
    keys = sizes.key_heads * sizes.head
    yield "embed.weight", (sizes.vocabulary, width), 1.0
    for i in range(sizes.layers):
        p = f"layers.{i}."
        yield p + "q.weight", (width, width), width**-0.5
        yield p + "k.weight", (width, keys), width**-0.5
        yield p + "v.weight", (width, keys), width**-0.5
        yield p + "o.weight", (width, width), width**-0.5
        yield p + "gate.weight", (width, hidden), width**-0.5
        yield p + "up.weight", (width, hidden), width**-0.5
        yield p + "down.weight", (hidden, width), hidden**-0.5
    yield "head.weight", (width, sizes.vocabulary), width**-0.5


def _constants(sizes: Decoder) -> Iterator[tuple[str, NDArray[Any]]]:
    yield "epsilon", np.array([1e-5], np.float32)
    yield "frequencies", (1e4 ** -(np.arange(0, sizes.head, 2) / sizes.head)).astype(np.float32)
    yield "root", np.array([sizes.head**-0.5], np.float32)
    yield "lowest", np.array([-1e9], np.float32)
    yield "zero", np.array(0, np.int64)
    yield "step", np.array(1, np.int64)
    yield "axis0", np.array([0], np.int64)
    yield "axis1", np.array([1], np.int64)
    yield "axis2", np.array([2], np.int64)
    yield "last", np.array([-1], np.int64)
    yield "queries", np.array([0, 0, sizes.heads, sizes.head], np.int64)
    yield "keys", np.array([0, 0, sizes.key_heads, sizes.head], np.int64)
    yield "joined", np.array([0, 0, sizes.width], np.int64)
    yield "repeats", np.array([1, 1, sizes.heads // sizes.key_heads, 1, 1], np.int64)
    # Every head of keys serves its group of queries.
    yield "all_heads", np.array([0, sizes.heads, -1, sizes.head], np.int64)
    yield "length_index", np.array(1, np.int64)
    yield "zeros", np.array([0], np.int64)
    yield "zero_mask", np.array([0], np.float32)
    yield "half", np.array([sizes.head // 2], np.int64)
    yield "end", np.array([sizes.head], np.int64)
    yield "norm.weight", np.ones(sizes.width, np.float32)


def _nodes(sizes: Decoder) -> Iterator[onnx.NodeProto]:
    node = _node
    yield node("Gather", "embed.weight ids", "x0")
    yield node("Shape", "ids", "shape")
    yield node("Gather", "shape length_index", "length", axis=0)
    yield node("Range", "zero length step", "positions")
    yield node("Cast", "positions", "places", to=TensorProto.FLOAT)
    yield node("Unsqueeze", "places axis1", "column")
    yield node("Mul", "column frequencies", "half_angles")
    yield node("Concat", "half_angles half_angles", "angles", axis=-1)
    yield node("Cos", "angles", "cos")
    yield node("Sin", "angles", "sin")
    yield node("Unsqueeze", "positions axis0", "row_places")
    yield node("Unsqueeze", "positions axis1", "column_places")
    yield node("Greater", "row_places column_places", "later")
    yield node("Where", "later lowest zero_mask", "mask")
    x = "x0"
    for i in range(sizes.layers):
        p = f"layers.{i}."
        yield from _norm(x, p + "n")
        for part, shape in (("q", "queries"), ("k", "keys"), ("v", "keys")):
            yield node("MatMul", f"{p}n {p}{part}.weight", f"{p}{part}")
            yield node("Reshape", f"{p}{part} {shape}", f"{p}{part}_split")
            yield node("Transpose", f"{p}{part}_split", f"{p}{part}_heads", perm=[0, 2, 1, 3])
        for part in ("q", "k"):
            yield from _rotary(f"{p}{part}_heads", f"{p}{part}_turned")
        for source, part in ((f"{p}k_turned", "k"), (f"{p}v_heads", "v")):
            yield node("Unsqueeze", f"{source} axis2", f"{p}{part}_group")
            yield node("Tile", f"{p}{part}_group repeats", f"{p}{part}_tiled")
            yield node("Reshape", f"{p}{part}_tiled all_heads", f"{p}{part}_all")
        yield node("Transpose", f"{p}k_all", f"{p}k_columns", perm=[0, 1, 3, 2])
        yield node("MatMul", f"{p}q_turned {p}k_columns", f"{p}scores")
        yield node("Mul", f"{p}scores root", f"{p}scaled")
        yield node("Add", f"{p}scaled mask", f"{p}masked")
        yield node("Softmax", f"{p}masked", f"{p}shares", axis=-1)
        yield node("MatMul", f"{p}shares {p}v_all", f"{p}mixed")
        yield node("Transpose", f"{p}mixed", f"{p}rows", perm=[0, 2, 1, 3])
        yield node("Reshape", f"{p}rows joined", f"{p}attended")
        yield node("MatMul", f"{p}attended {p}o.weight", f"{p}o")
        yield node("Add", f"{x} {p}o", f"{p}h")
        yield from _norm(f"{p}h", p + "m")
        yield node("MatMul", f"{p}m {p}gate.weight", f"{p}gate")
        yield node("MatMul", f"{p}m {p}up.weight", f"{p}up")
        yield node("Sigmoid", f"{p}gate", f"{p}open")
        yield node("Mul", f"{p}gate {p}open", f"{p}silu")
        yield node("Mul", f"{p}silu {p}up", f"{p}inner")
        yield node("MatMul", f"{p}inner {p}down.weight", f"{p}down")
        x = f"x{i + 1}"
        yield node("Add", f"{p}h {p}down", x)
    yield from _norm(x, "final")
    yield node("MatMul", "final head.weight", "logits")


def _norm(x: str, output: str) -> Iterator[onnx.NodeProto]:
    """`x / sqrt(mean(x^2) + epsilon)` times a weight (Zhang & Sennrich 2019)."""
    yield _node("Mul", f"{x} {x}", f"{output}_square")
    yield _node("ReduceMean", f"{output}_square last", f"{output}_mean")
    yield _node("Add", f"{output}_mean epsilon", f"{output}_shifted")
    yield _node("Sqrt", f"{output}_shifted", f"{output}_size")
    yield _node("Div", f"{x} {output}_size", f"{output}_unit")
    yield _node("Mul", f"{output}_unit norm.weight", output)


def _rotary(x: str, output: str) -> Iterator[onnx.NodeProto]:
    """`x cos + (-second half, first half) sin` (Su et al. 2021)."""
    yield _node("Slice", f"{x} zeros half last", f"{output}_first")
    yield _node("Slice", f"{x} half end last", f"{output}_second")
    yield _node("Neg", f"{output}_second", f"{output}_minus")
    yield _node("Concat", f"{output}_minus {output}_first", f"{output}_across", axis=-1)
    yield _node("Mul", f"{x} cos", f"{output}_along")
    yield _node("Mul", f"{output}_across sin", f"{output}_over")
    yield _node("Add", f"{output}_along {output}_over", output)


def _node(op: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], name=f"{output}.{op}", **attributes)
