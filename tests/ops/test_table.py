"""The operator table: what each row claims is checked against the schema and ONNX Runtime."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxlite.graph import iter_nodes
from onnxlite.model import load
from onnxlite.ops import OPS, OpSpec, spec_of
from onnxlite.runtime import Outputs, run_all
from tests.odd_models import parse

#: One small node per row: its call, the shape of its data x, and declarations of the rest.
EXAMPLES = {
    "Conv": (
        "Conv<pads=[1,1,1,1], strides=[2,1]>(x, w, b)",
        "2,4,5,6",
        "float[6,4,3,3] w, float[6] b",
    ),
    "ConvTranspose": ("ConvTranspose<strides=[2,2]>(x, w)", "2,4,3,3", "float[4,5,3,2] w"),
    "Gemm": ("Gemm<transB=1>(x, w, b)", "3,4", "float[5,4] w, float[5] b"),
    "MatMul": ("MatMul(x, w)", "2,3,4", "float[4,5] w"),
    "Einsum": ('Einsum<equation="bij,jk->bik">(x, w)', "2,3,4", "float[4,5] w"),
    "LSTM": ("LSTM<hidden_size=3>(x, w, r)", "5,2,4", "float[1,12,4] w, float[1,12,3] r"),
    "GRU": ("GRU<hidden_size=3>(x, w, r)", "5,2,4", "float[1,9,4] w, float[1,9,3] r"),
    "RNN": ("RNN<hidden_size=3>(x, w, r)", "5,2,4", "float[1,3,4] w, float[1,3,3] r"),
    "Relu": ("Relu(x)", "3,4", ""),
    "Clip": ("Clip(x, low, high)", "3,4", "float low = {-0.5}, float high = {0.75}"),
    "Add": ("Add(x, w)", "3,4", "float[3,4] w"),
    "Sum": ("Sum(x, w)", "3,4", "float[3,4] w"),
    "Mul": ("Mul(x, w)", "3,4", "float[3,4] w"),
    "LeakyRelu": ("LeakyRelu<alpha=0.2>(x)", "3,4", ""),
    "PRelu": ("PRelu(x, w)", "3,4", "float[4] w"),
    "Sigmoid": ("Sigmoid(x)", "3,4", ""),
    "Softmax": ("Softmax(x)", "3,4", ""),
    "Identity": ("Identity(x)", "3,4", ""),
    "Reshape": ("Reshape(x, s)", "3,4", "int64[2] s = {2, 6}"),
    "Flatten": ("Flatten(x)", "2,3,4", ""),
    "Transpose": ("Transpose<perm=[1,0]>(x)", "3,4", ""),
    "Squeeze": ("Squeeze(x)", "3,1,4", ""),
    "Unsqueeze": ("Unsqueeze(x, a)", "3,4", "int64[1] a = {0}"),
    "Slice": ("Slice(x, s, e)", "3,4", "int64[1] s = {1}, int64[1] e = {3}"),
    "Split": ("Split<num_outputs=2>(x)", "4,4", ""),
    "Expand": ("Expand(x, s)", "3,1", "int64[2] s = {3, 5}"),
    "Tile": ("Tile(x, s)", "3,4", "int64[2] s = {2, 1}"),
    "MaxPool": ("MaxPool<kernel_shape=[2,2]>(x)", "1,2,4,4", ""),
    "Gather": ("Gather(x, i)", "5,3", "int64[2] i = {4, 0}"),
    "Resize": ('Resize<mode="linear">(x, "", s)', "1,2,3,3", "float[4] s = {1, 1, 2, 2}"),
    "Concat": ("Concat<axis=1>(x, x)", "3,4", ""),
    "AveragePool": ("AveragePool<kernel_shape=[2,2]>(x)", "1,2,4,4", ""),
    "GlobalAveragePool": ("GlobalAveragePool(x)", "1,2,4,4", ""),
    "BatchNormalization": (
        "BatchNormalization(x, w, b, m, v)",
        "2,4,3,3",
        "float[4] w, float[4] b = {0, 0, 0, 0}, float[4] m, float[4] v = {1, 2, 1, 2}",
    ),
    "GroupNormalization": (
        "GroupNormalization<num_groups=2>(x, w, b)",
        "2,4,3,3",
        "float[4] w, float[4] b = {0, 0, 0, 0}",
    ),
    "InstanceNormalization": (
        "InstanceNormalization(x, w, b)",
        "2,4,3,3",
        "float[4] w, float[4] b = {0, 0, 0, 0}",
    ),
    "LayerNormalization": ("LayerNormalization(x, w)", "3,4", "float[4] w"),
    "RMSNormalization": ("RMSNormalization(x, w)", "3,4", "float[4] w"),
    "ConvInteger": ("ConvInteger(x, w)", "1,2,5,5", "int8[4,2,3,3] w"),
    "MatMulInteger": ("MatMulInteger(x, w)", "3,4", "int8[4,5] w"),
    "QLinearConv": (
        "QLinearConv(x, s, z, w, s, v, s, z)",
        "1,2,5,5",
        "float s = {0.1}, uint8 z = {9}, int8 v = {0}, int8[4,2,3,3] w",
    ),
    "QLinearMatMul": (
        "QLinearMatMul(x, s, z, w, s, v, s, z)",
        "3,4",
        "float s = {0.1}, uint8 z = {9}, int8 v = {0}, int8[4,5] w",
    ),
}
#: Types of data and output where they are not float.
TYPES = {
    "ConvInteger": ("uint8", "int32"),
    "MatMulInteger": ("uint8", "int32"),
    "QLinearConv": ("uint8", "uint8"),
    "QLinearMatMul": ("uint8", "uint8"),
}
#: The first version of the operator set that has the operator as it is used here.
OPSETS = {"GroupNormalization": 21, "RMSNormalization": 23}
UNTESTED = {
    "channels": None,
    "scores": None,
    "moves_only": False,
    "quantized": False,
    "random": None,
    "shape_ports": (),
    "reads_shape": False,
    "rounds": None,
}
#: The rows that say more than what becomes of channels; those rules have tests of their own.
ROWS = sorted(name for name, row in OPS.items() if replace(row, **UNTESTED) != OpSpec(op_type=name))


def example(op_type: str) -> tuple[ir.Model, ir.Node]:
    call, shape, weights = EXAMPLES[op_type]
    outputs = "y, rest" if op_type == "Split" else "y"
    taken, made = TYPES.get(op_type, ("float", "float"))
    text = f"""<ir_version: 8, opset_import: ["": {OPSETS.get(op_type, 18)}]>
        g ({taken}[{shape}] x) => ({made}[] y) <{weights or "float unused = {0}"}>
        {{ {outputs} = {call} }}"""
    model = load(parse(text))
    (node,) = iter_nodes(model)
    return model, node


def data(op_type: str, scale: float = 1.0) -> dict[str, np.ndarray]:
    shape = [int(size) for size in EXAMPLES[op_type][1].split(",")]
    values = np.random.default_rng(1).standard_normal(shape) * 3
    if op_type in TYPES:
        return {"x": np.clip(values * scale + 9, 0, 255).astype(np.uint8)}
    return {"x": (values * scale).astype(np.float32)}


def run(op_type: str, scale: float = 1.0) -> Outputs:
    return run_all(example(op_type)[0], [data(op_type, scale)])[0]


def shapes(op_type: str):
    """The real shapes of the example's values, as a macs function asks for them."""
    model, node = example(op_type)
    sizes = {name: array.shape for name, array in (data(op_type) | run(op_type)).items()}
    sizes |= {name: tuple(v.const_value.shape) for name, v in model.graph.initializers.items()}
    return node, lambda value: None if value is None else sizes.get(value.name)


