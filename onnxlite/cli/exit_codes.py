"""What the process returns."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Documented for users at the end of `onnxlite --help`.

    `NOT_REACHED`: nothing broke, but the model is unchanged, a limit was missed, or a
    step's result failed its check. Output is written with `OK` only.
    """

    OK = 0
    ERROR = 1
    USAGE = 2
    NOT_REACHED = 3
    INTERRUPTED = 130
