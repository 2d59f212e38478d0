"""The onnx package's nine light models, filled with seeded random weights.

onnx carries AlexNet, DenseNet-121, Inception v1 and v2, ResNet-50, ShuffleNet,
SqueezeNet, VGG-19 and ZFNet-512 (opset 9, Caffe2 exports) with every weight
replaced by a ConstantOfShape node. `fill` puts tensors back whose activations
neither explode nor die.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from models.fetch import PackageMissing, atomic, cache_dir

NAMES = (
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "vgg19",
    "zfnet512",
)
_IMAGES = 8

Array = NDArray[np.float32]


def light_models(names: Sequence[str] = NAMES, *, seed: int = 0) -> dict[str, Path]:
    """Name to path of the light models with random weights; made once, then cached.

    Each takes `float32[1, 3, 224, 224]`. All nine are 1.4 GB (VGG-19 alone 575 MB).

    Raises:
        PackageMissing: the installed onnx does not carry them.
        ValueError: a name is not one of `NAMES`.
    """
    if unknown := sorted(set(names) - set(NAMES)):
        raise ValueError(f"no light model {', '.join(unknown)}; there are {', '.join(NAMES)}")
    paths = {name: cache_dir() / "light" / f"{name}-seed{seed}.onnx" for name in names}
    for name, path in paths.items():
        if not path.exists():
            with atomic(path) as partial:
                onnx.save(fill(read_light(name), seed=seed), partial)
    return paths


def read_light(name: str) -> onnx.ModelProto:
    """The light model as the onnx package carries it.

    Raises:
        PackageMissing: the installed onnx does not carry it.
    """
    source = files("onnx") / "backend" / "test" / "data" / "light" / f"light_{name}.onnx"
    if not source.is_file():
        raise PackageMissing(
            f"onnx {onnx.__version__} does not carry light_{name}.onnx: `pip install onnx==1.23.2`"
        )
    return onnx.load_from_string(source.read_bytes())


def fill(model: onnx.ModelProto, *, seed: int = 0) -> onnx.ModelProto:  # noqa: C901
    """Replace the weights of a light model with seeded random initializers.

    Conv and Gemm weights are He-normal (He et al. 2015), then scaled so that the
    output has unit variance on eight smooth random images, layer after layer (LSUV, Mishkin
    & Matas 2016), and zero mean per channel where there is a bias (else all images look
    alike after a few layers). BatchNormalization gets the mean and variance that it sees there, and
    scales and shifts near 1 and 0. Equal on the same machine and ONNX Runtime; elsewhere
    equal up to float32 rounding.
    """
    graph = model.graph
    integers = {t.name: t for t in graph.initializer if t.data_type == onnx.TensorProto.INT64}
    shapes = {name: tuple(numpy_helper.to_array(t)) for name, t in integers.items()}
    weights = {t.name: tuple(t.dims) for t in graph.initializer if t.name not in integers}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "ConstantOfShape":
            weights[node.output[0]] = shapes[node.input[0]]
        else:
            nodes.append(node)
    used = Counter(name for node in nodes for name in node.input)
    inputs = [i for i in graph.input if i.name not in integers and i.name not in weights]
    images = _images([d.dim_value for d in inputs[0].type.tensor_type.shape.dim], seed)

    tensors = {name: numpy_helper.to_array(t) for name, t in integers.items() if used[name]}
    source: dict[str, str] = {}  # what a node makes of one weight alone -> that weight
    values = {inputs[0].name: images}
    for index, node in enumerate(nodes):
        rng = np.random.default_rng([seed, index])
        constant = not any(name in values and name not in source for name in node.input)
        for slot, name in enumerate(node.input):
            if name in weights and name not in tensors:
                user, port = _user(nodes, node.output[0]) if constant else (node, slot)
                tensors[name] = _draw(user.op_type, port, weights[name], rng)
        if constant:
            source[node.output[0]] = node.input[0]
        if node.op_type == "BatchNormalization":
            _observe(node, values[node.input[0]], tensors)
        outputs = _run(node, values, tensors, count=1 if constant else _IMAGES)
        if node.op_type in ("Conv", "Gemm"):
            outputs = _normalise(outputs, [source.get(n, n) for n in node.input[1:]], tensors)
        values[node.output[0]] = outputs
        for name in node.input:
            used[name] -= 1
            if not used[name]:
                values.pop(name, None)
    return _rebuild(model, nodes, inputs, tensors)


def _images(shape: list[int], seed: int) -> list[Array]:
    """Smooth images with the statistics of normalised photographs.

    Noise whose amplitude falls as 1/frequency, mostly common to the three channels, at
    brightnesses from -2 to 2: a plain white background lies outside of zero-mean noise.
    """
    batch, channels, height, width = shape
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    rng = np.random.default_rng(seed)
    images = []
    for brightness in np.linspace(-2, 2, _IMAGES):
        noise = rng.standard_normal((batch, 1, height, width))
        noise = noise + 0.3 * rng.standard_normal((batch, channels, height, width))
        image = np.fft.irfft2(np.fft.rfft2(noise) / frequency, (height, width))
        images.append((image / image.std() + brightness).astype(np.float32))
    return images


def _user(nodes: list[onnx.NodeProto], name: str) -> tuple[onnx.NodeProto, int]:
    """The node that reads value `name`, and at which input."""
    node = next(node for node in nodes if name in node.input)
    return node, list(node.input).index(name)


def _draw(op: str, slot: int, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """A tensor for input `slot` of an operator."""
    noise = rng.standard_normal(shape, np.float32)
    if op in ("Conv", "Gemm") and slot == 1:
        return noise * np.float32((2 / np.prod(shape[1:])) ** 0.5)
    is_scale = op == "Mul" or (op == "BatchNormalization" and slot == 1)
    return noise * np.float32(0.1) + np.float32(is_scale)


def _observe(node: onnx.NodeProto, seen: list[Array], tensors: dict[str, Array]) -> None:
    """Set mean and variance from the input, variance drawn halfway towards the layer's mean."""
    x = np.stack(seen).astype(np.float64)
    axes = (0, 1, *range(3, x.ndim))
    variance = x.var(axes)
    tensors[node.input[3]] = x.mean(axes).astype(np.float32)
    tensors[node.input[4]] = (0.5 * variance + 0.5 * variance.mean()).astype(np.float32)


