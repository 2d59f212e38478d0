"""How the small networks of the channel rules are written, with the units that may go.

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
