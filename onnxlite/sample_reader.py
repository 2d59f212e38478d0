"""Reading of samples: arrays, files, folders and loaders become feeds.

Arrays are sliced along the batch axis of their input (`inputs.py`), files are memory-mapped, and
the files of a folder are opened one at a time, so each may hold inputs of other lengths.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxlite.errors import SamplesError
from onnxlite.inputs import Array, Feed, InputSpec, along

logger = logging.getLogger(__name__)


def kept(source: Any) -> Any:
    """The source; a list of what can be iterated only once."""
    if not isinstance(source, Iterator):
        return source
    logger.warning(
        "the samples are a one-shot iterator: all of it is kept in memory, because "
        "several passes are needed; pass a list, an array or a loader to avoid that"
    )
    return list(source)


def reader(
    source: Any, inputs: tuple[InputSpec, ...], batch: int, warned: set[str]
) -> Callable[[], Iterator[Feed]]:
    """Choose how to read `source`; what comes out is re-iterable."""
    if isinstance(source, str | os.PathLike):
        return _path_reader(Path(source), inputs, batch, warned)
    if isinstance(source, Mapping):
        arrays = {str(name): _to_array(array) for name, array in source.items()}
        return lambda: _split(arrays, inputs, batch, warned)
    if isinstance(source, np.ndarray) or hasattr(source, "__array__"):
        array = _to_array(source)
        return lambda: _split({_only(inputs).name: array}, inputs, batch, warned)
    source = kept(source)
    if isinstance(source, Iterable):
        return lambda: (_as_feed(item, inputs, index) for index, item in enumerate(source))
    raise SamplesError(
        f"samples of type {type(source).__name__} are not understood: give an array, a dict of "
        "arrays, a .npy/.npz path, a folder of those, or an iterable of batches"
    )


def _path_reader(
    path: Path, inputs: tuple[InputSpec, ...], batch: int, warned: set[str]
) -> Callable[[], Iterator[Feed]]:
    try:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        files = [file for file in files if file.suffix in (".npy", ".npz")]
        if not path.exists():
            raise SamplesError(f"no samples at {str(path)!r}: check the path")
    except OSError as error:
        raise SamplesError(f"cannot read samples from {str(path)!r}: {error}") from error
    if path.is_dir() and not files:
        raise SamplesError(f"the folder {str(path)!r} holds no .npy or .npz file")
    if not files:
        raise SamplesError(f"{str(path)!r}: samples are read from .npy and .npz files")
    if len(files) == 1:
        arrays = _read_arrays(files[0], inputs)
        return lambda: _split(arrays, inputs, batch, warned)
    # One file at a time: a folder may hold more than memory does.
    return lambda: (
        feed for file in files for feed in _split(_read_arrays(file, inputs), inputs, batch, warned)
    )


def _read_arrays(path: Path, inputs: tuple[InputSpec, ...]) -> dict[str, Array]:
    """The arrays of one file by input name; a `.npy` is memory-mapped."""
    try:
        if path.suffix == ".npy":
            arrays = {"arr_0": np.load(path, mmap_mode="r", allow_pickle=False)}
        else:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
                arrays = dict(data)
    # NumPy hands through whatever its header parser, zipfile and zlib raise.
    except Exception as error:
        raise SamplesError(f"cannot read samples from {str(path)!r}: {error}") from error
    return {_only(inputs).name: arrays["arr_0"]} if list(arrays) == ["arr_0"] else arrays


def _only(inputs: tuple[InputSpec, ...]) -> InputSpec:
    if len(inputs) != 1:
        names = ", ".join(str(spec) for spec in inputs)
        raise SamplesError(
            f"one array for a model with {len(inputs)} inputs ({names}): give a dict of arrays"
        )
    return inputs[0]


def _to_array(value: Any) -> Array:
    """Convert to an ndarray: NumPy, nested lists, and tensors of any framework."""
    try:
        if hasattr(value, "detach"):  # a torch tensor: NumPy refuses one that requires a gradient
            value = value.detach().cpu()
        return np.asarray(value)
    # Ragged lists, and tensors that NumPy has no type or no memory layout for.
    except (TypeError, ValueError, RuntimeError) as error:
        raise SamplesError(
            f"a sample of type {type(value).__name__} cannot be made an array: {error}"
        ) from error


def _as_feed(item: Any, inputs: tuple[InputSpec, ...], index: int) -> Feed:
    if isinstance(item, Mapping):
        return {str(name): _to_array(array) for name, array in item.items()}
    if isinstance(item, tuple | list) and not np.isscalar(item[0] if item else 0):
        # A loader yields (inputs..., label): what goes beyond the inputs is not for us.
        if len(item) < len(inputs):
            raise SamplesError(
                f"batch {index} has {len(item)} arrays for {len(inputs)} inputs: "
                f"give them in the order {', '.join(spec.name for spec in inputs)}"
            )
        return {s.name: _to_array(a) for s, a in zip(inputs, item, strict=False)}
    return {_only(inputs).name: _to_array(item)}


@dataclass(frozen=True)
class _Column:
    """The array of one input, and how it is cut.

    Attributes:
        spec: the input.
        array: data of many samples, of one feed, or of every feed.
        repeats: the array goes into every feed.
    """

    spec: InputSpec
    array: Array
    repeats: bool = False

    @property
    def is_stacked(self) -> bool:
        """True if the array has one axis more than its input, which counts whole inputs."""
        shape = self.spec.shape
        return shape is not None and self.array.ndim == len(shape) + 1

    @property
    def axis(self) -> int | None:
        """Axis that counts samples; None if the array goes into every feed."""
        if self.is_stacked:
            return 0
        axis = self.spec.batch_axis
        return None if self.repeats or axis is None or self.array.ndim <= axis else axis

    @property
    def fixed(self) -> int | None:
        """Size of a fixed batch that the array is cut into."""
        batch = self.spec.batch
        return batch if isinstance(batch, int) and not self.is_stacked else None

    def take(self, start: int, step: int) -> Array:
        """Return the part of one feed."""
        if self.axis is None:
            return self.array
        if self.is_stacked:
            taken: Array = self.array[start]
            return taken
        return along(self.array, self.axis, slice(start, start + step))


def _split(
    arrays: Mapping[str, Array], inputs: tuple[InputSpec, ...], batch: int, warned: set[str]
) -> Iterator[Feed]:
    """Cut arrays that hold many samples into feeds.

    An array with one axis more than its input holds whole inputs; then each feed is one sample.
    An input without a batch axis goes into every feed, as scalars do.
    """
    check_names(arrays, inputs, "the samples")
    columns = _settled([_Column(spec, arrays[spec.name]) for spec in inputs])
    total = next((c.array.shape[c.axis] for c in columns if c.axis is not None), 1)
    sizes = [column.fixed for column in columns if column.fixed is not None]
    step = 1 if any(column.is_stacked for column in columns) else min(sizes, default=batch)
    if sizes and total % step:
        text = f"{total % step} of {total} samples do not fill a batch: unused"
        if text not in warned:
            warned.add(text)
            logger.warning(text)
        if total < step:
            raise SamplesError(
                f"{total} samples cannot fill the model's fixed batch of {step}: "
                f"give at least {step}"
            )
        total -= total % step
    for start in range(0, total, step):
        yield {column.spec.name: column.take(start, step) for column in columns}


def _settled(columns: list[_Column]) -> list[_Column]:
    """Let arrays of one fixed batch repeat beside more samples; all others have as many.

    Raises:
        SamplesError: the numbers of samples differ.
    """
    counts = {c.spec.name: c.array.shape[c.axis] for c in columns if c.axis is not None}
    most = max(counts.values(), default=1)
    for index, column in enumerate(columns):
        if column.fixed == counts.get(column.spec.name, most) < most:
            columns[index] = dataclasses.replace(column, repeats=True)
            del counts[column.spec.name]
    if len(set(counts.values())) > 1:
        axes = {name: c.axis for c in columns if (name := c.spec.name) in counts}
        raise SamplesError(
            f"the inputs have different numbers of samples: {counts}, counted along the axes "
            f"{axes}; give others by batch_axis={{input: axis}} (--batch-axis input=axis), None "
            "for an input without a batch axis"
        )
    return columns


def check_names(names: Iterable[str], inputs: tuple[InputSpec, ...], where: str) -> None:
    """Raise `SamplesError` unless there is data for every input, and for nothing else."""
    expected, given = {spec.name for spec in inputs}, set(names)
    if missing := sorted(expected - given):
        raise SamplesError(
            f"{where}: no data for input {', '.join(map(repr, missing))}; "
            f"the model takes {', '.join(map(str, inputs))}, given were {sorted(given)}"
        )
    if extra := sorted(given - expected):
        raise SamplesError(
            f"{where}: {', '.join(map(repr, extra))} is not an input; "
            f"the model takes {', '.join(map(str, inputs))}"
        )
