"""The onnxsim package, run in a child process with limits on time and memory.

onnxsim is a capable simplifier with a history of crashes, so nothing it does can reach
this process: a crash, a hang, an exhausted memory or an unusable result is a reason in
the report, not an error.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from onnxlite.errors import LoadError, ModelError, OnnxliteError
from onnxlite.interruption import checkpoint
from onnxlite.model import load, size_bytes
from onnxlite.save import save
from onnxlite.validity import interface_difference

_WORKER = Path(__file__).with_name("onnxsim_worker.py")
#: onnxsim keeps several copies of a model in memory.
MAX_BYTES = 500_000_000
_BASE_MEMORY_BYTES = 6 << 30
_MEMORY_PER_BYTE = 8
#: Seconds between checks whether other work wants to end.
_POLL_S = 0.2


def run_onnxsim(model: ir.Model, *, time_limit: float, fold_bytes: int) -> ir.Model | str:
    """Let onnxsim simplify a copy of `model`.

    Args:
        model: stays as it is.
        time_limit: seconds after which the child process is stopped.
        fold_bytes: largest tensor that constant folding may create.

    Returns:
        The new model, or the reason why there is none.
    """
    nbytes = size_bytes(model)
    if nbytes > MAX_BYTES:
        return (
            f"the model holds {nbytes / 2**20:.0f} MiB of weights, and onnxsim needs several "
            f"times that in memory (limit {MAX_BYTES / 2**20:.0f} MiB)"
        )
    if not sys.executable:
        return "no Python executable to run it in (embedded interpreter)"
    with tempfile.TemporaryDirectory(prefix="onnxlite-") as directory:
        source, target = Path(directory) / "in.onnx", Path(directory) / "out.onnx"
        memory = _BASE_MEMORY_BYTES + _MEMORY_PER_BYTE * nbytes
        try:
            save(model, source, external_data="never")
            command = [sys.executable, "-P", str(_WORKER), str(source), str(target)]
            ended = _ended([*command, str(memory), str(fold_bytes)], time_limit)
        except (OnnxliteError, OSError) as error:
            return f"it could not be started: {error}"
        if ended is None:
            return f"it did not finish within {time_limit:g} s"
        code, errors = ended
        if code != 0 or not target.is_file():
            return _cause(code, errors)
        return _usable(model, target)


def _ended(command: Sequence[str], time_limit: float) -> tuple[int, str] | None:
    """Run a process to its end; return its exit code and errors, or None if time was up."""
    end = time.monotonic() + time_limit
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=pipe) as child:
        try:
            while time.monotonic() < end:
                checkpoint()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    _, errors = child.communicate(timeout=_POLL_S)
                    return child.returncode, errors.decode(errors="replace")
            return None
        finally:
            child.kill()


def _cause(code: int, stderr: str) -> str:
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = str(-code)
        return f"it crashed ({name})"
    lines = [line for line in stderr.strip().splitlines() if line.strip()]
    return f"it failed: {lines[-1][:200] if lines else f'exit code {code}'}"


def _usable(model: ir.Model, path: Path) -> ir.Model | str:
    """Read the result and give it back what onnxsim drops."""
    try:
        result = load(path)
    except (LoadError, ModelError) as error:
        return f"its result is not a valid model: {error}"
    if (difference := interface_difference(model, result)) is not None:
        return f"its result has another interface: {difference}"
    for old, new in zip(model.graph.outputs, result.graph.outputs, strict=True):
        new.shape = old.shape
    result.producer_name, result.producer_version = model.producer_name, model.producer_version
    result.domain, result.model_version = model.domain, model.model_version
    result.doc_string, result.graph.doc_string = model.doc_string, model.graph.doc_string
    result.graph.name = model.graph.name
    result.metadata_props.clear()
    result.metadata_props.update(model.metadata_props)
    result.graph.metadata_props.update(model.graph.metadata_props)
    result.meta.update(model.meta)
    return result
