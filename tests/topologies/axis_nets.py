"""Networks whose units lie on another axis than the channels', or on several."""

from __future__ import annotations

from tests.topologies.net import BACK, FRONT, W1, Net, between, rows

ROW = "Transpose<perm=[0,2,1,3]>"
BATCH = "Transpose<perm=[1,0,2,3]>"
ONE = {"inputs": "float[1,3,6,6] x", "outputs": "float[1,o1,o2,o3] y"}


def as_rows(call: str, more: str = "", free: tuple[int, ...] = (), **other: object) -> Net:
    """`call` on `t`, of which the units are the rows."""
    return between(f"t = {ROW}(c) e = {call} d = {ROW}(e)", more, free, **other)


def as_batch(call: str, more: str = "", free: tuple[int, ...] = (8,), **other: object) -> Net:
    """`call` on `t`, of which the units are the samples."""
    return between(f"t = {BATCH}(c) e = {call} d = {BATCH}(e)", more, free, **other)


def as_grid(call: str, more: str, *, before: str = "", **other: object) -> Net:
    """`call` on `t` of shape [n,2,4,6,6], of which the units lie on two axes."""
    grid = "int64[5] grid = {0, 2, 4, 6, 6}, int64[4] flat = {0, -1, 6, 6}"
    return between(
        f"t = Reshape(c, grid) {before} e = {call} d = Reshape(e, flat)",
        f"{grid}, {more}",
        (2,),
        **other,
    )


SIX = "float[6] s, float[6] b"
TWO = "float[2] s, float[2] b"