def test_every_row_has_an_example():
    assert set(EXAMPLES) == set(ROWS)
    assert all(spec.op_type == name for name, spec in OPS.items())


@pytest.mark.parametrize("op_type", [name for name, spec in OPS.items() if spec.gain is not None])
def test_gain_multiplies_channels(op_type):
    model, node = example(op_type)
    gain = node.inputs[OPS[op_type].gain]
    (before,) = run_all(model, [data(op_type)])[0].values()
    gain.const_value = ir.tensor(3 * gain.const_value.numpy(), name=gain.name)
    (after,) = run_all(model, [data(op_type)])[0].values()
    np.testing.assert_allclose(after, 3 * before, rtol=1e-4, atol=1e-5)


def test_unknown_operators_get_an_empty_row():
    for node in (ir.node("NoSuch", []), ir.Node("my.company", "Conv", [])):
        spec = spec_of(node)
        assert (spec.quant, spec.macs, spec.weights, spec.linear) == (None, None, (), False)
    assert spec_of(ir.Node("ai.onnx", "Conv", [])) is OPS["Conv"]


@pytest.mark.parametrize("op_type", ROWS)
def test_ports_exist(op_type):
    schema, spec = onnx.defs.get_schema(op_type), OPS[op_type]
    variadic = schema.inputs[-1].option == onnx.defs.OpSchema.FormalParameterOption.Variadic
    ports = {*spec.weights}
    if rule := spec.quant:
        ports |= {*(rule.inputs or ()), *(p for p in (rule.weight, rule.bias) if p is not None)}
        assert (rule.kind == "compute") == (rule.weight is not None)
        assert rule.weight is None or rule.weight in spec.weights
        assert rule.channel_axis is None or rule.weight is not None
        assert rule.inputs is None or rule.weight not in rule.inputs
        assert not (rule.shared_scale and rule.fixed_range)
        _, node = example(op_type)
        assert set(rule.ports(node)) <= set(range(len(node.inputs)))
        assert 0 in rule.ports(node)
    assert all(0 <= port < len(schema.inputs) or variadic for port in ports)
    assert spec.macs is None or spec.weights


