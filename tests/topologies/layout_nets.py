"""Networks of further cases of rules that move values: axes, targets, computed bounds."""

from __future__ import annotations

from tests.topologies.net import BACK, EIGHT, FRONT, ROWS, W1, Net, between, rows

FIXED = {"inputs": "float[1,3,6,6] x", "outputs": "float[1,o1,o2,o3] y"}
#: `six` holds the height at run time, `one` the size of the batch.
SIZES = "h = Shape<start=2, end=3>(x) one = Shape<end=1>(x)"
BOUNDS = "int64[1] zero = {0}, int64[1] six = {6}, int64[1] two = {2}, int64[1] three = {3}"


def sliced(call: str, reason: str = "computed bounds", free: tuple[int, ...] = ()) -> Net:
    """A slice over the height with bounds that may be computed."""
    return between(f"{SIZES} d = {call}", BOUNDS, free, reason=reason, **FIXED)


LAYOUTS: dict[str, Net] = {
    "conv of one channel": Net(
        f"{FRONT} y = Conv(c, w2)",
        "float[8,1,3,3] w1, float[8] b1, float[4,8,1,1] w2",
        [8],
        inputs="float[n,1,6,6] x",
    ),
    "conv of two channels": Net(
        f"{FRONT} m = MaxPool<kernel_shape=[2,2]>(c) u = Concat<axis=2>(m, m) p = Pad(u, pads) "
        "h = Clip(p, low) y = Conv(h, w2)",
        "float[2,3,1,1] w1, float[2] b1, float[4,2,1,1] w2, float low = {-1}, "
        "int64[8] pads = {0, 0, 1, 0, 0, 0, 0, 0}",
        [2],
    ),
    "flatten and back": between(
        "f = Flatten(c) r = Reshape(f, s) d = Add(r, rows)",
        "int64[4] s = {0, 8, 6, 6}, float[6,1] rows",
    ),
    "reshape of nothing": Net(
        f"{FRONT} e = Slice(c, zero, zero, two) f = Reshape<allowzero=1>(e, s) "
        "y = Concat<axis=2>(f, k)",
        f"{W1}, int64[1] zero = {{0}}, int64[1] two = {{2}}, int64[3] s = {{1, 8, 0}}, "
        "float[1,8,2] k",
        [],
        inputs="float[1,3,6,6] x",
        outputs="float[1,8,2] y",
        reason="could not be told",
    ),
    "expand to fewer axes": Net(
        f"{FRONT} p = GlobalAveragePool(c) d = Expand(p, s) {BACK}",
        f"{EIGHT}, int64[3] s = {{8, 3, 3}}",
        [8],
    ),
    "expand to the last axes": Net(
        f"{FRONT} p = GlobalAveragePool(c) d = Expand(p, s) {BACK}",
        f"{EIGHT}, int64[2] s = {{3, 3}}",
        [8],
    ),
    "expand in front": rows(
        "e = Expand(c, s) d = Relu(e)",
        "int64[4] s = {2, 1, 5, 8}",
        (8,),
        outputs="float[2,n,5,o] y",
    ),
    "expand to a computed size": Net(
        f"{FRONT} p = GlobalAveragePool(c) s = Shape(c) d = Expand(p, s) {BACK}", EIGHT, [8]
    ),
    "tile as often as computed": between(
        "s = Shape<end=2>(x) t = Concat<axis=0>(s, s) z = Div(t, t) d = Tile(c, z)",
        free=(),
        reason="repeated is computed",
        **FIXED,
    ),
    "concat of two over space": between(
        "e = Conv(x, w3) d = Concat<axis=2>(c, e)", "float[8,3,1,1] w3"
    ),
    "concat of three over space": between(
        "e = Conv(x, w3) f = Conv(x, w4) d = Concat<axis=3>(c, e, f)",
        "float[8,3,1,1] w3, float[8,3,1,1] w4",
    ),
    "concat with an input over space": between(
        "d = Concat<axis=2>(z, c)",
        free=(),
        inputs="float[n,3,6,6] x, float[n,8,2,6] z",
        reason="joined to values that have no units ('z')",
    ),
    "concat of grids": Net(
        f"{FRONT} r = Reshape(c, s) e = Conv(x, w3) q = Reshape(e, s) u = Concat<axis=2>(r, q) "
        "d = Reshape(u, t) y = Conv(d, w2)",
        f"{W1}, float[8,3,1,1] w3, float[4,16,1,1] w2, int64[5] s = {{0, 2, 4, 6, 6}}, "
        "int64[4] t = {0, 16, 6, 6}",
        [4, 4],
    ),
    "split elsewhere": between(
        "e, f = Split<axis=2>(c, s) g = Relu(e) d = Concat<axis=2>(f, g)", "int64[2] s = {2, 4}"
    ),
    "split in equal parts to different readers": between(
        "e, f = Split<axis=1, num_outputs=2>(c) g = Relu(e) d = Concat<axis=1>(f, g)", free=(4,)
    ),
    "split in unequal parts": between(
        "e, f, g = Split<axis=1, num_outputs=3>(c) d = Concat<axis=1>(f, e, g)",
        free=(),
        reason="unequal size",
    ),
    "split 13 by default": Net(
        "c = MatMul(w1, x) e, f = Split(c) d = Add(e, f) y = MatMul(w2, d)",
        "float[8,5] w1, float[4,4] w2",
        [4],
        opset=13,
        inputs="float[5,3] x",
        outputs="float[4,3] y",
    ),
    "slice elsewhere": between("d = Slice(c, zero, three, two)", BOUNDS),
    "slice elsewhere with a step": between("d = Slice(c, zero, six, two, two)", BOUNDS),
    "slice of the first axes": Net(
        f"{FRONT} d = Slice(c, s, u) {BACK}",
        f"{W1}, float[4,6,1,1] w2, int64[2] s = {{0, 2}}, int64[2] u = {{1, 8}}",
        [2, 6],
        **FIXED,
    ),
    "slice of the batch only": between(
        "d = Slice(c, s, u)", "int64[1] s = {0}, int64[1] u = {1}", **FIXED
    ),
    "slice of all channels": between(
        "d = Slice(c, s, u, a, k)",
        "int64[1] s = {0}, int64[1] u = {8}, int64[1] a = {1}, int64[1] k = {1}",
    ),
    "slice to a computed end": sliced("Slice(c, zero, h, two)"),
    "slice from a computed start": sliced("Slice(c, one, six, two)"),
    "slice of computed axes": sliced("Slice(c, zero, six, b)")._replace(
        nodes=f"{FRONT} {SIZES} b = Add(one, one) d = Slice(c, zero, six, b) {BACK}"
    ),
    "slice of channels with a computed step": sliced(
        "Slice(c, zero, eight, first, one)", "computed bounds"
    )._replace(
        weights=f"{EIGHT}, int64[1] zero = {{0}}, int64[1] eight = {{8}}, int64[1] first = {{1}}"
    ),
    "gather in a grid of two heads": Net(
        "p = MatMul(x, w) p2 = Reshape(p, s) p3 = Transpose<perm=[2,0,3,1,4]>(p2) "
        "q = Gather<axis=0>(p3, zero) k = Gather<axis=0>(p3, one) v = Gather<axis=0>(p3, two) "
        "kt = Transpose<perm=[0,1,3,2]>(k) a0 = MatMul(q, kt) a = Softmax<axis=-1>(a0) "
        "o0 = MatMul(a, v) o1 = Transpose<perm=[0,2,1,3]>(o0) o = Reshape(o1, u) y = MatMul(o, wo)",
        "float[3,12] w, float[4,3] wo, int64 zero = {0}, int64 one = {1}, int64 two = {2}, "
        "int64[5] s = {0, 0, 3, 2, 2}, int64[3] u = {0, 0, 4}",
        [2],
        **ROWS,
    ),
    "resize by scales from elsewhere": between(
        's = Shape(x) t = Div(s, s) f = Cast<to=1>(t) d = Resize<mode="nearest">(c, "", f)',
        free=(),
        reason="scales of its resize are computed",
        **FIXED,
    ),
    "resize of some axes": between(
        'd = Resize<mode="nearest", axes=[2,3]>(c, "", "", s)', "int64[2] s = {12, 9}", **FIXED
    ),
    "resize of the channel axis too": between(
        'd = Resize<mode="nearest", axes=[-3,2]>(c, "", "", s)',
        "int64[2] s = {8, 12}",
        (),
        reason="for some axes only",
        **FIXED,
    ),
    "upsample": between("d = Upsample(c, s)", "float[4] s = {1, 1, 2, 2}", opset=9),
    "pad with a value": between(
        "d = Pad(c, p, v)", "int64[8] p = {0,0,1,0,0,0,0,2}, float v = {0.5}"
    ),
    "pad of some axes": between(
        'd = Pad(c, p, "", a)',
        "int64[4] p = {1, 2, 0, 1}, int64[2] a = {2, 3}",
        (),
        reason="some axes",
    ),
    "crop of channels": Net(
        f"{FRONT} e = Pad(c, p) d = Conv(e, w3) {BACK}",
        f"{W1}, int64[8] p = {{0, -1, 0, 0, 0, 0, 0, 0}}, float[6,7,1,1] w3, float[4,6,1,1] w2",
        [6],
        reason="or cropped",
    ),
    "pad 10": Net(
        f"{FRONT} d = Pad<pads=[0,1,0,0,0,2,0,0]>(c) {BACK}",
        f"{W1}, float[4,11,1,1] w2",
        [3, 8],
        opset=10,
    ),
    "depth to space by default": Net(
        f"{FRONT} d = DepthToSpace<blocksize=2>(c) {BACK}", f"{W1}, float[4,2,1,1] w2", [2], opset=9
    ),
    "reshape to a target with a size of its own": Net(
        f"{FRONT} s = Shape(c) n = Slice(s, zero, one) k = Gather(s, i) "
        "t = Concat<axis=0>(n, k, rest) "
        "r = Reshape(c, t) u = Transpose<perm=[0,2,1]>(r) y = MatMul(u, w)",
        f"{W1}, int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] i = {{-3}}, "
        "int64[1] rest = {36}, float[8,4] w",
        [8],
        outputs="float[n,o1,o2] y",
    ),
    "size": between(
        "s = Size(c) f = Cast<to=1>(s) d = Div(c, f)", free=(), reason="number of elements"
    ),
    "size of an input": between("s = Size(x) f = Cast<to=1>(s) d = Div(c, f)"),
    "sizes of a slice to a computed end": between(
        "s = Shape(c) h = Shape<end=1>(x) t = Slice(s, zero, h) f = Cast<to=1>(t) d = Mul(c, f)",
        "int64[1] zero = {0}",
        (),
        reason="its size is computed with",
        **FIXED,
    ),
    "a size picked by a computed place": between(
        "s = Shape(c) h = Shape<end=1>(x) t = Gather(s, h) f = Cast<to=1>(t) d = Mul(c, f)",
        free=(),
        reason="its size is computed with",
        **FIXED,
    ),
    "a size as a place": between(
        "s = Shape<start=1, end=2>(c) e = Gather(table, s) f = ReduceMean(e) d = Mul(c, f)",
        "float[9,2] table",
        (),
        reason="its size is computed with",
    ),
    "pad with a value of no axes": between(
        'd = Pad(c, p, v, "")', "int64[8] p = {0,0,1,0,0,0,0,2}, float v = {0.5}"
    ),
    "arithmetic with the size of another axis": between(
        "s = Shape(c) k = Gather(s, two) f = Cast<to=1>(k) d = Div(c, f)", "int64 two = {2}"
    ),
    "depthwise conv of the input": Net(
        "e = Conv<group=3>(x, wd) c = Conv(e, w1) y = Conv(c, w2)",
        "float[6,1,3,3] wd, float[8,6,1,1] w1, float[4,8,1,1] w2",
        [8],
    ),
    "grouped conv of the input": Net(
        "c = Conv<group=2>(x, w1) y = Conv(c, w2)",
        "float[8,2,3,3] w1, float[4,8,1,1] w2",
        [4],
        inputs="float[n,4,6,6] x",
    ),
    "target in steps": Net(
        f"{FRONT} h = Transpose<perm=[0,2,3,1]>(c) s = Shape(h) k = Slice(s, one, four, zero, two) "
        "t = Concat<axis=0>(rest, k) p = ReduceMean<keepdims=0>(h, two) r = Reshape(p, t) "
        "y = MatMul(r, w)",
        f"{W1}, {BOUNDS}, int64[1] one = {{1}}, int64[1] four = {{4}}, int64[1] rest = {{-1}}, "
        "float[8,4] w",
        [8],
        outputs="float[n,o1,o2] y",
    ),
    "sizes of a slice from a computed start": between(
        "s = Shape(c) h = Shape<end=1>(x) t = Slice(s, h, two) f = Cast<to=1>(t) d = Mul(c, f)",
        "int64[1] two = {2}",
        (),
        reason="its size is computed with",
        **FIXED,
    ),
    "pad in front": Net(
        f"{FRONT} d = Pad(c, p) {BACK}",
        f"{W1}, int64[8] p = {{0, 3, 0, 0, 0, 0, 0, 0}}, float[4,11,1,1] w2",
        [3, 8],
    ),
    "pad of groups": Net(
        f"{FRONT} t = Reshape(c, grid) e = Pad(t, p) d = Reshape(e, flat) {BACK}",
        f"{W1}, int64[5] grid = {{0, 2, 4, 6, 6}}, int64[4] flat = {{0, -1, 6, 6}}, "
        "int64[10] p = {0, 0, 0, 0, 0, 0, 2, 0, 0, 0}, float[4,16,1,1] w2",
        [2, 2],
    ),
    "split without sizes": between(
        'e, f = Split<axis=1, num_outputs=2>(c, "") d = Concat<axis=1>(f, e)', free=(4,)
    ),
    "columns of a table": Net(
        "e = Gather<axis=1>(table, x) y = MatMul(e, w)",
        "float[5,10] table, float[10,4] w",
        [],
        inputs="int64[10] x",
        outputs="float[5,4] y",
    ),
    "depthwise conv of two": Net(
        f"{FRONT} d = Conv<group=2>(c, wd) {BACK}",
        "float[2,3,1,1] w1, float[2] b1, float[2,1,1,1] wd, float[4,2,1,1] w2",
        [2],
    ),
    "grouped conv of repeated channels": Net(
        "h = Conv(x, w0) a = Conv(h, w1) b = Conv(h, w3) e = Gather<axis=1>(a, i) "
        "f = Gather<axis=1>(b, j) c = Concat<axis=1>(e, f) d = Conv<group=2>(c, wg) "
        "y = Conv(d, w2)",
        "float[5,3,1,1] w0, float[3,5,1,1] w1, float[3,5,1,1] w3, int64[4] i = {0, 1, 1, 2}, "
        "int64[4] j = {0, 0, 1, 2}, float[8,4,1,1] wg, float[4,8,1,1] w2",
        [3, 4, 5],
    ),
    "grouped conv of channels in two orders": Net(
        "a = Conv(x, w1) c = Gather<axis=1>(a, i) d = Conv<group=2>(c, wg) y = Conv(d, w2)",
        "float[4,3,1,1] w1, int64[8] i = {0, 1, 2, 3, 1, 0, 3, 2}, float[6,4,1,1] wg, "
        "float[4,6,1,1] w2",
        [3, 4],
    ),
    "depth to space by three": Net(
        f"{FRONT} d = DepthToSpace<blocksize=3>(c) {BACK}",
        "float[18,3,1,1] w1, float[18] b1, float[4,2,1,1] w2",
        [2],
    ),
    "space to depth by three": Net(
        f"{FRONT} d = SpaceToDepth<blocksize=3>(c) {BACK}", f"{W1}, float[4,72,1,1] w2", [8]
    ),
    "target from the end of a shape": between(
        "s = Shape<start=1>(c) k = Slice(s, zero, one, zero) t = Concat<axis=0>(rest, k, six, six) "
        "d = Reshape(c, t)",
        f"{BOUNDS}, int64[1] one = {{1}}, int64[1] rest = {{-1}}",
    ),
    "target of picked sizes": between(
        "s = Shape(c) k = Gather(s, one) u = Unsqueeze(k, zero) i = Cast<to=7>(u) "
        "t = Concat<axis=0>(rest, i, six, six) d = Reshape(c, t)",
        f"{BOUNDS}, int64 one = {{1}}, int64[1] rest = {{-1}}",
    ),
    "sizes sliced 9": between(
        "s = Shape(c) k = Slice<starts=[1], ends=[2]>(s) f = Cast<to=1>(k) d = Div(c, f)",
        free=(),
        opset=9,
        reason="its size is computed with",
    ),
    "target of squeezed sizes": between(
        "s = Shape(c) k = Slice(s, one, two) q = Squeeze(k, zero) u = Unsqueeze(q, zero) "
        "t = Concat<axis=0>(rest, u, six, six) d = Reshape(c, t)",
        f"{BOUNDS}, int64[1] one = {{1}}, int64[1] rest = {{-1}}",
    ),
    "arithmetic with joined sizes": between(
        "s = Shape<start=1, end=2>(c) t = Concat<axis=0>(s, s) f = Cast<to=1>(t) "
        "q = ReduceMean(f) d = Div(c, q)",
        free=(),
        reason="its size is computed with",
    ),
    "concat of a grid with a constant": Net(
        f"{FRONT} r = Reshape(c, s) u = Concat<axis=2>(r, k) d = Reshape(u, t) {BACK}",
        f"{W1}, int64[5] s = {{0, 2, 4, 6, 6}}, float[1,2,1,6,6] k, int64[4] t = {{0, 10, 6, 6}}, "
        "float[4,10,1,1] w2",
        [],
        reason="joined to values that have no units ('k')",
        **FIXED,
    ),
    "gather in a grid of one head": Net(
        "p = MatMul(x, w) p2 = Reshape(p, s) p3 = Transpose<perm=[2,0,1,3]>(p2) "
        "q = Gather<axis=0>(p3, zero) k = Gather<axis=0>(p3, one) m = Mul(q, k) y = MatMul(m, wo)",
        "float[3,8] w, float[4,3] wo, int64 zero = {0}, int64 one = {1}, int64[4] s = {0, 0, 2, 4}",
        [4],
        **ROWS,
    ),
}
