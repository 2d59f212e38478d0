"""Tied noise: pseudo-random values that depend on a name and on nothing else.

Two runs of a random operator differ, and a node that is inserted before it shifts the generator:
outputs of a model and of a candidate then differ by noise alone. Tied noise is the same on every
run and in every model. Element i is

    noise[i] = table[(stride * i + offset) mod 131071]

with a stride and an offset from the name of the output, so that it is defined for every size. As
131071 is prime, 131071 consecutive elements use every entry of the table once. In the body of a
Loop the number of the iteration is added to the index.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.builder import GraphBuilder
from onnxlite.graph import attribute, graph_of

#: Prime, and large enough for the tails of a normal distribution; 0.5 MB in float32.
_TABLE_SIZE = 131_071

#: The first operator sets with `Reshape` to sizes of 0, and with `CastLike`.
_ALLOW_ZERO_OPSET, _CAST_LIKE_OPSET = 14, 15

_SEED: ContextVar[int] = ContextVar("seed of tied noise", default=0)

#: A distribution: draws so many values from a generator.
Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]


@contextlib.contextmanager
def noise_seed(seed: int) -> Iterator[None]:
    """Draw the tied noise of measurements within the context from another seed.

    Args:
        seed: of the tables; 0 outside of the context. Worker processes keep 0.
    """
    token = _SEED.set(seed)
    try:
        yield
    finally:
        _SEED.reset(token)


def uniform(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Uniform values, from 0 to below 1."""
    return rng.random(count)


def normal(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Normal values of mean 0 and variance 1."""
    return rng.standard_normal(count)


def gumbel(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Gumbel values: argmax(log p + Gumbel) has the probabilities p."""
    return rng.gumbel(size=count)


@lru_cache(maxsize=8)
def _table(draw: Draw, seed: int) -> NDArray[np.float32]:
    """float32[131071], drawn from a seed."""
    table = draw(np.random.default_rng(seed), _TABLE_SIZE).astype(np.float32)
    table.setflags(write=False)
    return table


class NoiseBuilder:
    """Tables of noise in a model, shared by all of its nodes.

    Args:
        model: changed in place by what is built.
    """

    def __init__(self, model: ir.Model) -> None:
        self.graphs = GraphBuilder(model, naming="none")
        self._tables: dict[Draw, ir.Value] = {}

    def table(self, draw: Draw) -> ir.Value:
        """Return the table of a distribution, an initializer of the main graph."""
        if draw not in self._tables:
            main = self.graphs.model.graph
            self._tables[draw] = self.graphs.initializer(
                main, "noise_table", _table(draw, _SEED.get())
            )
        return self._tables[draw]


class NoisePlace:
    """The place in front of a random node, where its tied form is built.

    Args:
        builder: of the node's model.
        node: the random node.
        iteration: number of the iteration, int64[], for a node in the body of a Loop.
    """

    def __init__(self, builder: NoiseBuilder, node: ir.Node, iteration: ir.Value | None) -> None:
        self._builder, self._node, self._iteration = builder, node, iteration
        self._place = builder.graphs.before(node)
        self._opset = builder.graphs.model.opset_imports.get("", 0)

    def op(
        self,
        op_type: str,
        *inputs: ir.Value | None,
        attributes: Mapping[str, Any] | None = None,
    ) -> ir.Value:
        """Insert a node of one output and return that output."""
        return self._place.op(op_type, inputs, attributes, name="noise")

    def constant(self, value: NDArray[Any] | np.generic | Sequence[int] | float) -> ir.Value:
        """Return a constant: int64 of integers and of sequences, float32 of a float."""
        if isinstance(value, float):
            array: NDArray[Any] = np.asarray(value, np.float32)
        else:
            array = value if isinstance(value, np.ndarray) else np.asarray(value, np.int64)
        return self._builder.graphs.constant(graph_of(self._node), "noise", array)

    def cast(self, value: ir.Value, dtype: int) -> ir.Value:
        """Cast to an ONNX data type."""
        return self.op("Cast", value, attributes={"to": int(dtype)})

    def cast_result(self, value: ir.Value, like: ir.Value | None = None) -> ir.Value:
        """Cast to the type in the node's attribute `dtype`, else that of `like`, else float32."""
        dtype = attribute(self._node, "dtype")
        if dtype is None and like is not None:
            if like.dtype is None and self._opset >= _CAST_LIKE_OPSET:
                return self.op("CastLike", value, like)
            dtype = like.dtype or self._node.outputs[0].dtype
        return self.cast(value, ir.DataType.FLOAT if dtype is None else dtype)

    def noise(self, draw: Draw, shape: ir.Value) -> ir.Value:
        """Return float32 noise.

        Args:
            draw: its distribution.
            shape: int64[rank], the shape of the result.
        """
        # A 1 before the sizes: not every version reduces a vector without elements.
        sizes = self.op("Concat", self.constant([1]), shape, attributes={"axis": 0})
        count = self.op("ReduceProd", sizes, attributes={"keepdims": 0})
        stride, offset = self._line()
        index = self.op("Range", self.constant(0), count, self.constant(1))
        index = self.op("Mul", index, self.constant(stride))
        index = self.op("Add", index, self.constant(offset))
        if self._iteration is not None:
            index = self.op("Add", index, self._iteration)
        index = self.op("Mod", index, self.constant(_TABLE_SIZE))
        # A size of 0 means "as the input" to older versions, which then fail on empty values.
        zero = {"allowzero": 1} if self._opset >= _ALLOW_ZERO_OPSET else {}
        return self.op(
            "Reshape", self.op("Gather", self._builder.table(draw), index), shape, attributes=zero
        )

    def _line(self) -> tuple[int, int]:
        """Stride and offset in the table, from the name of the node's first output."""
        digest = hashlib.sha256((self._node.outputs[0].name or "").encode()).digest()
        one, other = (int.from_bytes(digest[at : at + 8], "little") for at in (0, 8))
        return 1 + one % (_TABLE_SIZE - 1), other % _TABLE_SIZE