@pytest.mark.parametrize("op_type", [name for name in ROWS if OPS[name].linear])
@pytest.mark.parametrize("scale", [0.25, 3.0])
def test_linear_rows_scale(op_type, scale):
    np.testing.assert_allclose(
        run(op_type, scale)["y"], run(op_type)["y"] * np.float32(scale), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("op_type", [n for n in ROWS if (q := OPS[n].quant) and q.shared_scale])
def test_shared_scale_stays_in_the_range(op_type):
    model, _ = example(op_type)
    inputs = [data(op_type)["x"]]
    inputs += [v.const_value.numpy() for v in model.graph.initializers.values() if v.name == "w"]
    output = run(op_type)["y"]
    assert min(a.min() for a in inputs) <= output.min()
    assert output.max() <= max(a.max() for a in inputs)


@pytest.mark.parametrize("op_type", [n for n in ROWS if (q := OPS[n].quant) and q.fixed_range])
def test_fixed_range_holds(op_type):
    low, high = OPS[op_type].quant.fixed_range
    output = run(op_type, 30.0)["y"]
    assert low <= output.min() < 0.01 * high
    assert 0.99 * high < output.max() <= high


@pytest.mark.parametrize("op_type", [name for name in ROWS if OPS[name].output_range])
def test_output_range_is_the_clip(op_type):
    _, node = example(op_type)
    low, high = OPS[op_type].output_range(node)
    output = run(op_type)["y"]
    np.testing.assert_array_equal(output, np.clip(data(op_type)["x"], low, high))


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("Clip<min=-1.0, max=6.0>(x)", (-1.0, 6.0)),
        ("Clip<max=6.0>(x)", (-math.inf, 6.0)),
        ("Clip(x)", (-math.inf, math.inf)),
        ('Clip(x, "", six)', (-math.inf, 6.0)),
        ("Clip(x, six)", (6.0, math.inf)),
        ("Clip(x, computed)", None),
    ],
)
def test_clip_range(call, expected):
    text = f"""<ir_version: 8, opset_import: ["": 17]>
        g (float[3] x, float computed) => (float[3] y) <float six = {{6}}> {{ y = {call} }}"""
    (node,) = iter_nodes(load(parse(text)))
    assert OPS["Clip"].output_range(node) == expected


