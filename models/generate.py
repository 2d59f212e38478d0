"""A model too large for one protobuf message, written tensor by tensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.fetch import atomic


def large_model(path: Path, *, gib: float = 3.0, width: int = 4096, seed: int = 0) -> Path:
    """Write a residual MLP whose weights, `gib` GiB of float32, are external data.

    Input `x: float32[batch, width]`, output `y` of the same shape, opset 20. Each
    block is

        y = x + Dropout(Relu(BatchNorm(Gemm(Identity(x))))) @ W

    so that a simplifier has nodes to remove and to fold. The weights are in
    `<path>.data`, the vectors in the model itself. Weights are He-scaled (He et
    al. 2015), the second one also by 1/sqrt(blocks), so that the output stays of
    the input's size. Memory: one weight (64 MiB at the default width) at a time.
    """
    blocks = max(1, round(gib * 2**30 / (8 * width**2)))
    rng = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    tensors: list[TensorProto] = []

    def vector(name: str, values: NDArray[np.float32]) -> str:
        tensors.append(numpy_helper.from_array(values, name))
        return name

    def normal(*shape: int, std: float) -> NDArray[np.float32]:
        values = rng.standard_normal(shape, np.float32)
        values *= np.float32(std)
        return values

    data = path.with_name(path.name + ".data")
    with atomic(path) as partial_model, atomic(data) as partial_data:
        with partial_data.open("wb") as file:

            def weight(name: str, *, std: float) -> str:
                tensor = TensorProto(name=name, dims=(width, width))
                tensor.data_type = TensorProto.FLOAT
                tensor.data_location = TensorProto.EXTERNAL
                place = {"location": data.name, "offset": file.tell(), "length": 4 * width**2}
                for key, value in place.items():
                    tensor.external_data.add(key=key, value=str(value))
                normal(width, width, std=std).tofile(file)
                tensors.append(tensor)
                return name

            x = "x"
            for i in range(blocks):
                p = f"block{i}."
                w1 = weight(p + "gemm.weight", std=(1 / width) ** 0.5)
                w2 = weight(p + "matmul.weight", std=(2 / width / blocks) ** 0.5)
                norm = [
                    vector(p + "norm.scale", 1 + normal(width, std=0.1)),
                    vector(p + "norm.bias", normal(width, std=0.1)),
                    vector(p + "norm.mean", normal(width, std=0.1)),
                    vector(p + "norm.var", 1 + np.abs(normal(width, std=0.1))),
                ]
                bias = vector(p + "gemm.bias", normal(width, std=0.1))
                y = f"{p}y" if i < blocks - 1 else "y"
                chain = (
                    ("Identity", [x], p + "identity"),
                    ("Gemm", [p + "identity", w1, bias], p + "gemm"),
                    ("BatchNormalization", [p + "gemm", *norm], p + "norm"),
                    ("Relu", [p + "norm"], p + "relu"),
                    ("Dropout", [p + "relu"], p + "dropout"),
                    ("MatMul", [p + "dropout", w2], p + "matmul"),
                    ("Add", [x, p + "matmul"], y),
                )
                nodes += [helper.make_node(op, i, [o], name=f"{o}.{op}") for op, i, o in chain]
                x = y
        shape = ("batch", width)
        graph = helper.make_graph(
            nodes,
            "large",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
            tensors,
        )
        opset = [helper.make_opsetid("", 20)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=9)
        partial_model.write_bytes(model.SerializeToString())
    return path
