"""Student: a compressed model whose weights, biases and scales are learned."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import torch
from torch import Tensor

from onnxlite.model import clone
from onnxlite.normalize import normalize
from onnxlite.tune.parameters import Arrays, Tensors, TrainableConstant, TrainableTensor
from onnxlite.tune.torch_graph import TorchGraph, read_by
from onnxlite.tune.trainable import TrainableConstants


class Student:
    """A compressed model that torch runs with gradients for its constants.

    Args:
        model: it is not changed.
        reference: what it was made from, normalized. Integers and codes of weights start where
            the reference has the weight, within what is rounded to them.

    Attributes:
        model: the private copy that is learned on, normalized.
        constants: what is learned, in the order in which it is computed.
    """

    def __init__(self, model: ir.Model, reference: ir.Model | None = None) -> None:
        self.model = clone(model)
        normalize(self.model)
        found = TrainableConstants(self.model, reference)
        self.constants: list[TrainableConstant] = found.constants
        self._own_scales = found.own_scales
        names = [name for item in self.constants for name in item.names]
        self._graph = TorchGraph(self.model, tuned=names)

    @property
    def tensors(self) -> list[TrainableTensor]:
        """Everything that the optimizer changes."""
        return [tensor for item in self.constants for tensor in item.tensors]

    def __call__(self, feed: Tensors, taps: Sequence[str] = ()) -> Tensors:
        """Compute outputs and the values named `taps`, with gradients."""
        return self._graph(feed, tuned=self._computed(), taps=taps)

    def between(self, given: Tensors, wanted: Sequence[str]) -> Tensors:
        """Compute values by name from others, with gradients."""
        return self._graph.between(given, wanted, tuned=self._computed())

    def _computed(self) -> Tensors:
        values: Tensors = {}
        for item in self.constants:
            item.compute(values)
        return values

    def part(
        self, known: Sequence[str], wanted: str
    ) -> tuple[tuple[str, ...], tuple[TrainableConstant, ...]]:
        """List what of `known` the value `wanted` is computed from, and what is learned there."""
        nodes = self._graph.part(known, [wanted])
        read = {name for node in nodes for name in read_by(node)}
        constants = tuple(item for item in self.constants if read.intersection(item.names))
        return tuple(name for name in known if name in read), constants

    def project(self) -> None:
        """Bring everything back into its range after a step of the optimizer."""
        with torch.no_grad():
            for item in self.constants:
                item.project()

    def state(self) -> list[Tensor]:
        """Return a copy of all tensors."""
        return [item.tensor.detach().clone() for item in self.tensors]

    def restore(self, state: Sequence[Tensor]) -> None:
        """Set all tensors to a state."""
        with torch.no_grad():
            for item, tensor in zip(self.tensors, state, strict=True):
                item.tensor.copy_(tensor)

    def written(self) -> ir.Model:
        """Return the model with the learned constants; equal scales share one again."""
        arrays: Arrays = {}
        for item in self.constants:
            item.store(arrays)
        result = clone(self.model)
        stored = {n: (g, v) for g in result.graphs() for n, v in g.initializers.items()}
        shared: dict[tuple[ir.Graph, tuple[int, ...], bytes], ir.Value] = {}
        for name, array in arrays.items():
            _, value = stored[name]
            old = value.const_value
            assert old is not None
            value.const_value = ir.Tensor(array, dtype=old.dtype, name=name)
        for name in self._own_scales:
            graph, value = stored[name]
            array = arrays[name]
            first = shared.setdefault((graph, array.shape, array.tobytes()), value)
            if first is not value:
                value.replace_all_uses_with(first)
                del graph.initializers[name]
        return result
