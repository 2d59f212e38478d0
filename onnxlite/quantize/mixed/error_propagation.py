"""Propagate sets of rounding errors to a model's outputs, in one pass over the samples.

A quantized model is the float model with an error at every rounded value and at every layer
with rounded weights:

    y = Conv(x, w)   becomes   y = Conv(x, w) + [on] Conv(x, dequantize(quantize(w)) - w)
    x                becomes   x + [on] (dequantize(quantize(x)) - x)

Every error is a branch that an input of the model switches on. One session runs any combination of
errors, and errors propagate to the outputs through clipping, saturation and other errors. The sets
are distributed over the samples: each sample runs a few sets. The noise of a set is compared with
the noise of all errors on the same samples, because some samples amplify every error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.builder import GraphBuilder
from onnxlite.errors import SamplesError
from onnxlite.fidelity import OutputError, ReferenceOutputs, is_float
from onnxlite.graph import const_array, rank
from onnxlite.inputs import Feed, separated
from onnxlite.model import clone
from onnxlite.ops import spec_of
from onnxlite.quantize.core.plan import QuantPlan, reads_integers, weight_port
from onnxlite.quantize.core.qtypes import QParams, dequantize
from onnxlite.quantize.core.weights import layer_weight
from onnxlite.records import Progress, no_progress
from onnxlite.runtime import Outputs, Session
from onnxlite.samples import Samples

#: Name of the input that switches errors on, `bool[sources]`.
_SWITCHES = "onnxlite_errors"
#: Samples from which the parts of the outputs are derived.
_CUT_SAMPLES = 16


@dataclass(frozen=True)
class Source:
    """Source of noise: a rounded value or a layer's rounded weight.

    Attributes:
        kind: the kind of tensor that is rounded.
        name: name of the value, or of the layer's node.
    """

    kind: Literal["value", "weight"]
    name: str


@dataclass(frozen=True)
class Noise:
    """Noise over signal at each part of the outputs, by energy.

    Attributes:
        parts: labels of the parts of the model's float outputs, see `fidelity.layout`.
        sets: noise of one set over the signal, `float64[sets, parts]`.
        fractions: noise of one set over the noise of all errors on the same samples,
            `float64[sets, parts]`. It is the better estimate for a set of nearly all errors;
            `sets` is for a set of few.
        together: noise of all errors over the signal, `float64[parts]`.
        samples: number of samples that were run.
    """

    parts: tuple[str, ...]
    sets: NDArray[np.float64]
    fractions: NDArray[np.float64]
    together: NDArray[np.float64]
    samples: int


class ErrorModel:
    """Float model whose rounding errors can be switched on individually.

    Args:
        plan: plan of the rounded values and weights; its model is not changed.
        params: scales and zero points of the plan's values.
        threads: number of threads of ONNX Runtime.

    Attributes:
        sources: sources of the errors, in the order of the switches.

    Raises:
        ExecutionError: ONNX Runtime refuses the model.
    """

    def __init__(
        self, plan: QuantPlan, params: Mapping[ir.Value, QParams], *, threads: int | None
    ) -> None:
        self.sources = (
            *(Source("value", value.name or "") for value in plan.placement.values),
            *(Source("weight", node.name or "") for node in plan.layers),
        )
        writer = _ErrorWriter(plan, self.sources)
        for node in plan.layers:
            writer.weight(node.name or "")
        for value in plan.placement.values:
            writer.value(value, params[value])
        # Without optimization: ONNX Runtime must not fuse errors into integer kernels.
        self._session = Session(writer.model, threads=threads, qdq="float")

    def run(self, feed: Feed, on: NDArray[np.bool_]) -> Outputs:
        """Run with some errors switched on.

        Args:
            feed: inputs of the float model.
            on: switches of the errors, `bool[sources]`.

        Returns:
            The float outputs.
        """
        outputs = self._session.run({**feed, _SWITCHES: on})
        return {name: array for name, array in outputs.items() if is_float(array)}


def propagate(
    model: ErrorModel,
    samples: Samples,
    sets: Sequence[NDArray[np.bool_]],
    *,
    per_set: int = 8,
    progress: Progress = no_progress,
) -> Noise:
    """Estimate the noise of each set of errors.

    Args:
        model: the model with errors.
        samples: unlabelled inputs; the fewer they are, the more sets each runs.
        sets: switches of the errors of each set, `bool[sources]`.
        per_set: number of samples that run a set.
        progress: called after every sample.

    Raises:
        SamplesError: every output is zero on these samples.
        ExecutionError: ONNX Runtime cannot run the model.
    """
    none, every = (np.full(len(model.sources), on) for on in (False, True))
    feeds = list(islice(_single(samples), max(len(sets) * per_set, 1)))
    if not feeds:
        raise SamplesError("there is no sample to estimate noise on")
    parts = _Parts([model.run(feed, none) for feed in feeds[:_CUT_SAMPLES]])
    whole: list[NDArray[np.float64]] = []
    met: list[list[int]] = [[] for _ in sets]
    noise: list[list[NDArray[np.float64]]] = [[] for _ in sets]
    for index, feed in enumerate(feeds):
        exact = model.run(feed, none)
        whole.append(parts.sums(exact, model.run(feed, every)))
        for number in _meetings(index, len(feeds), len(sets), per_set):
            met[number].append(index)
            noise[number].append(parts.sums(exact, model.run(feed, sets[number]))[:, 1])
        progress("sensitivity", index + 1, len(feeds))
    signal, total = np.moveaxis(np.array(whole), -1, 0)
    if not signal.any():
        raise SamplesError("every output of the model is zero on these samples: give other samples")
    sums = np.array([np.sum(rows, axis=0) for rows in noise]).reshape(-1, len(parts.labels))
    of_signal, of_total = (
        _ratio(sums, np.array([powers[at].sum(axis=0) for at in met]).reshape(sums.shape))
        for powers in (signal, total)
    )
    together_ratio = _ratio(total.sum(axis=0), signal.sum(axis=0))
    return Noise(parts.labels, of_signal, of_total, together_ratio, len(feeds))


class _Parts:
    """Parts of all outputs that some samples say something about.

    Attributes:
        labels: for example `("output0[:, 0:4]", "output0[:, 4:22]")`.
    """

    def __init__(self, outputs: Sequence[Outputs]) -> None:
        reference = ReferenceOutputs(outputs)
        self._layouts, self._decided = reference.layouts, reference.decided
        self.labels = tuple(
            f"{name}{self._layouts[name].parts[index].label}"
            for name, indices in self._decided.items()
            for index in indices
        )

    def sums(self, exact: Outputs, noisy: Outputs) -> NDArray[np.float64]:
        """Signal and noise of every part, float64[parts, 2]."""
        found = []
        for name, indices in self._decided.items():
            error = OutputError(name, self._layouts[name])
            error.add(exact[name], noisy[name])
            found.append(error.sums[:, list(indices), :2].sum(axis=0))
        return np.concatenate(found)


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _meetings(sample: int, samples: int, sets: int, per_set: int) -> Iterator[int]:
    """Yield the sets that a sample runs; the samples of a set are spread evenly."""
    for turn in range(per_set):
        for number in range(sets):
            if (number + turn * samples // per_set) % samples == sample:
                yield number


def _single(samples: Samples) -> Iterator[Feed]:
    """Yield feeds of one sample each, if the batch axes are dynamic."""
    for feed in samples:
        yield from separated(feed, samples.inputs) or [feed]


class _ErrorWriter:
    """Writer of switchable errors into a copy of a plan's model."""

    def __init__(self, plan: QuantPlan, sources: Sequence[Source]) -> None:
        self.model = model = clone(plan.model)
        self._target = plan.target
        self._producers = {*plan.placement.nodes, *plan.placement.absorbed}
        self._builder = GraphBuilder(model)
        self._index = {source: index for index, source in enumerate(sources)}
        self._nodes = {node.name: node for node in model.graph}
        self._switches = ir.Value(
            name=_SWITCHES,
            shape=ir.Shape([len(sources)]),
            type=ir.TensorType(ir.DataType.BOOL),
        )
        model.graph.inputs.append(self._switches)
        self._chosen = {self._nodes[node.name] for node in plan.placement.nodes}
        self._values = {value.name: value for value in model.graph.inputs}
        self._values.update({v.name: v for node in model.graph for v in node.outputs})

    def weight(self, name: str) -> None:
        """Add the error of a layer's rounded weight to its output."""
        node = self._nodes[name]
        rule, port = spec_of(node).quant, weight_port(node)
        assert rule is not None
        assert port is not None
        weight, old = const_array(node.inputs[port]), node.inputs[port]
        assert weight is not None
        assert old is not None
        integers, params = layer_weight(node, weight, self._target)
        error = self._constant(f"{old.name}_error", dequantize(integers, params) - weight)
        inputs = [error if i == port else v for i, v in enumerate(node.inputs) if i != rule.bias]
        copy = self._builder.make(
            node.op_type, inputs, node.attributes, name=f"{name}_error", domain=node.domain
        )
        self._add(node.outputs[0], [copy], Source("weight", name), None)

    def value(self, planned: ir.Value, params: QParams) -> None:
        """Add a value's rounding error, for the readers of its integers."""
        value = self._values[planned.name]
        made = planned.producer() in self._producers
        readers = [
            (use.node, use.idx)
            for use in value.uses()
            if made or reads_integers(use.node, use.idx, self._chosen)
        ]
        scale = self._constant(f"{value.name}_scale", params.scale)
        zero = self._constant(f"{value.name}_zero", params.zero_point)
        make, name = self._builder.make, f"{value.name}_error"
        quantized = make("QuantizeLinear", [value, scale, zero], name=name)
        rounded = make("DequantizeLinear", [quantized.outputs[0], scale, zero], name=name)
        error = make("Sub", [rounded.outputs[0], value], name=name)
        source = Source("value", planned.name or "")
        self._add(value, [quantized, rounded, error], source, readers if not made else None)

    def _constant(self, name: str, array: NDArray[np.generic]) -> ir.Value:
        return self._builder.initializer(self.model.graph, name, array)

    def _add(
        self,
        value: ir.Value,
        nodes: Sequence[ir.Node],
        source: Source,
        readers: Sequence[tuple[ir.Node, int]] | None,
    ) -> None:
        """Add a switched error to `value`, for `readers`; None means all readers."""
        graph, name = self.model.graph, value.name or "value"
        uses = [(use.node, use.idx) for use in value.uses()] if readers is None else readers
        uses = [(node, port) for node, port in uses if node.graph is not None]
        off = ir.tensor(np.zeros([1] * (rank(value) or 0), np.float32))
        nothing = self._builder.make("Constant", [], {"value": off}, name=f"{name}_none")
        at = self._builder.behind(value)
        index = self._constant(f"{name}_index", np.array(self._index[source], np.int64))
        switch = at.op("Gather", [self._switches, index], name=f"{name}_switch")
        branches = {"then_branch": self._branch(nodes), "else_branch": self._branch([nothing])}
        chosen = at.op("If", [switch], branches, name=f"{name}_chosen")
        result = at.op("Add", [value, chosen], name=f"{name}_noisy")
        result.type, result.shape = value.type, value.shape
        for node, port in uses:
            node.replace_input_with(port, result)
        if readers is not None:
            return
        self._values[name] = result
        if value.is_graph_output():
            for place, output in enumerate(graph.outputs):
                if output is value:
                    graph.outputs[place] = result
            value.name, result.name = self._builder.names.fresh(f"{name}_exact"), name

    def _branch(self, nodes: Sequence[ir.Node]) -> ir.Graph:
        opsets = dict(self.model.graph.opset_imports)
        return ir.Graph([], [nodes[-1].outputs[0]], nodes=nodes, opset_imports=opsets, name="error")
