"""`inspect` on small models and on the committed net."""

from __future__ import annotations

import copy
from pathlib import Path

import msgspec
import numpy as np
import pytest

from onnxlite.analysis.summary import Summary, inspect
from onnxlite.errors import LoadError
from onnxlite.model import load, size_bytes
from tests.odd_models import ODD, feeds, odd


def test_summary_of_a_small_model() -> None:
    proto = odd("plain")
    proto.producer_name, proto.producer_version = "exporter", "2.1"
    summary = inspect(proto)
    assert summary.producer == "exporter 2.1"
    assert summary.ir_version == 8
    assert summary.opsets == {"ai.onnx": 17}
    assert [str(spec) for spec in summary.inputs] == ["x: float32[n, 3, 8, 8]"]
    assert [str(spec) for spec in summary.outputs] == ["y: float32[n, 4, 8, 8]"]
    assert summary.operators == {"Conv": 1, "Relu": 1}
    assert summary.parameters == 112
    assert summary.macs == 4 * 64 * 27
    assert summary.macs_inputs == {"x": (1, 3, 8, 8)}
    assert summary.size_bytes == 448
    assert summary.bytes_by_type == {"float32": 448}
    assert summary.file_bytes is None
    assert str(summary) == "g: 2 nodes, 112 parameters, 0.0 M MACs, 0.00 MB of tensors"


@pytest.mark.parametrize("name", sorted(ODD))
def test_every_odd_model_can_be_inspected_and_stays_as_it_is(name: str) -> None:
    proto = odd(name)
    before = copy.deepcopy(proto)
    summary = inspect(proto)
    assert proto == before
    assert summary.size_bytes == size_bytes(load(proto))
    assert summary.macs is not None or summary.notes
    again = msgspec.json.decode(msgspec.json.encode(summary), type=Summary)
    assert again == summary


def test_operators_count_subgraphs_and_name_other_domains() -> None:
    assert inspect(odd("If")).operators == {"MatMul": 2, "If": 1, "Relu": 1, "Tanh": 1}
    assert inspect(odd("contrib op")).operators == {"com.microsoft.FusedMatMul": 1, "Add": 1}


def test_a_function_counts_its_body() -> None:
    summary = inspect(odd("function"))
    assert summary.parameters > 0
    assert any(row.op_type in ("MatMul", "Gemm") for row in summary.layers)


def test_weights_in_constant_nodes_are_parameters() -> None:
    assert inspect(odd("constant node weights")).parameters == 6


def test_file_size_counts_external_data(external_model: Path) -> None:
    summary = inspect(external_model)
    data = external_model.parent / "big.onnx.data"
    assert summary.file_bytes == external_model.stat().st_size + data.stat().st_size
    assert summary.parameters == 32 * 32 + 32 * 16 + 16


def test_samples_decide_the_sizes_of_dynamic_axes() -> None:
    summary = inspect(odd("unnamed dims"), samples=feeds("unnamed dims"))
    assert summary.macs_inputs == {"x": (1, 3, 6, 6)}
    assert summary.macs == 4 * 16 * 27


def test_zeros_are_counted_unless_told_not_to() -> None:
    assert inspect(odd("plain")).layers[0].sparsity == 0.0
    assert inspect(odd("plain"), sparsity=False).layers[0].sparsity is None


def test_a_missing_file_is_a_load_error(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="check the path"):
        inspect(tmp_path / "none.onnx")


def test_the_committed_net(residual_path: Path) -> None:
    summary = inspect(residual_path)
    assert summary.macs is not None
    assert 40e6 < summary.macs < 50e6
    assert summary.notes == ()
    assert summary.parameters == sum(row.parameters for row in summary.layers)
    assert np.isclose(summary.size_bytes, 4 * summary.parameters, rtol=1e-3)
