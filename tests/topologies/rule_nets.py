"""One small network per channel rule, as ONNX text, with the units that may be removed.

Each entry: opset, inputs, outputs, weights, nodes, and the sizes of the groups of units
that are free to go. `parse` fills weights without values at random.
"""

from __future__ import annotations

from typing import NamedTuple


class Net(NamedTuple):
    """A network by its parts; `free` are the sizes of its free groups, ascending."""

    nodes: str
    weights: str
    free: list[int]
    inputs: str = "float[n,3,6,6] x"
    outputs: str = "float[n,o1,o2,o3] y"
    opset: int = 18
    reason: str = ""

    @property
    def text(self) -> str:
        """The ONNX text."""
        return f"""<ir_version: 10, opset_import: ["": {self.opset}]>
            g ({self.inputs}) => ({self.outputs}) <{self.weights}> {{ {self.nodes} }}"""


#: A convolution in front, `c` with 8 channels, and one behind that reads `d`.
FRONT = "c = Conv(x, w1, b1)"
W1 = "float[8,3,1,1] w1, float[8] b1"
BACK = "y = Conv(d, w2)"
W2 = "float[4,8,1,1] w2"
EIGHT = f"{W1}, {W2}"
#: Two matrix products around `c`, [n, 5, 8].
ROWS = {"inputs": "float[n,5,3] x", "outputs": "float[n,o1,o2] y"}
MW = "float[3,8] w1, float[8,4] w2"


def between(nodes: str, more: str = "", free: tuple[int, ...] = (8,), **other: object) -> Net:
    """A net with `nodes` from `c` to `d` between two convolutions."""
    weights = f"{EIGHT}, {more}" if more else EIGHT
    return Net(f"{FRONT} {nodes} {BACK}", weights, list(free), **other)  # type: ignore[arg-type]


def rows(nodes: str, more: str = "", free: tuple[int, ...] = (8,), **other: object) -> Net:
    """A net with `nodes` from `c` to `d` between two matrix products."""
    weights = f"{MW}, {more}" if more else MW
    body = f"c = MatMul(x, w1) {nodes} y = MatMul(d, w2)"
    return Net(body, weights, list(free), **(ROWS | other))  # type: ignore[arg-type]


