"""A decoder of 1.1 billion parameters to 4 bits: `python -m benchmarks.low_bits_large`.

4.4 GB of float32 weights in external data (`models/decoder.py`) are quantized in blocks of 32,
written, and run, by onnxlite and by onnxruntime's own quantizer, each in a child process whose
memory is read every 20 ms (see `benchmarks.large_model`). SQNR is that of the logits for 16
tokens against the float model; the weights are random, so it says how exact the weights are and
nothing about language. onnxruntime's quantizer leaves the embedding in float; `products only`
does the same. Storage mode is left out: ONNX Runtime keeps every intermediate of the decoding
until it has loaded the model, 19 GB here.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._tables import publish
from benchmarks.large_model import watched
from models.decoder import Decoder, large_decoder
from onnxlite.model import disk_bytes
from onnxlite.runtime import Session

LIMIT_BYTES = 1_500_000_000

_OURS = """
import sys
from onnxlite import quantize_weights, save
source, target, mode, method, exclude = sys.argv[1:]
left_out = exclude.split(",") if exclude else []
save(
    quantize_weights(source, bits=4, mode=mode, method=method, block_size=32, exclude=left_out),
    target,
    external_data="always",
)
"""
_PEER = """
import sys
import onnx
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
source, target = sys.argv[1:]
quantizer = MatMulNBitsQuantizer(
    onnx.load(source), bits=4, block_size=32, is_symmetric=False, accuracy_level=4
)
quantizer.process()
quantizer.model.save_model_to_file(target, use_external_data_format=True)
"""

CONTESTANTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "onnxlite compute": (_OURS, ("compute", "rtn", "")),
    "onnxlite compute, products only": (_OURS, ("compute", "rtn", "embed.weight")),
    "onnxruntime MatMulNBitsQuantizer": (_PEER, ()),
}


def logits(path: Path, ids: NDArray[np.int64]) -> NDArray[Any]:
    """The decoder's output; the session is gone afterwards."""
    return Session(path).run({"ids": ids})["logits"]


def main() -> None:
    """Generate, quantize, compare, publish; exit code 1 above the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=22, help="blocks of the decoder (22)")
    parser.add_argument("--directory", type=Path, help="where the files go (default: temporary)")
    parser.add_argument("--only", action="append", help="run contestants whose name has this")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="onnxlite-", dir=options.directory) as directory:
        source = large_decoder(
            Path(directory) / "decoder.onnx", sizes=Decoder(layers=options.layers)
        )
        ids = np.random.default_rng(0).integers(0, 32000, (1, 16))
        want = logits(source, ids)
        for name, (script, arguments) in CONTESTANTS.items():
            if options.only and not any(part in name for part in options.only):
                continue
            target = Path(directory) / "small.onnx"
            start = time.perf_counter()
            command = [sys.executable, "-c", script, str(source), str(target), *arguments]
            _, peaks = watched(command)
            seconds = time.perf_counter() - start
            noise = float(((logits(target, ids) - want) ** 2).sum())
            rows.append(
                {
                    "quantizer": name,
                    "input_mb": round(disk_bytes(source) / 1e6),
                    "output_mb": round(disk_bytes(target) / 1e6),
                    "seconds": round(seconds, 1),
                    "peak_resident_mb": round(peaks.resident / 1e6),
                    "peak_anonymous_mb": round(peaks.anonymous / 1e6),
                    "sqnr_db": round(10 * float(np.log10((want**2).sum() / noise)), 2),
                }
            )
            for file in Path(directory).glob("small.onnx*"):
                file.unlink()
    title = f"A decoder of {rows[0]['input_mb'] / 4000:.2f} billion parameters to 4 bits"
    publish("low_bits_large", rows, title=title)
    ours = [row for row in rows if row["quantizer"].startswith("onnxlite")]
    if any(row["peak_resident_mb"] * 1e6 > LIMIT_BYTES for row in ours):
        raise SystemExit(f"above the limit of {LIMIT_BYTES / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
