"""Summary of a model (`inspect`): inputs, outputs, operators, parameters, cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated

import msgspec
import onnx
import onnx_ir as ir
from msgspec import Meta

from onnxlite.analysis.cost import LayerCost, cost, type_name
from onnxlite.analysis.shapes import with_image_size
from onnxlite.batch_axis import batch_specs
from onnxlite.graph import STANDARD_DOMAINS, iter_graphs, iter_nodes
from onnxlite.inputs import InputSpec, trim
from onnxlite.model import ModelLike, disk_bytes, load, plain_model, size_bytes
from onnxlite.normalize import normalize
from onnxlite.options import Options
from onnxlite.records import Report
from onnxlite.samples import BoundSamples, Samples, SamplesLike
from onnxlite.step import StepContext, from_options

#: Above this many bytes of tensors, zeros are counted only on request.
_COUNT_ZEROS_BELOW_BYTES = 500_000_000


class ValueSpec(msgspec.Struct, frozen=True, kw_only=True):
    """An input or output: name, type, and shape; a dynamic size is a name or None."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None

    def __str__(self) -> str:
        dims = "?" if self.shape is None else ", ".join(str(dim or "?") for dim in self.shape)
        return f"{self.name}: {self.dtype}[{dims}]"


class Summary(Report, frozen=True, kw_only=True):
    """Result of `inspect`.

    Attributes:
        name: name of the graph.
        producer: exporter and its version, if recorded.
        ir_version: version of the file format.
        opsets: version by operator domain; the standard domain is `"ai.onnx"`.
        inputs: inputs that a caller feeds.
        batch_axes: axis that counts samples, by name of the input; None if it has none.
        outputs: outputs of the model.
        operators: number of nodes by operator, subgraphs included, most frequent first;
            operators of other domains are written `domain.name`.
        parameters: elements of all constants except 64-bit integers, booleans, strings.
        macs: multiply-accumulates of one run at `macs_inputs`; None if unknown, see `notes`.
        macs_inputs: input shapes for which `macs` is valid.
        size_bytes: bytes of all tensors.
        bytes_by_type: bytes of tensors by data type.
        file_bytes: size on disk with external data; None if the model is not a file.
        layers: one row per layer.
        notes: unknown figures, with the reason.
    """

    name: str
    producer: str
    ir_version: int
    opsets: dict[str, int]
    inputs: tuple[ValueSpec, ...]
    batch_axes: dict[str, int | None]
    outputs: tuple[ValueSpec, ...]
    operators: dict[str, int]
    parameters: int
    macs: int | None
    macs_inputs: dict[str, tuple[int, ...]]
    size_bytes: int
    bytes_by_type: dict[str, int]
    file_bytes: int | None
    layers: tuple[LayerCost, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        macs = "unknown MACs" if self.macs is None else f"{self.macs / 1e6:,.1f} M MACs"
        return (
            f"{self.name}: {sum(self.operators.values())} nodes, "
            f"{self.parameters:,} parameters, {macs}, {self.size_bytes / 1e6:,.2f} MB of tensors"
        )


class InspectOptions(Options, frozen=True, kw_only=True):
    """Options of `inspect`."""

    batch_size: Annotated[int, Meta(ge=1, description="Batch size that MACs are counted for.")] = 1
    sparsity: Annotated[
        bool | None,
        Meta(
            description="Count zeros, which reads every weight; None does so in models below "
            "500 MB."
        ),
    ] = None


@from_options(InspectOptions, runtime=("batch_axis",))
def inspect(
    model: ModelLike,
    *,
    samples: SamplesLike | None = None,
    options: InspectOptions,
    context: StepContext,
) -> Summary:
    """Describe a model: inputs, outputs, operators, parameters, MACs, bytes, layers.

    Args:
        model: a path, a `ModelProto`, an `ir.Model` or a `Result`; it is not changed.
        samples: the first `batch_size` of them set the sizes of dynamic axes for the MACs;
            needed if the model accepts no generated input.

    Raises:
        LoadError: the model cannot be read.
        InvalidModelError: its graph is not valid.
        SamplesError: the samples do not fit the model.
    """
    batch, sparsity = options.batch_size, options.sparsity
    model = plain_model(model)
    source = load(model)
    feeds = None
    specs = batch_specs(source, context.batch_axis)
    notes: tuple[str, ...] = ()
    if samples is None:
        notes = tuple(_assumed_sizes(source, specs))
    else:
        stream = Samples(BoundSamples(samples, specs), specs, batch_size=batch)
        feed = next(iter(stream))
        feeds = [trim(feed, stream.inputs, batch) or feed]
    nbytes = size_bytes(source)
    operators = Counter(_operator(node) for node in iter_nodes(source))
    plain = load(source)
    skipped = normalize(plain)
    if sparsity is None:
        sparsity = nbytes < _COUNT_ZEROS_BELOW_BYTES
    counted = cost(plain, feeds=feeds, inputs=specs, batch=batch, sparsity=sparsity)
    on_disk = None
    if not isinstance(model, onnx.ModelProto | ir.Model):
        on_disk = disk_bytes(model)
    return Summary(
        name=source.graph.name or "graph",
        producer=f"{source.producer_name or ''} {source.producer_version or ''}".strip(),
        ir_version=source.ir_version,
        opsets={domain or "ai.onnx": v for domain, v in source.opset_imports.items()},
        inputs=tuple(_spec(v) for v in source.graph.inputs if not v.is_initializer()),
        batch_axes={spec.name: spec.batch_axis for spec in specs},
        outputs=tuple(_spec(value) for value in source.graph.outputs),
        operators=dict(operators.most_common()),
        parameters=counted.parameters,
        macs=counted.macs,
        macs_inputs=counted.inputs,
        size_bytes=nbytes,
        bytes_by_type=_bytes_by_type(plain),
        file_bytes=on_disk,
        layers=counted.layers,
        notes=(*notes, *(f"{d.what}: {d.message}" for d in skipped), *counted.notes),
    )


def _assumed_sizes(model: ir.Model, specs: Sequence[InputSpec]) -> Iterator[str]:
    """Note sizes of dynamic axes that MACs are counted at, and where they are from."""
    sized = with_image_size(model, specs)
    if sized != tuple(specs):
        size = model.metadata_props["imgsz"]
        yield f"MACs are counted at the image size that the metadata declares, imgsz {size}"
    free = [
        f"{dim or '?'} of {spec.name!r}"
        for spec in sized
        for axis, dim in enumerate(spec.shape or ())
        if not isinstance(dim, int) and axis != spec.batch_axis
    ]
    if free:
        names = ", ".join(free[:4]) + (", ..." if free[4:] else "")
        yield f"MACs are counted at made-up sizes of {names}: give samples of the real sizes"


def _operator(node: ir.Node) -> str:
    if node.domain in STANDARD_DOMAINS:
        return node.op_type
    return f"{node.domain}.{node.op_type}"


def _spec(value: ir.Value) -> ValueSpec:
    dims = None
    if value.shape is not None:
        dims = tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape)
    return ValueSpec(name=value.name or "?", dtype=type_name(value.dtype), shape=dims)


def _bytes_by_type(model: ir.Model) -> dict[str, int]:
    totals: Counter[str] = Counter()
    for graph in iter_graphs(model):
        for value in graph.initializers.values():
            if (tensor := value.const_value) is not None:
                totals[type_name(tensor.dtype)] += tensor.nbytes
    return dict(totals.most_common())