def _normalise(
    outputs: list[Array], parameters: list[str], tensors: dict[str, Array]
) -> list[Array]:
    """Scale weight and bias to unit output variance; shift a bias to zero mean per channel."""
    y = np.stack(outputs).astype(np.float64)
    axes = (0, 1, *range(3, y.ndim))
    centre = y.mean(axes) if len(parameters) == 2 else np.zeros(y.shape[2])
    spread = centre.reshape(-1, *[1] * (y.ndim - 3))
    scale = 1 / ((y - spread).std() + 1e-12)
    for name, shift in zip(parameters, (0, centre), strict=False):
        tensors[name] = ((tensors[name] - shift) * scale).astype(np.float32)
    return list(((y - spread) * scale).astype(np.float32))


def _run(
    node: onnx.NodeProto, values: dict[str, list[Array]], tensors: dict[str, Array], *, count: int
) -> list[Array]:
    """The first output of one node for `count` images, from ONNX Runtime on one thread."""
    import onnxruntime

    names = list(dict.fromkeys(node.input))
    inputs = [tensors[n] if n in tensors else values[n][0] for n in names]
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in zip(names, inputs, strict=True)
    ]
    out = [onnx.ValueInfoProto(name=node.output[0])]
    graph = helper.make_graph([node], "node", infos, out)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=4)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feeds = (
        {n: tensors[n] if n in tensors else values[n][i % len(values[n])] for n in names}
        for i in range(count)
    )
    return [session.run([node.output[0]], feed)[0] for feed in feeds]


def _rebuild(
    model: onnx.ModelProto,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    tensors: dict[str, Array],
) -> onnx.ModelProto:
    """The model with its weights as initializers that are not graph inputs (IR 4)."""
    filled = onnx.ModelProto()
    filled.CopyFrom(model)
    filled.ir_version = 4
    graph = filled.graph
    for field in (graph.node, graph.initializer, graph.input, graph.value_info):
        field.clear()
    graph.node.extend(nodes)
    graph.input.extend(inputs)
    graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in tensors.items())
    return filled
