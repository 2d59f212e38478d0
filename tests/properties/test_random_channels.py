"""The oracle of channel pruning on random graphs that mix everything that couples channels."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxlite.analysis.shapes import generated_feed
from tests.odd_models import parse
from tests.topologies.oracle import check_pruned, mapped, random_branches, random_units

SIZE = 4


class Builder:
    """Writes ONNX text; every block takes the map `v` of `c` channels and returns another."""

    def __init__(self, draw: Callable[[st.SearchStrategy[int]], int]) -> None:
        self.draw, self.nodes, self.weights, self.count = draw, [], [], 0
        self.older: list[tuple[str, int]] = []

    def pick(self, *options: int) -> int:
        return self.draw(st.sampled_from(options))

    def node(self, call: str, outputs: int = 1) -> str:
        names = [f"v{self.count + i}" for i in range(outputs)]
        self.count += outputs
        self.nodes.append(f"{', '.join(names)} = {call}")
        return names[0] if outputs == 1 else " ".join(names)

    def weight(self, kind: str, shape: str, values: str = "") -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(f"{kind}[{shape}] {name}" + (f" = {{{values}}}" if values else ""))
        return name

    def conv(self, v: str, c: int, out: int = 0, group: int = 1) -> tuple[str, int]:
        out = out or self.pick(4, 6, 8)
        w, b = self.weight("float", f"{out},{c // group},3,3"), self.weight("float", f"{out}")
        return self.node(f"Conv<group={group}, pads=[1,1,1,1]>({v}, {w}, {b})"), out

    def grouped(self, v: str, c: int) -> tuple[str, int]:
        return self.conv(v, c, c, 2)

    def depthwise(self, v: str, c: int) -> tuple[str, int]:
        return self.conv(v, c, c * self.pick(1, 2), c)

    def activation(self, v: str, c: int) -> tuple[str, int]:
        return self.node(f"{('Relu', 'Sigmoid', 'Softplus')[self.pick(0, 1, 2)]}({v})"), c

    def norm(self, v: str, c: int) -> tuple[str, int]:
        a, b, m = (self.weight("float", f"{c}") for _ in range(3))
        s = self.weight("float", f"{c}", ", ".join(["2"] * c))
        return self.node(f"BatchNormalization({v}, {a}, {b}, {m}, {s})"), c

    def residual(self, v: str, c: int) -> tuple[str, int]:
        old, size = self.older[self.pick(*range(len(self.older)))]
        if size != c:
            old, _ = self.conv(old, size, c)
        return self.node(f"Add({v}, {old})"), c

    def block(self, v: str, c: int) -> tuple[str, int]:
        """A residual block, with an activation on either side or none."""
        v = self.node(f"Relu({v})") if self.pick(0, 1) else v
        h, d = self.conv(v, c)
        o, _ = self.conv(self.node(f"Relu({h})"), d, c)
        return self.activation(self.node(f"Add({o}, {v})"), c)

    def dense(self, v: str, c: int) -> tuple[str, int]:
        old, size = self.older[self.pick(*range(len(self.older)))]
        return self.node(f"Concat<axis=1>({v}, {old})"), c + size

    def halves(self, v: str, c: int) -> tuple[str, int]:
        sizes = self.weight("int64", "2", f"{c // 2}, {c - c // 2}")
        a, b = self.node(f"Split<axis=1>({v}, {sizes})", 2).split()
        b, d = self.conv(b, c - c // 2)
        return self.node(f"Concat<axis=1>({b}, {a})"), d + c // 2

    def shuffle(self, v: str, c: int) -> tuple[str, int]:
        grid = self.weight("int64", "5", f"0, 2, {c // 2}, {SIZE}, {SIZE}")
        back = self.weight("int64", "4", f"0, {c}, {SIZE}, {SIZE}")
        r = self.node(f"Reshape({v}, {grid})")
        t = self.node(f"Transpose<perm=[0,2,1,3,4]>({r})")
        return self.node(f"Reshape({t}, {back})"), c

    def gate(self, v: str, c: int) -> tuple[str, int]:
        p = self.node(f"GlobalAveragePool({v})")
        w, u = self.weight("float", f"3,{c},1,1"), self.weight("float", f"{c},3,1,1")
        squeezed = self.node(f"Conv({p}, {w})")
        gate = self.node(f"Conv({squeezed}, {u})")
        h = self.node(f"Sigmoid({gate})")
        return self.node(f"Mul({v}, {h})"), c

    def heads(self, x: str, c: int, order: str) -> str:
        """Three heads of two dimensions of the rows `x`."""
        made = self.node(f"MatMul({x}, {self.weight('float', f'{c},6')})")
        parts = self.node(f"Reshape({made}, {self.weight('int64', '4', '0, 0, 3, 2')})")
        return self.node(f"Transpose<perm=[0,{order}]>({parts})")

    def attention(self, v: str, c: int) -> tuple[str, int]:
        rows = self.node(f"Reshape({v}, {self.weight('int64', '3', f'0, {c}, -1')})")
        x = self.node(f"Transpose<perm=[0,2,1]>({rows})")
        q, k, w = self.heads(x, c, "2,1,3"), self.heads(x, c, "2,3,1"), self.heads(x, c, "2,1,3")
        scores = self.node(f"MatMul({q}, {k})")
        a = self.node(f"Softmax<axis=-1>({scores})")
        mixed = self.node(f"MatMul({a}, {w})")
        o = self.node(f"Transpose<perm=[0,2,1,3]>({mixed})")
        flat = self.node(f"Reshape({o}, {self.weight('int64', '3', '0, 0, 6')})")
        y = self.node(f"MatMul({flat}, {self.weight('float', f'6,{c}')})")
        t = self.node(f"Transpose<perm=[0,2,1]>({y})")
        back = self.weight("int64", "4", f"0, {c}, {SIZE}, {SIZE}")
        return self.node(f"Reshape({t}, {back})"), c

    def text(self, blocks: list[str]) -> str:
        v, c = self.conv("x", 3)
        self.older.append((v, c))
        for block in blocks:
            if block in ("grouped", "shuffle") and c % 2:
                continue
            v, c = getattr(self, block)(v, c)
            self.older.append((v, c))
        w = self.weight("float", f"{c * SIZE * SIZE},5")
        self.nodes.append(f"y = MatMul({self.node(f'Flatten({v})')}, {w})")
        return f"""<ir_version: 8, opset_import: ["": 17]>
            g (float[n,3,{SIZE},{SIZE}] x) => (float[n,5] y) <{", ".join(self.weights)}>
            {{ {" ".join(self.nodes)} }}"""


BLOCKS = [
    *(
        "activation",
        "attention",
        "block",
        "conv",
        "dense",
        "depthwise",
        "gate",
        "grouped",
        "halves",
    ),
    *("norm", "residual", "shuffle"),
]


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_pruned_equals_zeroed(data):
    blocks = data.draw(st.lists(st.sampled_from(BLOCKS), min_size=2, max_size=7))
    proto = parse(Builder(data.draw).text(blocks))
    model, channels = mapped(proto)
    seed = data.draw(st.integers(0, 99))
    units = random_units(channels, seed) + random_branches(model, channels, seed)
    check_pruned(proto, units, [generated_feed(model, batch=2)])