AXES: dict[str, Net] = {
    "convolution over units": as_rows("Conv(t, wr)", "float[6,6,1,1] wr", reason="slides over"),
    "pool over units": as_rows("MaxPool<kernel_shape=[1,1]>(t)", reason="slides over"),
    "pool of units as samples": as_batch("MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(t)"),
    "resize of units": as_rows(
        'Resize<mode="nearest">(t, "", s)', "float[4] s = {1, 1, 1, 2}", (8,)
    ),
    "resize over units": Net(
        f'{FRONT} t = {ROW}(c) d = Resize<mode="nearest">(t, "", s) y = Conv(d, w2)',
        f"{W1}, float[4] s = {{1, 1, 2, 1}}, float[4,6,1,1] w2",
        [],
        reason="axis is resized",
    ),
    "blocks of units": Net(
        f"{FRONT} t = {ROW}(c) d = SpaceToDepth<blocksize=2>(t) {BACK}",
        f"{W1}, float[4,24,1,1] w2",
        [],
        reason="divided into blocks",
    ),
    "units into blocks": Net(
        f"{FRONT} t = {ROW}(c) u = Concat<axis=1>(t, t) d = DepthToSpace<blocksize=2>(u) {BACK}",
        f"{W1}, float[4,3,1,1] w2",
        [],
        reason="divided into blocks",
    ),
    "batch normalization over units": as_rows(
        "BatchNormalization(t, s, b, s, v)",
        f"{SIX}, float[6] v = {{1, 2, 3, 4, 5, 6}}",
        reason="not the channel axis",
    ),
    "batch normalization of groups": as_grid(
        "BatchNormalization(t, s, b, s, v)", f"{TWO}, float[2] v = {{1, 2}}"
    ),
    "instance normalization over units": as_rows(
        "InstanceNormalization(t, s, b)", SIX, reason="normalised over"
    ),
    "instance normalization of samples": as_batch(
        "InstanceNormalization(t, s, b)", "float[1] s, float[1] b", **ONE
    ),
    "instance normalization of groups": as_grid("InstanceNormalization(t, s, b)", TWO),
    "group normalization over units": as_rows(
        "GroupNormalization<num_groups=2>(t, s, b)", SIX, opset=21, reason="normalised over"
    ),
    "group normalization of samples": as_batch(
        "GroupNormalization<num_groups=1>(t, s, b)", "float[1] s, float[1] b", opset=21, **ONE
    ),
    "moments of layer normalization": rows(
        "t = Transpose<perm=[0,2,1]>(c) l, m, r = LayerNormalization(t, s) a = Add(l, m) "
        "e = Mul(a, r) d = Transpose<perm=[0,2,1]>(e)",
        "float[5] s",
    ),
    "softmax 12 over all": between("d = Softmax<axis=0>(c)", free=(), opset=12, reason="softmax"),
    "softmax 12 over the last": rows(
        "t = Transpose<perm=[0,2,1]>(c) e = Softmax<axis=2>(t) d = Transpose<perm=[0,2,1]>(e)",
        opset=12,
    ),
    "softmax 12 by default": rows(
        "t = Transpose<perm=[0,2,1]>(c) e = Softmax(t) d = Transpose<perm=[0,2,1]>(e)",
        free=(),
        opset=12,
        reason="softmax",
    ),
    "softmax 13": between("d = Softmax<axis=0>(c)", opset=13),
    "softmax 13 by default": rows("d = Softmax(c)", free=(), opset=13, reason="softmax"),
    "norm over units": between("d = LpNormalization<axis=1>(c)", free=(), reason="along its axis"),
    "norm elsewhere": between("d = LpNormalization<axis=-1>(c)"),
    "norm along no given axis": between("d = LpNormalization(c)", free=(), reason="along its axis"),
    "cumulative sum along a computed axis": between(
        "s = Size(k) e = Sub(s, one) d = CumSum(c, e)",
        "int64 one = {1}",
        (),
        inputs="float[n,3,6,6] x, float[3] k",
        reason="along its axis",
    ),
    "top k elsewhere": between(
        "v, i = TopK<axis=2>(c, k) j = Cast<to=1>(i) d = Mul(v, j)", "int64[1] k = {2}"
    ),
    "top k by default": rows("d, i = TopK(c, k)", "int64[1] k = {8}", (), reason="largest"),
    "arg max elsewhere": between("e = ArgMax<axis=-1>(c) d = Cast<to=1>(e)"),
    "arg max by default": Net(
        f"{FRONT} t = {BATCH}(c) y = ArgMax(t)",
        W1,
        [],
        outputs="int64[1,n,6,6] y",
        reason="searched",
    ),
    "arg min without its axis": Net(
        "c = Conv(x, w1, b1) e = ArgMin<axis=2, keepdims=0>(c) d = Cast<to=1>(e) y = Conv(d, w2)",
        "float[8,3,1,1] w1, float[8] b1, float[4,8,1] w2",
        [8],
        outputs="float[n,o1,o2] y",
    ),
    "reduce without its axes": Net(
        f"{FRONT} d = ReduceSum<keepdims=0>(c, axes) y = MatMul(d, w2)",
        f"{W1}, int64[2] axes = {{2, -1}}, float[8,4] w2",
        [8],
        outputs="float[n,o1] y",
    ),
    "reduce 17": between("d = ReduceMean<axes=[2,3]>(c)", opset=17),
    "reduce everything": between(
        'e = ReduceMean(c, "") d = Add(c, e)', free=(), reason="reduced over"
    ),
    "reduce everything 17": between(
        "e = ReduceMean(c) d = Add(c, e)", free=(), opset=17, reason="reduced over"
    ),
    "reduce nothing": between("d = ReduceSum<noop_with_empty_axes=1>(c)"),
    "reduce over computed axes": between(
        "s = Size(k) e = Unsqueeze(s, zero) f = ReduceSum(c, e) d = Add(c, f)",
        "int64[1] zero = {0}",
        (),
        inputs="float[n,3,6,6] x, float[3] k",
        reason="axes of its reduction are computed",
    ),
    "quantized along the default axis": between(
        "q = QuantizeLinear(c, s) d = DequantizeLinear(q, s)",
        "float[8] s = {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8}",
    ),
    "quantized groups": as_grid(
        "DequantizeLinear(q, s)", "float[2] s = {0.1, 0.2}", before="q = QuantizeLinear(t, s)"
    ),
    "quantized in blocks": between(
        "q = QuantizeLinear<axis=1, block_size=4>(c, s) "
        "d = DequantizeLinear<axis=1, block_size=4>(q, s)",
        "float[1,2,6,6] s",
        (),
        opset=21,
        reason="quantized in blocks",
        **ONE,
    ),
    "rnn over units": Net(
        "c = MatMul(x, w1) t = Transpose<perm=[2,1,0]>(c) h = RNN<hidden_size=6>(t, w, r) "
        "y = Relu(h)",
        "float[3,8] w1, float[1,6,5] w, float[1,6,6] r",
        [],
        inputs="float[5,2,3] x",
        outputs="float[8,1,2,6] y",
        reason="runs over its axis",
    ),
    "batch normalization in training": between(
        "d, e, f = BatchNormalization<training_mode=1>(c, s, b, m, v)",
        "float[8] s, float[8] b, float[8] m, float[8] v",
        (),
        reason="training mode",
    ),
    "batch normalization in training, alone": between(
        "d = BatchNormalization<training_mode=1>(c, s, b, m, v)",
        "float[8] s, float[8] b, float[8] m, float[8] v",
        (),
        reason="training mode",
    ),
    "batch normalization 9 in training": between(
        "d, e, f, g, h = BatchNormalization(c, s, b, m, v)",
        "float[8] s, float[8] b, float[8] m, float[8] v",
        (),
        opset=9,
        reason="training mode",
    ),
    "softmax of groups": between(
        "t = Reshape(c, grid) u = BatchNormalization(t, s, b, s, v) e = Softmax<axis=1>(u) "
        "d = Reshape(e, flat)",
        f"{TWO}, float[2] v = {{1, 2}}, int64[5] grid = {{0, 2, 4, 6, 6}}, "
        "int64[4] flat = {0, -1, 6, 6}",
        (),
        reason="softmax",
    ),
    "quantized grid of one scale": between(
        "t = Reshape(c, grid) q = QuantizeLinear(t, s) e = DequantizeLinear(q, s) "
        "d = Reshape(e, flat)",
        "float[1] s = {0.1}, int64[5] grid = {0, 2, 4, 6, 6}, int64[4] flat = {0, -1, 6, 6}",
        (4,),
    ),
    "quantized rows in blocks": Net(
        "c = MatMul(x, w1) q = QuantizeLinear<axis=1, block_size=4>(c, s) "
        "d = DequantizeLinear<axis=1, block_size=4>(q, s) y = MatMul(d, w2)",
        "float[3,8] w1, float[8,4] w2, float[5,2] s",
        [],
        inputs="float[5,3] x",
        outputs="float[5,4] y",
        opset=21,
        reason="quantized in blocks",
    ),
    "softmax of instance groups": between(
        "t = Reshape(c, grid) u = InstanceNormalization(t, s, b) e = Softmax<axis=1>(u) "
        "d = Reshape(e, flat)",
        f"{TWO}, int64[5] grid = {{0, 2, 4, 6, 6}}, int64[4] flat = {{0, -1, 6, 6}}",
        (),
        reason="softmax",
    ),
    "group normalization of groups": as_grid(
        "GroupNormalization<num_groups=2>(t, s, b)", TWO, opset=21
    ),
    "constant of groups": as_grid("Add(t, k)", "float[2,1,1,1] k"),
    "layer normalization from units on": rows(
        "t = Transpose<perm=[0,2,1]>(c) l = LayerNormalization<axis=1>(t, s) "
        "d = Transpose<perm=[0,2,1]>(l)",
        "float[8,5] s",
        (),
        reason="normalised over",
    ),
    "product elsewhere": rows(
        "t = Transpose<perm=[0,2,1]>(c) m = MatMul(t, w3) d = Transpose<perm=[0,2,1]>(m)",
        "float[5,5] w3",
    ),
    "batch normalization of one row": Net(
        "c = MatMul(x, w1) d = BatchNormalization(c, s, b, m, v) y = MatMul(d, w2)",
        "float[3,8] w1, float[8,4] w2, float[8] s, float[8] b, float[8] m, "
        "float[8] v = {1, 2, 3, 4, 5, 6, 7, 8}",
        [8],
        inputs="float[n,3] x",
        outputs="float[n,4] y",
    ),
    "softmax 12 of samples by default": as_batch("Softmax(t)", opset=12),
    "softmax of quantized groups": between(
        "t = Reshape(c, grid) q = QuantizeLinear(t, s) u = DequantizeLinear(q, s) "
        "e = Softmax<axis=1>(u) d = Reshape(e, flat)",
        "float[2] s = {1, 2}, int64[5] grid = {0, 2, 4, 6, 6}, int64[4] flat = {0, -1, 6, 6}",
        (),
        reason="softmax",
    ),
    "quantized along the last axis": rows(
        "q = QuantizeLinear<axis=-1>(c, s) d = DequantizeLinear<axis=2>(q, s)",
        "float[8] s = {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8}",
    ),
    "values quantized along another axis": between(
        "q = QuantizeLinear<axis=2>(c, s) d = DequantizeLinear<axis=2>(q, s)",
        "float[6] s = {1, 2, 3, 1, 2, 3}",
    ),
}
