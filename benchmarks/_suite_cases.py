"""Models of the suites: ONNX's own tests, the tests' nets, and random graphs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx.backend.test.loader import load_model_tests

from onnxlite.errors import OnnxliteError
from onnxlite.inputs import Feed
from onnxlite.model import load
from onnxlite.runtime import probe_feeds
from tests.golden.nets import NETS as GOLDEN
from tests.odd_models import NOT_RUNNABLE, ODD, feeds, odd, parse
from tests.properties.test_random_channels import BLOCKS, Builder
from tests.properties.test_round_trip import models
from tests.topologies import constant_cases, product_cases
from tests.topologies.axis_nets import AXES
from tests.topologies.constant_nets import CONSTANTS
from tests.topologies.layout_nets import LAYOUTS
from tests.topologies.product_nets import PRODUCTS
from tests.topologies.rule_nets import NETS

#: Random graphs of either kind.
_RANDOM = 60
_TOPOLOGIES = {
    **AXES, **CONSTANTS, **LAYOUTS, **PRODUCTS, **NETS,
    **{f"constant case {name}": net for name, net in constant_cases.CASES.items()},
    **{f"product case {name}": net for name, net in product_cases.CASES.items()},
}  # fmt: skip


class Case(NamedTuple):
    """A model, serialized, with feeds that it takes."""

    name: str
    model: bytes
    feeds: tuple[Feed, ...]


def cases() -> Iterator[Case]:
    """Yield all models of the suites; not all of them run in ONNX Runtime."""
    yield from backend_cases()
    yield from net_cases()
    yield from random_cases()


def backend_cases() -> Iterator[Case]:
    """Yield the models of `onnx.backend.test` whose inputs are tensors, with their inputs."""
    with warnings.catch_warnings():
        # The suite's own reference implementations overflow on purpose.
        warnings.simplefilter("ignore")
        generated = load_model_tests(kind="node")
    for case in generated:
        assert case.model is not None
        assert case.data_sets is not None
        yield from _backend_case(case.name, case.model, list(case.data_sets[0][0]))
    for kind in ("simple", "pytorch-converted", "pytorch-operator"):
        for case in load_model_tests(kind=kind):
            folder = Path(case.model_dir or "")
            files = (folder / "test_data_set_0").glob("input_*.pb")
            inputs = [onnx.load_tensor(f) for f in sorted(files, key=lambda f: (len(f.name), f))]
            yield from _backend_case(
                f"{kind}/{case.name}", onnx.load(folder / "model.onnx"), inputs
            )


def _backend_case(name: str, proto: onnx.ModelProto, inputs: list[Any]) -> Iterator[Case]:
    arrays = [_array(value) for value in inputs]
    if all(isinstance(array, np.ndarray | np.generic) for array in arrays):
        weights = {tensor.name for tensor in proto.graph.initializer}
        taken = [value.name for value in proto.graph.input if value.name not in weights]
        feed = dict(zip(taken, map(np.asarray, arrays), strict=False))
        yield Case(name, proto.SerializeToString(), (feed,))


def _array(value: Any) -> Any:
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def net_cases() -> Iterator[Case]:
    """Yield the nets of the channel rules, real and made-up nets, and oddities of exporters."""
    for name, net in _TOPOLOGIES.items():
        yield from _generated(f"topology {name}", partial(parse, net.text))
    for name, make in GOLDEN.items():
        net = make()
        halves = [
            {key: value[part] if np.ndim(value) else value for key, value in net.samples.items()}
            for part in (slice(0, 2), slice(2, 4))
        ]
        yield Case(f"net {name}", net.model.SerializeToString(), tuple(halves))
    for name in ODD:
        if name not in NOT_RUNNABLE:
            yield Case(f"odd {name}", odd(name).SerializeToString(), tuple(feeds(name)))


def random_cases() -> Iterator[Case]:
    """Yield random graphs: of values and weights in several places, and of blocks of channels."""
    found: list[bytes] = []
    repeatable = settings(
        max_examples=_RANDOM,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )

    @repeatable
    @given(proto=models())
    def graphs(proto: onnx.ModelProto) -> None:
        found.append(proto.SerializeToString())

    @repeatable
    @given(data=st.data())
    def networks(data: st.DataObject) -> None:
        blocks = data.draw(st.lists(st.sampled_from(BLOCKS), min_size=2, max_size=7))
        found.append(parse(Builder(data.draw).text(blocks)).SerializeToString())

    graphs()
    networks()
    for number, content in enumerate(found):
        yield from _generated(f"random {number}", partial(onnx.ModelProto.FromString, content))


def _generated(name: str, make: Callable[[], onnx.ModelProto]) -> Iterator[Case]:
    """A case with generated inputs, if the model takes any."""
    try:
        proto = make()
        yield Case(name, proto.SerializeToString(), tuple(probe_feeds(load(proto))))
    except OnnxliteError:
        return