def count_conv(x, w, *, strides, pads, group=1):
    """Convolve by the definition and count the products."""
    x = np.pad(x, [(0, 0), (0, 0), *zip(pads[:2], pads[2:], strict=True)])
    kernel = w.shape[2:]
    size = [(x.shape[2 + i] - kernel[i]) // strides[i] + 1 for i in range(2)]
    y, count = np.zeros((len(x), len(w), *size), np.float32), 0
    per_in, per_out = w.shape[1], len(w) // group
    for n, o, i, j in np.ndindex(*y.shape):
        first = o // per_out * per_in
        top, left = i * strides[0], j * strides[1]
        patch = x[n, first : first + per_in, top : top + kernel[0], left : left + kernel[1]]
        y[n, o, i, j] = (patch * w[o]).sum()
        count += patch.size
    return y, count


class TestMacs:
    """Multiplications counted one by one, by code that gives ONNX Runtime's result."""

    @pytest.mark.parametrize(("group", "inner"), [(1, 4), (2, 2), (4, 1)])
    def test_conv(self, group, inner):
        text = f"""<ir_version: 8, opset_import: ["": 17]>
            g (float[2,4,5,6] x) => (float[] y) <float[4,{inner},3,2] w>
            {{ y = Conv<group={group}, strides=[2,1], pads=[1,0,1,1]>(x, w) }}"""
        model = load(parse(text))
        (node,) = iter_nodes(model)
        w = model.graph.initializers["w"].const_value.numpy()
        x = data("Conv")["x"]
        expected, count = count_conv(x, w, strides=(2, 1), pads=(1, 0, 1, 1), group=group)
        (output,) = run_all(model, [{"x": x}])
        np.testing.assert_allclose(output["y"], expected, rtol=1e-4, atol=1e-4)
        sizes = {"x": x.shape, "w": w.shape, "y": expected.shape}
        assert OPS["Conv"].macs(node, lambda v: sizes[v.name]) == count

    def test_conv_transpose(self):
        node, shape_of = shapes("ConvTranspose")
        x, w = data("ConvTranspose")["x"], np.zeros((4, 5, 3, 2))
        count = sum(1 for _ in itertools.product(*map(range, (*x.shape, *w.shape[1:]))))
        assert OPS["ConvTranspose"].macs(node, shape_of) == count

    @pytest.mark.parametrize(
        ("op_type", "left", "right", "equation"),
        [
            ("Gemm", "ij", "kj", "ik"),
            ("MatMul", "bij", "jk", "bik"),
            ("Einsum", "bij", "jk", "bik"),
        ],
    )
    def test_products(self, op_type, left, right, equation):
        node, shape_of = shapes(op_type)
        x, w = data(op_type)["x"], example(op_type)[0].graph.initializers["w"].const_value.numpy()
        sizes = dict(zip(left + right, x.shape + w.shape, strict=True))
        result, count = np.zeros([sizes[c] for c in equation], np.float32), 0
        for index in itertools.product(*(range(size) for size in sizes.values())):
            at = dict(zip(sizes, index, strict=True))
            result[tuple(at[c] for c in equation)] += (
                x[tuple(at[c] for c in left)] * w[tuple(at[c] for c in right)]
            )
            count += 1
        bias = example(op_type)[0].graph.initializers.get("b")
        result = result if bias is None else result + bias.const_value.numpy()
        np.testing.assert_allclose(run(op_type)["y"], result, rtol=1e-4, atol=1e-4)
        assert OPS[op_type].macs(node, shape_of) == count

    @pytest.mark.parametrize(("op_type", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
    def test_recurrent(self, op_type, gates):
        steps, batch, size, hidden = 5, 2, 4, 3
        node, shape_of = shapes(op_type)
        assert run(op_type)["y"].shape == (steps, 1, batch, hidden)
        per_unit = size + hidden
        assert OPS[op_type].macs(node, shape_of) == steps * batch * gates * hidden * per_unit

    def test_gemm_with_transposed_data(self):
        text = """<ir_version: 8, opset_import: ["": 17]>
            g (float[4,3] x) => (float[3,5] y) <float[4,5] w> { y = Gemm<transA=1>(x, w) }"""
        (node,) = iter_nodes(load(parse(text)))
        sizes = {"x": (4, 3), "w": (4, 5), "y": (3, 5)}
        assert OPS["Gemm"].macs(node, lambda v: sizes[v.name]) == 3 * 5 * 4

    def test_matrix_times_vector(self):
        text = """<ir_version: 8, opset_import: ["": 17]>
            g (float[3,4] x) => (float[3] y) <float[4] w> { y = MatMul(x, w) }"""
        (node,) = iter_nodes(load(parse(text)))
        sizes = {"x": (3, 4), "w": (4,), "y": (3,)}
        assert OPS["MatMul"].macs(node, lambda v: sizes[v.name]) == 12

    @pytest.mark.parametrize("op_type", [name for name in ROWS if OPS[name].macs])
    def test_unknown_shapes_give_none(self, op_type):
        _, node = example(op_type)
        assert OPS[op_type].macs(node, lambda _value: None) is None


@pytest.mark.parametrize("op_type", ["Conv", "Gemm", "MatMul"])
def test_channel_axis_is_the_outputs(op_type):
    """Scaling one slice of the weight along the axis scales one channel of the output."""
    model, node = example(op_type)
    axis = OPS[op_type].quant.channel_axis(node)
    weight = model.graph.initializers["w"]
    array = weight.const_value.numpy().copy()
    before = run_all(model, [data(op_type)])[0]["y"]
    index = [slice(None)] * array.ndim
    index[axis] = 1
    array[tuple(index)] += 1
    weight.const_value = ir.tensor(array, name="w")
    changed = ~np.isclose(run_all(model, [data(op_type)])[0]["y"], before)
    channels = np.moveaxis(changed, 1 if op_type == "Conv" else -1, 0)
    assert [bool(channel.any()) for channel in channels] == [c == 1 for c in range(len(channels))]
