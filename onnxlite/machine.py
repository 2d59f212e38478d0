"""The machine that latencies are measured on, and its instruction sets."""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path

import msgspec

from onnxlite import runtime

#: The instruction sets that decide which kernels ONNX Runtime takes.
_INSTRUCTION_SETS = (
    "avx2",
    "avx512f",
    "avx_vnni",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "asimd",
    "asimddp",
    "i8mm",
    "sve",
)

#: What the measuring process itself adds to the load, at most.
_OWN_LOAD = 0.5


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Processor and software behind a measurement.

    Attributes:
        cpu: model name of the processor.
        cores: logical cores that this process may use.
        instructions: those instruction sets of the processor that matter for inference.
        system: operating system and architecture.
        python: version of Python.
        onnxruntime: version of ONNX Runtime.
    """

    cpu: str
    cores: int
    instructions: tuple[str, ...]
    system: str
    python: str
    onnxruntime: str

    @property
    def has_vnni(self) -> bool:
        """True if uint8 by int8 accumulates in 32 bits, so that nothing saturates."""
        return bool({"avx_vnni", "avx512_vnni"} & set(self.instructions))

    @property
    def is_arm(self) -> bool:
        """True on a 64-bit ARM processor."""
        return self.system.endswith(("aarch64", "arm64"))

    @property
    def channel_block(self) -> int:
        """Channels that ONNX Runtime's float kernels work on at once; others are padded."""
        if "avx512f" in self.instructions:
            return 16
        return 8 if "avx2" in self.instructions else 4

    def __str__(self) -> str:
        sets = f" ({', '.join(self.instructions)})" if self.instructions else ""
        return f"{self.cpu}{sets}, {self.cores} cores, ONNX Runtime {self.onnxruntime}"


@functools.cache
def machine() -> Machine:
    """Describe the machine that this runs on."""
    name, flags = _processor()
    affinity = getattr(os, "sched_getaffinity", None)
    return Machine(
        cpu=name,
        cores=len(affinity(0)) if affinity else os.cpu_count() or 1,
        instructions=tuple(flag for flag in _INSTRUCTION_SETS if flag in flags),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        onnxruntime=runtime.version(),
    )


def is_busy() -> bool:
    """Tell whether other work keeps all processors busy: times then mislead.

    By the load of the last minute; False where the system does not tell.
    """
    try:
        load = os.getloadavg()[0]
    except (AttributeError, OSError):
        return False
    return load > (os.cpu_count() or 1) + _OWN_LOAD


def _processor() -> tuple[str, frozenset[str]]:
    """Name and flags, which only Linux lists; elsewhere what `platform` knows."""
    entries: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            entries.setdefault(key.strip(), value.strip())
    except OSError:
        pass
    name = entries.get("model name") or platform.processor() or platform.machine()
    flags = entries.get("flags") or entries.get("Features") or ""
    return name, frozenset(flags.split())
