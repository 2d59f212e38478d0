"""Interruption of long work from outside, by a check that its parts make.

Whoever limits the time of some work sets a check; whatever takes long calls `checkpoint` between
its parts: every run of ONNX Runtime, every fit of a layer. The check ends the work by raising.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

#: Raises to end the work.
Check = Callable[[], None]

_CHECK: ContextVar[Check | None] = ContextVar("check", default=None)


def checkpoint() -> None:
    """Call the check of the work under way, if there is one; it raises to end the work."""
    check = _CHECK.get()
    if check is not None:
        check()


@contextlib.contextmanager
def checked_by(check: Check) -> Iterator[None]:
    """Set the check of all work inside of the context, in this thread."""
    token = _CHECK.set(check)
    try:
        yield
    finally:
        _CHECK.reset(token)
