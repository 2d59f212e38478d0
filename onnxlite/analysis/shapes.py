"""Shape inference by three engines in turn, because none of them is complete.

ONNX shape inference runs first, then ONNX Runtime's symbolic inference for the gaps, and then
a *probe* (one real run). Shapes of the first two are valid for every input and are written
into the model; shapes of a probe are valid only for its input and are returned.
"""

from __future__ import annotations

import json
import logging
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import onnx
import onnx_ir as ir

from onnxlite.errors import ExecutionError
from onnxlite.graph import iter_graphs, iter_nodes, static_shape
from onnxlite.inputs import Feed, InputSpec, input_specs, join, settled, trim
from onnxlite.model import clone, serialized
from onnxlite.ops import ShapeOf
from onnxlite.records import Skipped
from onnxlite.runtime import Session, probe_feeds, symbolic_shapes
from onnxlite.samples import generate
from onnxlite.validity import clear_inner_shapes

logger = logging.getLogger(__name__)

#: Larger tensors are weights; shapes never depend on their values.
_WEIGHT_BYTES = 4096
#: Channels of images: grey, RGB, and RGB with alpha.
_IMAGE_CHANNELS = (1, 3, 4)


def infer_shapes(
    model: ir.Model,
    *,
    refresh: bool = False,
    symbolic: bool = True,
    feeds: Sequence[Feed] | None = None,
) -> tuple[Skipped, ...]:
    """Rewrite in place: infer the shapes that are valid for all inputs.

    Unusable dimensions (named `?`, or not positive) become unknown first. The declared
    shapes of graph inputs are kept; unknown sizes of graph outputs become numbers.
    Weights are never read, so a model of any size costs little memory.

    Args:
        model: the model to annotate.
        refresh: clear the shapes of inner values first, needed after a change of shapes.
        symbolic: also use ONNX Runtime's symbolic inference where ONNX leaves a gap.
        feeds: inputs to run the model on; a *rank* that no engine infers is taken from the
            runs if all feeds agree; its dimensions remain unknown.

    Returns:
        Engines that failed, and the number of values of unknown rank, with the reason.
    """
    skipped: list[Skipped] = []
    _clean_shapes(model)
    if refresh:
        clear_inner_shapes(model)
    skipped += _infer(model, symbolic=symbolic)
    if feeds and any(value.shape is None for value in _open_values(model)):
        skipped += _ranks_from(model, feeds)
    if unknown := [value.name or "?" for value in _open_values(model) if value.shape is None]:
        names = ", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else "")
        skipped.append(
            Skipped("infer-shapes", names, "unknown-rank", f"rank of {len(unknown)} values unknown")
        )
    return tuple(skipped)


def probe_shapes(model: ir.Model, feed: Feed) -> dict[ir.Value, tuple[int, ...]]:
    """Run the model once and return the shape of every computed tensor.

    The shapes come from ONNX Runtime's profile, so no tensor is copied. Nodes of subgraphs are
    included: the executed branch of an `If`, the first iteration of a `Loop`.

    Raises:
        ExecutionError: ONNX Runtime does not run the model on `feed`.
    """
    copy = clone(model)
    nodes = {}
    for index, (node, twin) in enumerate(zip(iter_nodes(model), iter_nodes(copy), strict=True)):
        twin.name = f"n{index}"
        nodes[f"{twin.name}_kernel_time"] = node
    with tempfile.TemporaryDirectory(prefix="onnxlite-") as directory:
        prefix = Path(directory) / "profile"
        session = Session(copy, threads=1, optimization="none", profile=prefix, random="drawn")
        session.run(feed)
        events = json.loads(session.end_profiling().read_text())
    shapes: dict[ir.Value, tuple[int, ...]] = {}
    for event in events:
        if (made_by := nodes.get(event["name"])) is None:
            continue
        # An entry is {type: shape}; values that are absent or no tensors have none.
        entries = [shape for e in event["args"]["output_type_shape"] for shape in e.values()]
        outputs = [value for value in made_by.outputs if value.name]
        if len(entries) == len(outputs):
            for value, shape in zip(outputs, entries, strict=True):
                shapes.setdefault(value, tuple(shape))
    return shapes