NETS: dict[str, Net] = {
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
    "matmul": rows("d = Gelu(c)", opset=20),
    "matmul with bias": rows("e = Add(b, c) d = Relu(e)", "float[8] b"),
    "constant on the left": Net(
        "c = MatMul(w1, x) d = Relu(c) y = MatMul(w2, d)",
        "float[8,5] w1, float[4,8] w2",
        [8],
        **ROWS,
    ),
    "stacked weights": Net(
        "c = MatMul(x, w1) d = Relu(c) y = MatMul(d, w2)",
        "float[2,3,8] w1, float[2,8,4] w2",
        [8],
        inputs="float[n,2,5,3] x",
    ),
    "gemm": Net(
        "c = Gemm(x, w1, b1) d = Relu(c) y = Gemm<transB=1, alpha=0.5>(d, w2, b2)",
        "float[3,8] w1, float[8] b1, float[4,8] w2, float[4] b2",
        [8],
        inputs="float[n,3] x",
        outputs="float[n,4] y",
    ),
    "gemm of the transposed": Net(
        "c = Gemm<transA=1>(w1, x) t = Transpose<perm=[1,0]>(c) y = Gemm<transA=1>(w2, c)",
        "float[3,8] w1, float[8,4] w2",
        [8],
        inputs="float[3,5] x",
        outputs="float[4,5] y",
    ),
    "gemm plus computed": Net(
        "c = Gemm(x, w1, b1) e = Gemm(x, w3, c) y = MatMul(e, w2)",
        "float[3,8] w1, float[8] b1, float[3,8] w3, float[8,4] w2",
        [8],
        inputs="float[n,3] x",
        outputs="float[n,4] y",
    ),
    "einsum": Net(
        'c = Einsum<equation="bij,jk->bik">(x, w1) d = Relu(c) '
        'y = Einsum<equation="bij,kj->bik">(d, w2)',
        "float[3,8] w1, float[4,8] w2",
        [8],
        **ROWS,
    ),
    "einsum heads": Net(
        'q = Einsum<equation="bnc,chd->bnhd">(x, w1) k = Einsum<equation="bnc,chd->bnhd">(x, w3) '
        'a = Einsum<equation="bnhd,bmhd->bhnm">(q, k) s = Softmax(a) '
        'v = Einsum<equation="bnc,chd->bnhd">(x, w4) '
        'o = Einsum<equation="bhnm,bmhd->bnhd">(s, v) y = Einsum<equation="bnhd,hdc->bnc">(o, w2)',
        "float[3,4,2] w1, float[3,4,2] w3, float[3,4,2] w4, float[4,2,3] w2",
        [4],
        **ROWS,
    ),
    "attention": Net(
        "q0 = MatMul(x, wq) q1 = Add(q0, bq) q2 = Reshape(q1, s) q = Transpose<perm=[0,2,1,3]>(q2) "
        "k0 = MatMul(x, wk) k2 = Reshape(k0, s) k = Transpose<perm=[0,2,3,1]>(k2) "
        "v0 = MatMul(x, wv) v2 = Reshape(v0, s) v = Transpose<perm=[0,2,1,3]>(v2) "
        "a0 = MatMul(q, k) a1 = Div(a0, r) a = Softmax<axis=-1>(a1) o0 = MatMul(a, v) "
        "o1 = Transpose<perm=[0,2,1,3]>(o0) o = Reshape(o1, u) y = MatMul(o, wo)",
        "float[3,12] wq, float[12] bq, float[3,12] wk, float[3,12] wv, float[12,3] wo, "
        "float r = {1.4}, int64[4] s = {0, 0, 4, 3}, int64[3] u = {0, 0, 12}",
        [4],
        **ROWS,
    ),
    "attention, fused": Net(
        "p = MatMul(x, w) p1 = Add(p, b) p2 = Reshape(p1, s) p3 = Transpose<perm=[2,0,3,1,4]>(p2) "
        "q = Gather<axis=0>(p3, zero) k = Gather<axis=0>(p3, one) v = Gather<axis=0>(p3, two) "
        "kt = Transpose<perm=[0,1,3,2]>(k) a0 = MatMul(q, kt) a = Softmax<axis=-1>(a0) "
        "o0 = MatMul(a, v) o1 = Transpose<perm=[0,2,1,3]>(o0) o = Reshape(o1, u) y = MatMul(o, wo)",
        "float[3,36] w, float[36] b, float[12,3] wo, int64 zero = {0}, int64 one = {1}, "
        "int64 two = {2}, int64[5] s = {0, 0, 3, 4, 3}, int64[3] u = {0, 0, 12}",
        [4],
        **ROWS,
    ),
    "attention, split, one head": Net(
        "p = MatMul(x, w) q, k, v = Split<axis=2>(p, s) kt = Transpose<perm=[0,2,1]>(k) "
        "a0 = MatMul(q, kt) a = Softmax<axis=-1>(a0) o = MatMul(a, v) y = MatMul(o, wo)",
        "float[3,14] w, int64[3] s = {4, 4, 6}, float[6,3] wo",
        [4, 6],
        **ROWS,
    ),
    "attention, grouped queries": Net(
        "q0 = MatMul(x, wq) q2 = Reshape(q0, s) q = Transpose<perm=[0,2,1,3]>(q2) "
        "k0 = MatMul(x, wk) k2 = Reshape(k0, sk) k3 = Transpose<perm=[0,2,3,1]>(k2) "
        "k4 = Unsqueeze(k3, two) k5 = Expand(k4, ek) k = Reshape(k5, rk) "
        "v0 = MatMul(x, wv) v2 = Reshape(v0, sk) v3 = Transpose<perm=[0,2,1,3]>(v2) "
        "v4 = Unsqueeze(v3, two) v5 = Expand(v4, ev) v = Reshape(v5, rv) "
        "a0 = MatMul(q, k) a = Softmax<axis=-1>(a0) o0 = MatMul(a, v) "
        "o1 = Transpose<perm=[0,2,1,3]>(o0) o = Reshape(o1, u) y = MatMul(o, wo)",
        "float[3,18] wq, float[3,9] wk, float[3,9] wv, float[18,3] wo, int64[1] two = {2}, "
        "int64[4] s = {0, 0, 6, 3}, int64[4] sk = {0, 0, 3, 3}, int64[5] ek = {1, 3, 2, 3, 5}, "
        "int64[4] rk = {0, 6, 3, 5}, int64[5] ev = {1, 3, 2, 5, 3}, int64[4] rv = {0, 6, 5, 3}, "
        "int64[3] u = {0, 0, -1}",
        [3],
        **ROWS,
    ),
    "rotary attention": Net(
        "q0 = MatMul(x, wq) q2 = Reshape(q0, s) q3 = Transpose<perm=[0,2,1,3]>(q2) "
        "qa, qb = Split<axis=3, num_outputs=2>(q3) qn = Neg(qb) qr = Concat<axis=3>(qn, qa) "
        "qc = Mul(q3, cos) qs = Mul(qr, sin) q = Add(qc, qs) "
        "k0 = MatMul(x, wk) k2 = Reshape(k0, s) k = Transpose<perm=[0,2,3,1]>(k2) "
        "v0 = MatMul(x, wv) v2 = Reshape(v0, s) v = Transpose<perm=[0,2,1,3]>(v2) "
        "a0 = MatMul(q, k) a = Softmax<axis=-1>(a0) o0 = MatMul(a, v) "
        "o1 = Transpose<perm=[0,2,1,3]>(o0) o = Reshape(o1, u) y = MatMul(o, wo)",
        "float[3,12] wq, float[3,12] wk, float[3,12] wv, float[12,3] wo, float[5,4] cos, "
        "float[5,4] sin, int64[4] s = {0, 0, 3, 4}, int64[3] u = {0, 0, -1}",
        [3],
        **ROWS,
    ),
    "lstm": Net(
        "h, last = LSTM<hidden_size=6>(x, w, r, b) s = Squeeze(h, one) y = MatMul(s, w2)",
        "float[1,24,3] w, float[1,24,6] r, float[1,48] b, int64[1] one = {1}, float[6,4] w2",
        [6],
        **ROWS,
    ),
    "lstm, two directions": Net(
        "e = MatMul(x, w0) h, last, cell = "
        'LSTM<hidden_size=6, direction="bidirectional">(e, w, r, b, "", h0, h0, p) '
        "t = Transpose<perm=[0,2,1,3]>(h) s = Reshape(t, to) y = MatMul(s, w2)",
        "float[3,5] w0, float[2,24,5] w, float[2,24,6] r, float[2,48] b, float[2,2,6] h0, "
        "float[2,18] p, int64[3] to = {0, 0, 12}, float[12,4] w2",
        [5, 6],
        inputs="float[7,2,3] x",
        outputs="float[7,2,4] y",
    ),
    "gru": Net(
        'h, last = GRU<hidden_size=6, linear_before_reset=1>(x, w, r, b, "", h0) '
        "s = Squeeze(last, zero) y = MatMul(s, w2)",
        "float[1,18,3] w, float[1,18,6] r, float[1,36] b, float[1,2,6] h0, int64[1] zero = {0}, "
        "float[6,4] w2",
        [6],
        inputs="float[7,2,3] x",
        outputs="float[2,4] y",
    ),
    "rnn": Net(
        "h = RNN<hidden_size=6>(x, w, r, b) s = Squeeze(h, one) y = MatMul(s, w2)",
        "float[1,6,3] w, float[1,6,6] r, float[1,12] b, int64[1] one = {1}, float[6,4] w2",
        [6],
        **ROWS,
    ),
    "lstm with a state from outside": Net(
        'h, last = LSTM<hidden_size=6>(x, w, r, b, "", h0) s = Squeeze(h, one) y = MatMul(s, w2)',
        "float[1,24,3] w, float[1,24,6] r, float[1,48] b, int64[1] one = {1}, float[6,4] w2",
        [],
        inputs="float[n,2,3] x, float[1,2,6] h0",
        outputs="float[n,2,4] y",
        reason="state",
    ),
    "quantized weights": between(
        "k = DequantizeLinear<axis=0>(wq, sq, zq) e = Conv(c, k) d = Relu(e)",
        "int8[8,8,1,1] wq, float[8] sq, int8[8] zq = {0, 0, 0, 0, 0, 0, 0, 0}",
        (8, 8),
    ),
    "quantized activations": between(
        "q = QuantizeLinear(c, s, z) d = DequantizeLinear(q, s, z)",
        "float s = {0.1}, uint8 z = {128}",
    ),
    "weights behind nodes": rows(
        "k = Transpose<perm=[1,0]>(w3) e = MatMul(c, k) u = Unsqueeze(b, zero) d = Add(e, u)",
        "float[8,8] w3, float[8] b, int64[1] zero = {0}",
        (8, 8),
    ),
    "shared weight": rows("e = MatMul(c, w3) d = MatMul(e, w3)", "float[8,8] w3", (8,)),
    "shared bias": rows(
        "e = Add(c, b) f = MatMul(e, w3) d = Add(f, b)", "float[8,8] w3, float[8] b", (8, 8)
    ),
    "weight also an output": Net(
        "c = MatMul(x, w1) y = MatMul(c, w2) z = Identity(w2)",
        MW,
        [],
        inputs="float[n,5,3] x",
        outputs="float[n,o1,o2] y, float[8,4] z",
        reason="needs all of",
    ),
    "target from Shape": Net(
        f"{FRONT} s = Shape(c) h = Slice(s, zero, two) t = Concat<axis=0>(h, rest) "
        "r = Reshape(c, t) u = Transpose<perm=[0,2,1]>(r) y = MatMul(u, w)",
        f"{W1}, int64[1] zero = {{0}}, int64[1] two = {{2}}, int64[1] rest = {{-1}}, float[8,4] w",
        [8],
        outputs="float[n,o1,o2] y",
    ),
    "target from dims and constants": Net(
        f"{FRONT} s = Shape(c) b = Gather(s, zero) bu = Unsqueeze(b, axis) "
        "t = Concat<axis=0>(bu, eight, rest) r = Reshape(c, t) u = Transpose<perm=[0,2,1]>(r) "
        "y = MatMul(u, w)",
        f"{W1}, int64 zero = {{0}}, int64[1] axis = {{0}}, int64[1] eight = {{8}}, "
        "int64[1] rest = {-1}, float[8,4] w",
        [8],
        outputs="float[n,o1,o2] y",
    ),
    "arithmetic with a size": between(
        "s = Shape(c) k = Gather(s, one) f = Cast<to=1>(k) r = Sqrt(f) d = Div(c, r)",
        "int64 one = {1}",
        (),
        reason="computed with",
    ),
    "unknown operator": between("d = Hann(c)", free=())._replace(
        nodes=f"{FRONT} d = EyeLike(e) e = Squeeze(c) {BACK}".replace(
            "d = EyeLike(e) e = Squeeze(c)", "d = ScatterND(c, i, u)"
        ),
        weights=f"{EIGHT}, int64[1,1] i = {{0}}, float[1,8,6,6] u",
        inputs="float[1,3,6,6] x",
        outputs="float[1,o1,o2,o3] y",
        reason="nothing is known",
    ),
    "used in a subgraph": Net(
        f"{FRONT} e = If(flag) <then_branch = a () => (float[n,8,6,6] p) {{ p = Relu(c) }}, "
        f"else_branch = b () => (float[n,8,6,6] q) {{ q = Tanh(c) }}> d = Relu(c) {BACK}",
        EIGHT,
        [],
        inputs="bool flag, float[n,3,6,6] x",
        outputs="float[n,o1,o2,o3] y, float[n,8,6,6] e",
        reason="subgraph",
    ),
}
