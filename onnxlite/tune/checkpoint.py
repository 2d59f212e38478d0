"""Checkpoint of an interrupted training: its state in one file, replaced as a whole."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from onnxlite.errors import OptionError
from onnxlite.files import staging_directory, sync_file
from onnxlite.tune.options import Tune

#: Seconds between two writes at least.
INTERVAL_S = 30.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
    """Everything that training goes on from.

    Attributes:
        done: steps.
        rate: the learning rate.
        before: loss on rows held out at the start.
        best: the least so far.
        best_at: fraction of the training after which that was.
        spent_s: seconds so far.
        order: state of the generator at the start of the present pass over the rows.
        seen: batches of that pass.
        tensors: what is learned.
        best_tensors: the same where it was best.
        average: of the tensors over the last steps.
        optimizer: `state_dict` of the optimizer.
    """

    done: int
    rate: float
    before: float
    best: float
    best_at: float
    spent_s: float
    order: Tensor
    seen: int
    tensors: list[Tensor]
    best_tensors: list[Tensor]
    average: list[Tensor]
    optimizer: dict[str, Any]


class Checkpoint:
    """File of one training; without a path nothing is kept.

    Args:
        path: of the file.
        tensors: what is learned, as it is before training; it, the options and the number of
            rows identify a training.
        options: of the training.
        rows: how many there are.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        tensors: Sequence[Tensor],
        options: Tune,
        rows: int,
    ) -> None:
        self._path = None if path is None else Path(path)
        if self._path is None:
            return
        loss = options.loss if isinstance(options.loss, str) else "own"
        chosen = (options.batch_size, loss, options.inner, options.augment, options.seed)
        digest = hashlib.sha256(repr((rows, options.steps, options.lr, *chosen)).encode())
        for tensor in tensors:
            digest.update(tensor.detach().numpy().tobytes())
        self._key = digest.hexdigest()

    def read(self) -> State | None:
        """Return the state that an interrupted training left behind, None if there is none.

        Raises:
            OptionError: the file is no checkpoint, or one of another training.
        """
        if self._path is None or not self._path.exists():
            return None
        try:
            found = torch.load(self._path, weights_only=True)
            key, state = found["key"], State(**found["state"])
        except Exception as error:  # torch raises whatever the bytes make it meet
            raise OptionError(
                f"checkpoint={str(self._path)!r} cannot be read ({error}): remove it to start anew"
            ) from error
        if key != self._key:
            raise OptionError(
                f"checkpoint={str(self._path)!r} is of a training of another model, on other "
                "samples or with other options: remove it or name another file"
            )
        return state

    def write(self, state: State) -> None:
        """Replace the file. Raises `OptionError` where it cannot be written."""
        if self._path is None:
            return
        fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
        try:
            with staging_directory(self._path) as staging:
                torch.save({"key": self._key, "state": fields}, staging / self._path.name)
                sync_file(staging / self._path.name)
                os.replace(staging / self._path.name, self._path)
        except OSError as error:
            raise OptionError(f"checkpoint={str(self._path)!r}: {error}") from error

    def remove(self) -> None:
        """Remove the file, because the training has ended."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
