"""What decoding takes while ONNX Runtime loads a model: estimated, and said where it is much."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from models.decoder import Decoder, large_decoder
from onnxlite import quantize_weights
from onnxlite.model import to_proto
from onnxlite.packing import BITS, weight_type
from onnxlite.quantize.weight_only.codes import Blocks, coding, nearest_levels
from onnxlite.quantize.weight_only.decode_graph import (
    OPSET,
    PackedTensor,
    decoder_model,
    load_nbytes,
)
from onnxlite.quantize.weight_only.options import Bits

SIZES = Decoder(layers=1, width=64, hidden=96, heads=4, key_heads=2, vocabulary=100)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("block", [0, 32])
def test_every_step_of_decoding_is_counted(bits: Bits, block: int) -> None:
    kind, shape = weight_type(bits), (420, 64)
    blocks = Blocks(shape, shape, (1,)) if not block else Blocks(shape, (420, 2, 32), (2,))
    weight = np.random.default_rng(0).standard_normal(blocks.view).astype(np.float32)
    found = coding(kind, *nearest_levels(kind, weight, blocks.reduced, free_zero=bool(block)))
    packed = PackedTensor(ir.DataType.FLOAT, blocks, found, lambda: found.encode(weight))
    proto = onnx.shape_inference.infer_shapes(
        to_proto(decoder_model([packed], OPSET)), data_prop=True
    )
    types = {info.name: info.type.tensor_type for info in proto.graph.value_info}
    types |= {info.name: info.type.tensor_type for info in proto.graph.output}
    held = 0
    for node in proto.graph.node:
        kind_of = types[node.output[0]]
        size = int(np.prod([dim.dim_value for dim in kind_of.shape.dim]))
        held += size * onnx.helper.tensor_dtype_to_np_dtype(kind_of.elem_type).itemsize
    # Scales and zero points are small beside the codes, and so is what fills up the last word.
    assert load_nbytes(packed) <= held <= 1.25 * load_nbytes(packed)


def test_the_report_says_where_it_is_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = large_decoder(tmp_path / "decoder.onnx", sizes=SIZES)

    def told(mode: str) -> list[str]:
        report = quantize_weights(source, bits=4, mode=mode, method="rtn").report
        return [d.message for d in report.skipped if d.what == "load"]

    assert not told("storage")
    assert not told("compute")
    step = importlib.import_module("onnxlite.quantize.weight_only.step")
    monkeypatch.setattr(step, "_MAX_LOAD_BYTES", 1 << 16)
    assert "compute" in told("storage")[0]
    assert not told("compute")