def concrete_shapes(
    model: ir.Model,
    feeds: Sequence[Feed] | None = None,
    *,
    inputs: Sequence[InputSpec] | None = None,
    batch: int = 1,
) -> ShapeOf:
    """Compute the shapes of all values in numbers, for one feed.

    Args:
        model: the model; it is not changed.
        feeds: the first one sets the sizes of dynamic axes.
        inputs: with the batch axis of each, used if there are no feeds; None takes those that
            names tell.
        batch: size of the inputs' dynamic batch axes, used if there are no feeds. Other
            dynamic axes then get a size that the model accepts (`generated_feed`).

    Returns:
        A function from a value of `model`, subgraphs included, to its shape; None if no
        engine infers it, and for values added after this call.
    """
    copy = clone(model)
    twins = list(zip(_values(model), _values(copy), strict=True))
    _clean_shapes(copy)
    feed: Feed = {}
    try:
        feed = feeds[0] if feeds else generated_feed(copy, inputs, batch=batch)
    except ExecutionError as error:
        logger.info("dynamic axes stay unknown: %s", error)
    for value in copy.graph.inputs:
        if value.name in feed:
            value.shape = ir.Shape(feed[value.name].shape)
    clear_inner_shapes(copy)
    for output in copy.graph.outputs:
        output.shape = output.shape if output.is_graph_input() else None
    # A run tells the shapes of all values that it makes: quicker than symbols.
    _infer(copy, symbolic=not feed)
    if feed and any(True for _ in _open_values(copy)):
        _write_probed(copy, feed)
        if any(True for _ in _open_values(copy)):
            _infer(copy, symbolic=True)
    shapes = {}
    for value, twin in twins:
        shape = static_shape(twin)
        shapes[value] = static_shape(value) if shape is None else shape
    return lambda value: None if value is None else shapes.get(value)


def generated_feed(
    model: ir.Model,
    inputs: Sequence[InputSpec] | None = None,
    *,
    batch: int = 1,
    seed: int = 0,
) -> Feed:
    """Generate a feed whose dynamic batch axes have the size `batch`.

    Images have the size in the metadata; other dynamic axes one that the model accepts. Where
    neither names nor the caller tell the batch axes, they get an accepted size as well.

    Args:
        model: to be run.
        inputs: with the batch axis of each; None takes those that names tell.
        batch: number of samples.
        seed: of the values.

    Raises:
        ExecutionError: the model accepts none of the tried sizes; the message asks for samples.
    """
    specs = with_image_size(model, input_specs(model) if inputs is None else inputs)
    dims = {spec.batch: batch for spec in specs if isinstance(spec.batch, str)}
    if any(name not in dims for spec in specs for name in _dynamic(spec)):
        accepted = probe_feeds(model, specs, count=1, seed=seed)[0]
        if any(name is None for spec in specs for name in _dynamic(spec)):
            if inputs is None and not settled(specs):
                return accepted
            return trim(join([accepted] * batch, specs), specs, batch) or accepted
        for spec in specs:
            for dim, size in zip(spec.shape or (), accepted[spec.name].shape, strict=False):
                if isinstance(dim, str):
                    dims.setdefault(dim, size)
    return generate(specs, count=1, seed=seed, dims=dims, default_dim=batch)[0]


def with_image_size(model: ir.Model, specs: Sequence[InputSpec]) -> tuple[InputSpec, ...]:
    """Set the dynamic sides of image inputs to the size that the model's metadata declares.

    Ultralytics writes `imgsz` as `[height, width]` or as one number.
    """
    text = model.metadata_props.get("imgsz", "")
    sides = [int(number) for number in re.findall(r"\d+", text)]
    sides = sides * 2 if len(sides) == 1 else sides
    if len(sides) != 2 or not all(sides):
        return tuple(specs)
    return tuple(_with_sides(spec, sides) for spec in specs)


def _with_sides(spec: InputSpec, sides: Sequence[int]) -> InputSpec:
    """Set the dynamic sides of an image in either layout; other inputs stay."""
    if spec.shape is None or len(spec.shape) != 4:
        return spec
    first = 1 if spec.shape[3] in _IMAGE_CHANNELS and spec.shape[1] not in _IMAGE_CHANNELS else 2
    shape = list(spec.shape)
    for axis, side in zip((first, first + 1), sides, strict=True):
        shape[axis] = shape[axis] if isinstance(shape[axis], int) else side
    return msgspec.structs.replace(spec, shape=tuple(shape))


def _dynamic(spec: InputSpec) -> Iterator[str | None]:
    dims = (None,) if spec.shape is None else spec.shape
    return (dim for dim in dims if not isinstance(dim, int))


def _write_probed(model: ir.Model, feed: Feed) -> None:
    """Rewrite in place: set unknown shapes from a run, and infer again from these."""
    try:
        probed = probe_shapes(model, feed)
    except ExecutionError as error:
        logger.info("no shapes from a run: %s", error)
        return
    for value in _open_values(model):
        if value in probed:
            value.shape = ir.Shape(probed[value])
    _infer(model, symbolic=False)


def _ranks_from(model: ir.Model, feeds: Sequence[Feed]) -> list[Skipped]:
    try:
        runs = [probe_shapes(model, feed) for feed in feeds]
    except ExecutionError as error:
        return [Skipped("probe-shapes", "", "not-runnable", str(error))]
    for value in _open_values(model):
        ranks = {len(run[value]) for run in runs if value in run}
        if value.shape is None and len(ranks) == 1:
            value.shape = ir.Shape([None] * ranks.pop())
    return []


