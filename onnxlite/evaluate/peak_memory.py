"""Peak memory of loading a model and running it once, in a process of its own."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import msgspec

from onnxlite.errors import ExecutionError
from onnxlite.inputs import Feed
from onnxlite.runtime import Session

_TIMEOUT_S = 600.0


class PeakMemory(msgspec.Struct, frozen=True, kw_only=True):
    """Highest resident memory of a process that loads a model and runs it once.

    Mapped pages of files count as resident.

    Attributes:
        peak_bytes: over the whole life of the process.
        base_bytes: before it opened the model: interpreter and libraries.
    """

    peak_bytes: int
    base_bytes: int


def peak_memory(model: Path, feed: Feed, *, threads: int | None = 1) -> PeakMemory:
    """Measure in a child process how much memory `model` needs for `feed`.

    Raises:
        ExecutionError: the child failed or took longer than ten minutes, or the system
            does not tell a process's peak memory.
    """
    package = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    script = f"from {__name__} import _report; _report()"
    command = [sys.executable, "-c", script, str(model), str(threads or 0)]
    try:
        child = subprocess.run(
            command,
            input=pickle.dumps(feed),
            capture_output=True,
            check=True,
            timeout=_TIMEOUT_S,
            env={**os.environ, "PYTHONPATH": path},
        )
    except subprocess.TimeoutExpired as error:
        raise ExecutionError(f"no peak memory within {_TIMEOUT_S:.0f} s") from error
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        raise ExecutionError(
            f"cannot measure peak memory: {lines[-1] if lines else error}"
        ) from error
    return msgspec.json.decode(child.stdout, type=PeakMemory)


def high_water_bytes() -> int:
    """Peak resident memory of this process so far.

    Raises:
        ExecutionError: the system does not tell.
    """
    # Not ru_maxrss first: on Linux a child inherits that of the process that started it.
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError as error:
        raise ExecutionError("peak memory is not measured on this system") from error
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _report() -> None:
    """Run in the child: takes path and threads as arguments, a pickled feed."""
    model, threads = sys.argv[1:]
    feed: Feed = pickle.load(sys.stdin.buffer)
    base = high_water_bytes()
    Session(Path(model), threads=int(threads) or None, random="drawn").run(feed)
    result = PeakMemory(peak_bytes=high_water_bytes(), base_bytes=base)
    sys.stdout.buffer.write(msgspec.json.encode(result))
