"""What it takes to load packed weights: `python -m benchmarks.load_memory`.

A decoder of 0.22 billion random parameters (`models/decoder.py`) in the forms that
`quantize_weights` writes, each loaded in ONNX Runtime by a process of its own whose memory is
watched. Storage mode costs memory while a session is made, because ONNX Runtime keeps every step
of the decoding until it is done; compute mode costs none.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks._tables import publish
from benchmarks.large_model import watched
from models.decoder import Decoder, large_decoder
from onnxlite import quantize_weights, save
from onnxlite.model import disk_bytes
from onnxlite.packing import Bits
from onnxlite.quantize.weight_only.options import WeightMode

_FORMS: tuple[tuple[WeightMode, Bits, int], ...] = (
    ("compute", 4, 32),
    ("compute", 8, 0),
    ("storage", 8, 0),
    ("storage", 6, 0),
    ("storage", 4, 0),
    ("storage", 4, 32),
    ("storage", 3, 0),
    ("storage", "ternary", 0),
)
_LOAD = "import sys, onnxruntime; onnxruntime.InferenceSession(sys.argv[1])"


def row(path: Path, form: str, weights: int) -> dict[str, Any]:
    """The file's size and the memory of loading it."""
    _, peaks = watched([sys.executable, "-c", _LOAD, str(path)])
    return {
        "form": form,
        "file_mb": round(disk_bytes(path) / 1e6),
        "peak_resident_mb": round(peaks.resident / 1e6),
        "bytes_per_weight": round(peaks.resident / weights, 2),
    }


def main() -> None:
    """Generate, pack, load, publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=2, help="blocks of the decoder (2)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="onnxlite-") as directory:
        target = Path(directory) / "packed.onnx"
        source = large_decoder(
            Path(directory) / "decoder.onnx", sizes=Decoder(layers=options.layers)
        )
        weights = disk_bytes(source) // 4
        rows = [row(source, "float32", weights)]
        for mode, bits, block in _FORMS:
            model = quantize_weights(
                source, bits=bits, mode=mode, method="rtn", block_size=block
            ).model
            save(model, target, external_data="always")
            name = f"{mode}, {bits} bits" + (f" in blocks of {block}" if block else "")
            rows.append(row(target, name.replace("ternary bits", "ternary"), weights))
    publish("load_memory", rows, title=f"Loading {weights / 1e9:.2f} billion weights")


if __name__ == "__main__":
    main()
