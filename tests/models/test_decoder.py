"""The generated decoder: valid, causal, and of the size it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from models.decoder import Decoder, large_decoder
from onnxlite.runtime import Session

SIZES = Decoder(layers=2, width=64, hidden=96, heads=4, key_heads=2, vocabulary=100)


def test_it_is_valid_and_causal(tmp_path: Path) -> None:
    path = large_decoder(tmp_path / "decoder.onnx", sizes=SIZES)
    onnx.checker.check_model(str(path), full_check=True)
    session = Session(path)
    ids = np.arange(14).reshape(2, 7)
    other = ids.copy()
    other[:, -1] = 99
    want, got = (session.run({"ids": x})["logits"] for x in (ids, other))
    assert want.shape == (2, 7, 100)
    assert 0.5 < want.std() < 2
    assert np.abs(want[:, :-1] - got[:, :-1]).max() < 1e-5
    assert np.abs(want[:, -1] - got[:, -1]).max() > 0.1


def test_weights_lie_outside(tmp_path: Path) -> None:
    path = large_decoder(tmp_path / "decoder.onnx", sizes=SIZES)
    per_layer = 64 * (64 + 32 + 32 + 64 + 3 * 96)
    assert (tmp_path / "decoder.onnx.data").stat().st_size == 4 * (2 * 6400 + 2 * per_layer)
    assert path.stat().st_size < 50_000
