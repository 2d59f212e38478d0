"""The child process that runs onnxsim: `python -P onnxsim_worker.py IN OUT LIMIT_BYTES`.

It is started by file name, so it imports nothing of onnxlite and nothing of the parent's
`__main__`. Whatever happens to it (crash, hang, out of memory) happens to it alone.
"""

from __future__ import annotations

import sys


def _limit_memory(nbytes: int) -> None:
    try:
        import resource
    except ImportError:  # not POSIX: the parent's time limit is the only guard
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or nbytes < hard:
        resource.setrlimit(resource.RLIMIT_AS, (nbytes, hard))


def main(source: str, target: str, limit_bytes: int, fold_bytes: int) -> None:
    """Simplify the model at `source` into `target`."""
    import onnx
    import onnxsim

    _limit_memory(limit_bytes)
    model = onnx.load(source)
    simplified, _ = onnxsim.simplify(
        model,
        # Gemm needs a Reshape on both sides of a batched product: more nodes, not fewer.
        skipped_optimizers=["fuse_matmul_add_bias_into_gemm"],
        tensor_size_threshold=f"{fold_bytes}B",
    )
    onnx.save(simplified, target)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
