"""One small network per channel rule: maps and layouts; and those of the other files."""

from __future__ import annotations

from tests.topologies import constant_cases, product_cases
from tests.topologies.axis_nets import AXES
from tests.topologies.constant_nets import CONSTANTS
from tests.topologies.layout_nets import LAYOUTS
from tests.topologies.net import BACK, EIGHT, FRONT, W1, Net, between, rows
from tests.topologies.product_nets import PRODUCTS

NETS: dict[str, Net] = {
    **CONSTANTS,
    **constant_cases.CASES,
    **PRODUCTS,
    **product_cases.CASES,
    **LAYOUTS,
    **AXES,
    "conv": between("d = Relu(c)"),
    "conv 1-d": Net(
        "c = Conv(x, w1, b1) d = Relu(c) y = Conv<dilations=[2]>(d, w2)",
        "float[8,3,3] w1, float[8] b1, float[4,8,3] w2",
        [8],
        inputs="float[n,3,12] x",
        outputs="float[n,o1,o2] y",
    ),
    "conv 3-d": Net(
        "c = Conv(x, w1) y = Conv(c, w2)",
        "float[6,2,2,2,2] w1, float[4,6,1,1,1] w2",
        [6],
        inputs="float[n,2,4,4,4] x",
        outputs="float[n,o1,o2,o3,o4] y",
    ),
    "grouped conv": between(
        "e = Conv<group=2, pads=[1,1,1,1]>(c, wg, bg) d = Sigmoid(e)",
        "float[8,4,3,3] wg, float[8] bg",
        (4, 4),
    ),
    "depthwise": between(
        "d = Conv<group=8, pads=[1,1,1,1]>(c, wd, bd)", "float[8,1,3,3] wd, float[8] bd"
    ),
    "depthwise with multiplier": Net(
        f"{FRONT} d = Conv<group=8>(c, wd, bd) {BACK}",
        f"{W1}, float[16,1,3,3] wd, float[16] bd, float[4,16,1,1] w2",
        [8],
    ),
    "conv transpose": between(
        "d = ConvTranspose<strides=[2,2]>(c, wt, bt)", "float[8,8,2,2] wt, float[8] bt", (8, 8)
    ),
    "conv transpose, grouped": between(
        "d = ConvTranspose<group=4>(c, wt, bt)", "float[8,2,2,2] wt, float[8] bt", (2, 2)
    ),
    "conv transpose, depthwise": Net(
        f"{FRONT} d = ConvTranspose<group=8>(c, wt) {BACK}",
        f"{W1}, float[8,2,2,2] wt, float[4,16,1,1] w2",
        [8],
    ),
    "computed conv weight": between(
        "k = Relu(v) e = Conv(c, k) d = Relu(e)",
        free=(),
        inputs="float[n,3,6,6] x, float[8,8,1,1] v",
        reason="weight is computed",
    ),
    "batch normalization": between(
        "e = BatchNormalization(c, s, b, m, v) d = Sigmoid(e)",
        "float[8] s, float[8] b, float[8] m, float[8] v = {1, 2, 3, 1, 2, 3, 4, 5}",
    ),
    "instance normalization": between(
        "e = InstanceNormalization(c, s, b) d = Tanh(e)", "float[8] s, float[8] b"
    ),
    "group normalization 18": between(
        "d = GroupNormalization<num_groups=4>(c, s, b)", "float[4] s, float[4] b", (4,), opset=18
    ),
    "group normalization 21": between(
        "d = GroupNormalization<num_groups=4>(c, s, b)", "float[8] s, float[8] b", (4,), opset=21
    ),
    "layer normalization": rows(
        "d = LayerNormalization(c, s, b)", "float[8] s, float[8] b", (), reason="normalised over"
    ),
    "layer normalization elsewhere": rows(
        "t = Transpose<perm=[0,2,1]>(c) l = LayerNormalization(t, s) "
        "d = Transpose<perm=[0,2,1]>(l)",
        "float[5] s",
    ),
    "prelu": between("d = PRelu(c, s)", "float[8,1,1] s"),
    "sum and product": between(
        "e = Conv(x, w3) f = Add(c, e) g = Mul(f, c) d = Sum(g, e, c)", "float[8,3,1,1] w3"
    ),
    "divisor": between("d = Div(c, v)", "float[1,8,1,1] v = {1, 2, 3, 4, 5, 6, 7, 8}"),
    "constant vectors": between(
        "e = Add(c, a) f = Mul(e, k) g = Sub(f, one) d = Where(yes, g, c)",
        "float[8,1,1] a, float[1,8,1,1] k, float one, bool[8,1,1] yes = {1,0,1,0,1,0,1,0}",
    ),
    "clip, cast, dropout": between(
        "e = Clip(c, low, high) f = Cast<to=11>(e) g = Cast<to=1>(f) d = Dropout(g)",
        "float low = {-1}, float high = {1}",
    ),
    "meets an input": between(
        "d = Add(c, z)", free=(), inputs="float[n,3,6,6] x, float[n,8,6,6] z", reason="'z'"
    ),
    "meets an input of one channel": between(
        "d = Add(c, z)", inputs="float[n,3,6,6] x, float[n,1,6,6] z"
    ),
    "meets an input in part": Net(
        f"{FRONT} e = Concat<axis=1>(x, c) f = Conv(x, w3) d = Add(e, f) {BACK}",
        f"{W1}, float[11,3,1,1] w3, float[4,11,1,1] w2",
        [8],
        reason="tied to positions",
    ),
    "gate": between(
        "p = GlobalAveragePool(c) q = Conv(p, wq, bq) r = Relu(q) s = Conv(r, ws) "
        "h = HardSigmoid(s) d = Mul(c, h)",
        "float[5,8,1,1] wq, float[5] bq, float[8,5,1,1] ws",
        (5, 8),
    ),
    "pools": between(
        "e = MaxPool<kernel_shape=[2,2]>(c) f = AveragePool<kernel_shape=[2,2]>(e) "
        "g = LpPool<kernel_shape=[2,2]>(f) d = GlobalMaxPool(g)"
    ),
    "reduce space": between("d = ReduceMean(c, axes)", "int64[2] axes = {2, -1}"),
    "reduce channels": between(
        "d = ReduceMean<keepdims=1>(c, axes) z = Conv(c, w3)",
        "int64[1] axes = {1}, float[2,8,1,1] w3",
        (),
        reason="reduced over",
    )._replace(
        nodes=f"{FRONT} d = ReduceMean<keepdims=1>(c, axes) y = Conv(c, w3) z = Relu(d)",
        weights=f"{W1}, int64[1] axes = {{1}}, float[2,8,1,1] w3",
        outputs="float[n,o1,o2,o3] y, float[n,1,6,6] z",
    ),
    "arg max": Net(
        f"{FRONT} y = ArgMax<axis=1>(c)", W1, [], outputs="int64[n,o1,o2,o3] y", reason="searched"
    ),
    "softmax": between("d = Softmax<axis=1>(c)", free=(), reason="softmax"),
    "softmax elsewhere": between("d = Softmax<axis=3>(c)"),
    "softmax before 13": between("d = Softmax<axis=1>(c)", free=(), opset=11, reason="softmax"),
    "lrn": between("d = LRN<size=3>(c)", free=(), reason="response"),
    "top k": between("d, i = TopK<axis=1>(c, k)", "int64[1] k = {8}", (), reason="largest"),
    "cumulative sum": between("d = CumSum(c, a)", "int64 a = {1}", (), reason="along its axis"),
    "cumulative sum elsewhere": between("d = CumSum(c, a)", "int64 a = {2}"),
    "resize": between('d = Resize<mode="linear">(c, "", s)', "float[4] s = {1, 1, 2, 2}"),
    "resize to sizes": between(
        'd = Resize<mode="nearest">(c, "", "", s)',
        "int64[4] s = {1, 8, 12, 9}",
        inputs="float[1,3,6,6] x",
        outputs="float[1,o1,o2,o3] y",
    ),
    "concat": Net(
        f"{FRONT} e = Conv(x, w3) d = Concat<axis=1>(e, c, x, c) y = Conv(d, w2)",
        f"{W1}, float[5,3,1,1] w3, float[4,24,1,1] w2",
        [5, 8],
    ),
    "concat over space": between(
        "d = Concat<axis=2>(c, k, c)",
        "float[1,8,1,6] k",
        inputs="float[1,3,6,6] x",
        outputs="float[1,o1,o2,o3] y",
    ),
    "split": between(
        "e, f = Split<axis=1>(c, s) g = Relu(e) d = Concat<axis=1>(f, g)",
        "int64[2] s = {3, 5}",
        (3, 5),
    ),
    "split in equal parts": Net(
        f"{FRONT} e, f = Split<axis=1, num_outputs=2>(c) g = Sigmoid(e) d = Mul(f, g) {BACK}",
        f"{W1}, float[4,4,1,1] w2",
        [4],
    ),
    "split 11": Net(
        f"{FRONT} e, f = Split<axis=1, split=[3,5]>(c) y = Conv(f, w2) z = Conv(e, w3)",
        f"{W1}, float[4,5,1,1] w2, float[2,3,1,1] w3",
        [3, 5],
        opset=11,
        outputs="float[n,o1,o2,o3] y, float[n,p1,p2,p3] z",
    ),
    "slice": Net(
        f"{FRONT} e = Slice(c, s, t, a) f = Slice(c, t, u, a) d = Concat<axis=1>(f, e) {BACK}",
        f"{EIGHT}, int64[1] s = {{0}}, int64[1] t = {{3}}, int64[1] u = {{9999999}}, "
        "int64[1] a = {1}",
        [3, 5],
    ),
    "slice from the end": Net(
        f"{FRONT} d = Slice(c, s, u, a) {BACK}",
        f"{W1}, float[4,4,1,1] w2, int64[1] s = {{-5}}, int64[1] u = {{-1}}, int64[1] a = {{-3}}",
        [4, 4],
    ),
    "slice 9": Net(
        f"{FRONT} d = Slice<starts=[2,1], ends=[7,5], axes=[1,2]>(c) {BACK}",
        f"{W1}, float[4,5,1,1] w2",
        [3, 5],
        opset=9,
    ),
    "slice with a step": Net(
        f"{FRONT} d = Slice(c, s, u, a, k) {BACK}",
        f"{W1}, float[4,4,1,1] w2, int64[1] s = {{0}}, int64[1] u = {{8}}, int64[1] a = {{1}}, "
        "int64[1] k = {2}",
        [],
        reason="step",
    ),
    "gather": Net(
        f"{FRONT} d = Gather<axis=1>(c, i) {BACK}",
        f"{W1}, int64[5] i = {{7, 2, 2, 0, 5}}, float[4,5,1,1] w2",
        [4, 4],
    ),
    "gather one": Net(
        f"{FRONT} d = Gather<axis=1>(c, i) e = Unsqueeze(d, a) y = Mul(e, e)",
        f"{W1}, int64 i = {{3}}, int64[1] a = {{1}}",
        [],
        reason="picked",
    ),
    "gather computed places": Net(
        f"{FRONT} y = Gather<axis=1>(c, i)",
        W1,
        [],
        inputs="float[n,3,6,6] x, int64[5] i",
        outputs="float[n,5,o2,o3] y",
        reason="computed indices",
    ),
    "units as indices": Net(
        "c = MatMul(x, w) i = Cast<to=7>(c) y = Gather(table, i)",
        "float[3,8] w, float[10] table",
        [],
        inputs="float[n,3] x",
        outputs="float[n,8] y",
        reason="index",
    ),
    "units as a conv weight": Net(
        "h = MatMul(z, w) k = Reshape(h, s) y = Conv(x, k)",
        "float[4,24] w, int64[4] s = {8, 3, 1, 1}",
        [],
        inputs="float[1,3,6,6] x, float[1,4] z",
        outputs="float[1,8,6,6] y",
        reason="convolution's weight",
    ),
    "gather elsewhere": between("d = Gather<axis=2>(c, i)", "int64[2] i = {1, 3}"),
    "embedding": Net(
        "e = Gather(table, x) y = MatMul(e, w)",
        "float[10,8] table, float[8,4] w",
        [8],
        inputs="int64[n,5] x",
        outputs="float[n,o1,o2] y",
    ),
    "pad": Net(
        f"{FRONT} e = Pad(c, p) d = Add(e, f) f = Conv(x, w3) {BACK}".replace(
            "d = Add(e, f) f = Conv(x, w3)", "f = Conv(x, w3) d = Add(e, f)"
        ),
        f"{W1}, int64[8] p = {{0, 1, 0, 0, 0, 2, 0, 0}}, float[11,3,1,1] w3, float[4,11,1,1] w2",
        [3, 8],
    ),
    "pad space": between('d = Pad<mode="reflect">(c, p)', "int64[8] p = {0,0,1,1,0,0,1,1}"),
    "reflect channels": Net(
        f'{FRONT} d = Pad<mode="reflect">(c, p) {BACK}',
        f"{W1}, int64[8] p = {{0, 1, 0, 0, 0, 0, 0, 0}}, float[4,9,1,1] w2",
        [],
        reason="padded",
    ),
    "flatten": Net(
        f"{FRONT} f = Flatten(c) y = Gemm<transB=1>(f, w, b)",
        f"{W1}, float[4,288] w, float[4] b",
        [8],
        outputs="float[n,4] y",
    ),
    "reshape to rows": Net(
        f"{FRONT} r = Reshape(c, s) t = Transpose<perm=[0,2,1]>(r) y = MatMul(t, w)",
        f"{W1}, int64[3] s = {{0, 8, 36}}, float[8,4] w",
        [8],
        outputs="float[n,o1,o2] y",
    ),
    "reshape with shared target": Net(
        f"{FRONT} r = Reshape(c, s) t = Reshape(x, s2) u = Concat<axis=1>(t, r) "
        "v = Reshape(u, s) y = MatMul(v, w)",
        f"{W1}, int64[3] s = {{1, -1, 36}}, int64[3] s2 = {{1, 3, 36}}, float[36,4] w",
        [],
        inputs="float[1,3,6,6] x",
        outputs="float[1,11,4] y",
    ),
    "squeeze": Net(
        f"{FRONT} p = GlobalAveragePool(c) s = Squeeze(p, a) u = Unsqueeze(s, b) "
        "e = Squeeze(u, b) y = MatMul(e, w)",
        f"{W1}, int64[2] a = {{2, 3}}, int64[1] b = {{0}}, float[8,4] w",
        [8],
        outputs="float[n,4] y",
    ),
    "expand": Net(
        f"{FRONT} p = GlobalAveragePool(c) d = Expand(p, s) {BACK}",
        f"{EIGHT}, int64[4] s = {{1, 8, 3, 3}}",
        [8],
    ),
    "tile": Net(
        f"{FRONT} d = Tile(c, r) {BACK}",
        f"{W1}, int64[4] r = {{1, 2, 1, 2}}, float[4,16,1,1] w2",
        [8],
    ),
    "channel shuffle": between(
        "r = Reshape(c, s) t = Transpose<perm=[0,2,1,3,4]>(r) d = Reshape(t, u)",
        "int64[5] s = {0, 2, 4, 6, 6}, int64[4] u = {0, 8, 6, 6}",
        (4,),
    ),
    "shuffle after a grouped conv": between(
        "g = Conv<group=2>(c, wg) r = Reshape(g, s) t = Transpose<perm=[0,2,1,3,4]>(r) "
        "d = Reshape(t, u)",
        "float[8,4,1,1] wg, int64[5] s = {0, 2, 4, 6, 6}, int64[4] u = {0, -1, 6, 6}",
        (4, 4),
    ),
    "depth to space": Net(
        f"{FRONT} d = DepthToSpace<blocksize=2>(c) {BACK}", f"{W1}, float[4,2,1,1] w2", [2]
    ),
    "depth to space, columns": Net(
        f'{FRONT} d = DepthToSpace<blocksize=2, mode="CRD">(c) {BACK}',
        f"{W1}, float[4,2,1,1] w2",
        [2],
    ),
    "space to depth": Net(
        f"{FRONT} d = SpaceToDepth<blocksize=2>(c) {BACK}", f"{W1}, float[4,32,1,1] w2", [8]
    ),
}
