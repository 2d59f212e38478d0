"""ONNX Runtime: the only file that imports it.

Sessions, taps on inner values, and probes. All on the CPU, with the threads that are
asked for and no others.
"""

from __future__ import annotations

import contextlib
import importlib.util
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from msgspec.structs import replace
from numpy.typing import NDArray

from onnxlite.errors import ExecutionError
from onnxlite.graph import iter_nodes
from onnxlite.inputs import Feed, InputSpec, input_specs
from onnxlite.interruption import checkpoint
from onnxlite.model import PROTO_LIMIT_BYTES, clone, load, size_bytes, to_bytes
from onnxlite.ops import may_draw, tie_noise, writes_inputs
from onnxlite.samples import generate
from onnxlite.save import save

Outputs = dict[str, NDArray[Any]]
Optimization = Literal["all", "extended", "basic", "none"]

_LEVELS = {
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
_FLOAT_TYPES = {
    "tensor(float16)": np.float16,
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
}


class Session:
    """A model loaded in ONNX Runtime on the CPU.

    Args:
        model: the model, or the path of a saved one.
        threads: intra-operator threads; None takes all cores.
        optimization: how much of its own graph optimization ONNX Runtime does.
        profile: path prefix of a JSON profile that `end_profiling` writes.
        optimized_path: where ONNX Runtime writes the graph that it really runs.
        qdq: `"fused"` runs what lies between Q and DQ nodes on integers, some int8 activations
            as uint8 on x86; `"int8"` lets them stay int8, as on ARM; `"float"` computes all of
            it in float, as the operators say.
        random: `"tied"` replaces random operators on a copy by noise that is the same on every
            run and in every model (`ops/noise.py`), so that results can be compared; `"drawn"`
            keeps them, for times and for what is shipped.

    Raises:
        ExecutionError: ONNX Runtime refuses the model; the message holds its words.
    """

    def __init__(
        self,
        model: ir.Model | Path,
        *,
        threads: int | None = None,
        optimization: Optimization = "all",
        profile: Path | None = None,
        optimized_path: Path | None = None,
        qdq: Literal["fused", "int8", "float"] = "fused",
        random: Literal["tied", "drawn"] = "tied",
    ) -> None:
        options = ort.SessionOptions()
        options.graph_optimization_level = _LEVELS[optimization]
        options.log_severity_level = 4
        # Spinning worker threads distort every other measurement on a small machine.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if qdq == "int8":
            options.add_session_config_entry("session.qdqisint8allowed", "1")
        if qdq == "float":
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        if threads is not None:
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile)
        if optimized_path is not None:
            options.optimized_model_filepath = str(optimized_path)
        with _loadable(_tied(model) if random == "tied" else model) as source:
            self._session = _guard(
                lambda: ort.InferenceSession(source, options, providers=["CPUExecutionProvider"]),
                "ONNX Runtime cannot load the model",
            )
        self.input_names = tuple(value.name for value in self._session.get_inputs())
        self.output_names = tuple(value.name for value in self._session.get_outputs())
        self._output_names = list(self.output_names)
        self.threads = threads
        self._copies = isinstance(model, ir.Model) and writes_inputs(model)
        self._widths = {
            value.name: _FLOAT_TYPES[value.type]
            for value in self._session.get_inputs()
            if value.type in _FLOAT_TYPES
        }

    def suited(self, feed: Feed) -> Feed:
        """A feed of another model with its floats in the widths that this one takes."""
        return {
            name: _in_width(array, self._widths[name])
            if name in self._widths and getattr(array, "dtype", np.dtype("V")).kind == "f"
            else array
            for name, array in feed.items()
        }

    def run(self, feed: Feed) -> Outputs:
        """Run one feed; returns every output by name. Raises `ExecutionError`."""
        checkpoint()
        if self._copies:
            feed = {
                name: np.copy(a) if isinstance(a, np.ndarray) else a for name, a in feed.items()
            }
        try:
            values = self._session.run(self._output_names, feed)
        # pybind11 exceptions of ONNX Runtime share no base class below Exception.
        except Exception as error:
            # Put together only now: on each run that took 5 us, 6% of a small model's time.
            fed = ", ".join(_fed_as(name, value) for name, value in feed.items())
            raise _failure(error, f"ONNX Runtime cannot run the model on inputs {fed}") from error
        return dict(zip(self.output_names, values, strict=True))

    def end_profiling(self) -> Path:
        """Stop profiling and return the path of the JSON profile."""
        return Path(self._session.end_profiling())


