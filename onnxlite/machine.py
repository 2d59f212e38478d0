"""What processor this is: its name, its cores, and the instructions that decide kernels."""

from __future__ import annotations

import functools
import os
import platform
import re
from pathlib import Path

import msgspec

#: Instruction sets that choose between ONNX Runtime's kernels, as Linux names them.
_RELEVANT = ("avx", "avx2", "fma", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp")


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The machine a number was measured on."""

    cpu: str
    cores: int
    architecture: str
    features: tuple[str, ...]
    system: str
    python: str

    @property
    def has_vnni(self) -> bool:
        """Whether uint8 x int8 products are added in 32 bits (no saturation)."""
        return bool({"avx_vnni", "avx512_vnni"} & set(self.features))


@functools.cache
def this_machine() -> Machine:
    """Describe the machine this runs on; where Linux's cpuinfo is missing, no features."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    name = re.search(r"model name\s*:\s*(.+)", text)
    flags = re.search(r"(?:flags|Features)\s*:\s*(.+)", text)
    present = set(flags.group(1).split()) if flags else set()
    affinity = getattr(os, "sched_getaffinity", None)
    return Machine(
        cpu=name.group(1).strip() if name else platform.processor() or "unknown",
        cores=len(affinity(0)) if affinity else os.cpu_count() or 1,
        architecture=platform.machine(),
        features=tuple(flag for flag in _RELEVANT if flag in present),
        system=platform.platform(),
        python=platform.python_version(),
    )