def _infer(model: ir.Model, *, symbolic: bool) -> list[Skipped]:
    """Rewrite in place: run the engines that are valid for every input, and merge."""
    skipped = []
    proto = _without_weights(model)
    try:
        _merge(model, onnx.shape_inference.infer_shapes(proto, data_prop=True))
    # The engines raise many types of errors; the next engine may succeed.
    except Exception as error:
        skipped.append(Skipped("onnx-shape-inference", "", "failed", str(error)))
    if symbolic and any(_has_gap(value) for value in _open_values(model)):
        try:
            _merge(model, symbolic_shapes(_without_weights(model)))
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            skipped.append(Skipped("symbolic-shape-inference", "", "failed", reason))
    return skipped


def _without_weights(model: ir.Model) -> onnx.ModelProto:
    """Convert to a proto whose weights are references to a file that does not exist."""
    bare = clone(model)
    for graph in iter_graphs(bare):
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.const_value = _placeholder(value.const_value)
        for node in graph:
            bare.opset_imports.setdefault(node.domain, 1)
            for output in node.outputs:  # a shape without a type cannot be written
                output.shape = output.shape if output.type is not None else None
            for name, attribute in node.attributes.items():
                if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref():
                    bare_tensor = _placeholder(attribute.as_tensor())
                    node.attributes[name] = ir.AttrTensor(name, bare_tensor)
    return serialized(bare)


def _placeholder(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    if tensor.dtype == ir.DataType.STRING or tensor.nbytes <= _WEIGHT_BYTES:
        return tensor
    return ir.ExternalTensor(
        "weights",
        0,
        tensor.nbytes,
        tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=tensor.name or "",
    )


def _merge(model: ir.Model, inferred: onnx.ModelProto) -> None:
    """Rewrite in place: add inferred shapes, graph by graph; keep known numbers."""
    found_model = ir.from_proto(inferred)
    for graph, found_graph in zip(model.graphs(), found_model.graphs(), strict=True):
        found = {value.name: value for value in _graph_values(found_graph)}
        main = graph is model.graph
        for value in _graph_values(graph):
            if value.is_initializer() or (main and value.is_graph_input()):
                continue
            if other := found.get(value.name):
                _adopt(value, other, declared=main and value.is_graph_output())


def _adopt(value: ir.Value, found: ir.Value, *, declared: bool) -> None:
    value.type = value.type or found.type
    if found.shape is None:
        return
    have = [None] * len(found.shape) if value.shape is None else list(value.shape)
    if len(have) != len(found.shape):
        return
    dims: list[int | str | None] = []
    for old, new in zip(map(_known, have), map(_known, found.shape), strict=True):
        if isinstance(old, int) or new is None:
            dims.append(old)
        elif declared:  # a declared shape gets no names that an engine generated
            dims.append(new if old is None and isinstance(new, int) else old)
        else:
            dims.append(new if old is None or isinstance(new, int) else old)
    if value.shape is None or dims != [_known(dim) for dim in value.shape]:
        value.shape = ir.Shape(dims)


def _known(dim: int | ir.SymbolicDim | None) -> int | str | None:
    """Return a dimension as a number or a name; None for any spelling of "unknown"."""
    if isinstance(dim, int):
        return dim
    name = dim.value if dim is not None else None
    return name if name and name != "?" else None


def _clean_shapes(model: ir.Model) -> None:
    """Rewrite in place: set the shapes of constants; clear unusable dimensions."""
    for graph in model.graphs():
        for value in _graph_values(graph):
            if (tensor := value.const_value) is not None:
                value.shape, value.type = (
                    ir.Shape(tensor.shape.numpy()),
                    ir.TensorType(tensor.dtype),
                )
            elif value.shape is not None:
                dims = [_known(dim) for dim in value.shape]
                dims = [d if not isinstance(d, int) or d > 0 else None for d in dims]
                if dims != [d if isinstance(d, int) else d.value for d in value.shape]:
                    value.shape = ir.Shape(dims)


def _values(model: ir.Model) -> Iterator[ir.Value]:
    for graph in model.graphs():
        yield from _graph_values(graph)


def _graph_values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from (v for v in graph.initializers.values() if not v.is_graph_input())
    for node in graph:
        yield from node.outputs


def _open_values(model: ir.Model) -> Iterator[ir.Value]:
    """Yield the computed tensors whose shape is not all numbers."""
    for node in iter_nodes(model):
        for value in node.outputs:
            tensor = value.name and isinstance(value.type, ir.TensorType | None)
            if tensor and static_shape(value) is None:
                yield value


def _has_gap(value: ir.Value) -> bool:
    return value.shape is None or any(_known(dim) is None for dim in value.shape)