def _in_width(array: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """Convert floats; what a narrower type does not hold becomes its largest number."""
    if np.dtype(dtype).itemsize < array.dtype.itemsize:
        largest = np.finfo(dtype).max
        array = np.where(np.isinf(array), array, np.clip(array, -largest, largest))
    return array.astype(dtype, copy=False)


def _fed_as(name: str, value: Any) -> str:
    """Show one input in a message; sequences and optionals are no arrays."""
    if isinstance(value, np.ndarray):
        return f"{name}: {value.dtype}{list(value.shape)}"
    return f"{name}: {type(value).__name__}"


def _tied(model: ir.Model | Path) -> ir.Model | Path:
    """Tie the noise of a model; without random operators it is returned as it is."""
    if isinstance(model, ir.Model):
        return tie_noise(model)
    if not model.is_file() or not may_draw(model):
        return model
    read = load(model)
    tied = tie_noise(read)
    return model if tied is read else tied


@contextlib.contextmanager
def _loadable(model: ir.Model | Path) -> Iterator[str | bytes]:
    """Give `InferenceSession` a path, bytes, or a temporary file if it is large."""
    if isinstance(model, Path):
        yield str(model)
    elif size_bytes(model) < PROTO_LIMIT_BYTES // 2:
        yield to_bytes(model)
    else:
        with tempfile.TemporaryDirectory(prefix="onnxlite-") as directory:
            yield str(save(model, Path(directory) / "model.onnx", external_data="always"))


def _guard(call: Callable[[], Any], what: str) -> Any:
    """Run `call`, turning any of ONNX Runtime's exceptions into an `ExecutionError`."""
    try:
        return call()
    # pybind11 exceptions of ONNX Runtime share no base class below Exception.
    except Exception as error:
        raise _failure(error, what) from error


def _failure(error: Exception, what: str) -> ExecutionError:
    """Make an error of what failed and of the first line of ONNX Runtime's text."""
    text = str(error).strip().splitlines()
    return ExecutionError(f"{what}: {text[0] if text else type(error).__name__}")


def version() -> str:
    """The version of ONNX Runtime in use."""
    return str(ort.__version__)


def optimized_operators(model: ir.Model, *, optimization: Optimization = "all") -> Counter[str]:
    """Count the operators of a model as ONNX Runtime has optimized it.

    Raises:
        ExecutionError: ONNX Runtime refuses the model.
    """
    with tempfile.TemporaryDirectory(prefix="onnxlite-") as directory:
        path = Path(directory) / "optimized.onnx"
        Session(model, threads=1, optimization=optimization, optimized_path=path, random="drawn")
        return Counter(node.op_type for node in iter_nodes(load(path)))


def check_loads(model: ir.Model) -> None:
    """Raise `ExecutionError` unless ONNX Runtime loads the model."""
    Session(model, threads=1, optimization="basic", random="drawn")


def tapped(model: ir.Model, names: Iterable[str]) -> ir.Model:
    """A copy of `model` whose outputs are extended by these values of the main graph."""
    copy = clone(model)
    present = {value.name for value in copy.graph.outputs}
    values = {value.name: value for node in copy.graph for value in node.outputs}
    for name in names:
        if name not in present and name in values:
            copy.graph.outputs.append(values[name])
            present.add(name)
    return copy


def run_all(
    model: ir.Model,
    feeds: Sequence[Feed],
    *,
    threads: int | None = None,
    optimization: Optimization = "all",
) -> list[Outputs]:
    """Run every feed in one session."""
    session = Session(model, threads=threads, optimization=optimization)
    return [session.run(feed) for feed in feeds]


#: ONNX Runtime loads 16,000 nodes in 1.6 s as they are, and in 6.4 s with all optimizations.
_MANY_NODES = 2_000


def checking_session(model: ir.Model) -> Session:
    """Load a model to check results, not speed.

    Above `_MANY_NODES` its graph is not optimized, because fusions take quadratic time.
    """
    many = sum(1 for _ in iter_nodes(model)) > _MANY_NODES
    return Session(model, threads=1, optimization="none" if many else "all")


def probe_feeds(
    model: ir.Model,
    inputs: Sequence[InputSpec] | None = None,
    *,
    count: int = 2,
    seed: int = 0,
) -> list[Feed]:
    """Find generated feeds that the model accepts, trying sizes for its dynamic axes.

    Args:
        model: to be run.
        inputs: with the sizes that are known; None takes the declared ones.
        count: number of feeds.
        seed: of their values.

    Returns:
        `count` feeds on which ONNX Runtime ran the model.

    Raises:
        ExecutionError: the model does not load, or no generated input is accepted; the
            message asks for real samples.
    """
    specs = [_named(spec) for spec in inputs or input_specs(model)]
    session = checking_session(model)
    last: ExecutionError | None = None
    for dims in _dim_guesses(specs):
        if _elements(specs, dims) > _MAX_PROBED_ELEMENTS:
            continue
        feeds = generate(specs, count=count, seed=seed, dims=dims)
        try:
            for feed in feeds:
                session.run(feed)
        except ExecutionError as error:
            last = error
            continue
        return feeds
    raise ExecutionError(f"no generated input is accepted, give samples; {last}") from last


#: No larger input is made up: with several dynamic axes a guess soon exceeds the memory.
_MAX_PROBED_ELEMENTS = 1 << 22


def _named(spec: InputSpec) -> InputSpec:
    """The spec with a name for every dynamic axis: those without get one by position."""
    if spec.shape is None:
        return spec
    shape = tuple(f"?{axis}" if dim is None else dim for axis, dim in enumerate(spec.shape))
    return replace(spec, shape=shape)


def _dim_guesses(specs: Sequence[InputSpec]) -> Iterator[Mapping[str, int]]:
    """Sizes for dynamic axes: the first is a batch, later ones need room for windows."""
    batch = {spec.batch for spec in specs if isinstance(spec.batch, str)}
    names = {d for s in specs for d in s.shape or () if isinstance(d, str)}
    if not names:
        yield {}
        return
    for size in (1, 16, 32, 64, 224, 256, 299, 512, 2, 3, 4, 8):
        for first in (2, 1, size):
            yield {name: first if name in batch else size for name in names}


def _elements(specs: Sequence[InputSpec], dims: Mapping[str, int]) -> int:
    return sum(
        prod(d if isinstance(d, int) else dims[d or ""] for d in s.shape or ()) for s in specs
    )


def symbolic_shapes(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `proto` with what ONNX Runtime's symbolic shape inference can tell.

    Raises:
        Exception: of any type; the tool asserts where it cannot follow a graph.
    """
    # By file and step by step: importing it as a package also imports torch where that is
    # installed, and its own entry point writes a file when it leaves a shape unknown.
    file = Path(ort.__file__).parent / "tools" / "symbolic_shape_infer.py"
    spec = importlib.util.spec_from_file_location("onnxlite._symbolic_shape_infer", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    engine = module.SymbolicShapeInference(2**31 - 1, False, False, 0)
    _leave_computed_splits_open(engine)
    engine._preprocess(proto)
    while engine.run_:
        engine._infer_impl()
    engine._update_output_from_vi()
    result: onnx.ModelProto = engine.out_mp_
    return result


def _leave_computed_splits_open(engine: Any) -> None:
    """Rewrite in place: a split by computed sizes has new symbols; the engine takes equal parts."""
    infer = engine._infer_Split_Common

    def common(node: onnx.NodeProto, make_value_info: Any) -> None:
        infer(node, make_value_info)
        sizes = node.input[1] if len(node.input) > 1 else ""
        if not sizes or engine._try_get_value(node, 1) is not None:
            return
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        for index, name in enumerate(node.output):
            kind = engine.known_vi_[name].type
            if kind.HasField("tensor_type"):
                symbol = engine._new_symbolic_dim_from_output(node, index, axis)
                kind.tensor_type.shape.dim[axis].dim_param = str(symbol)

    engine._infer_Split_Common = common
