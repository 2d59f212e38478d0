"""Writing a model so that the target is either the old file or the whole new one.

Everything is written under temporary names beside the target, flushed to disk, and
renamed. A model with external data commits with the rename of its `.onnx`: the data
file gets a name that no present file has, and the one it replaces goes afterwards. Both
happen under a lock of the directory, so that two writers cannot mix their files.
"""

from __future__ import annotations

import errno
import os
import shutil
from glob import escape
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx import external_data_helper

from onnxlite.errors import OptionError, SaveError
from onnxlite.files import (
    exclusive,
    staging_directory,
    sync_directory,
    sync_file,
    write_synced,
)
from onnxlite.graph import iter_graphs
from onnxlite.model import (
    PROTO_LIMIT_BYTES,
    ExternalData,
    ModelLike,
    embedded,
    load,
    mapped_files,
    plain_model,
    serialized,
    size_bytes,
    to_bytes,
)
from onnxlite.records import Progress, no_progress

#: Above this many tensor bytes `external_data="auto"` writes a separate data file.
EXTERNAL_ABOVE_BYTES = 1_500_000_000
#: Smaller tensors stay in the .onnx file, where shape inference can read them.
_INLINE_BELOW_BYTES = 1024


def save(
    model: ModelLike,
    path: str | os.PathLike[str],
    *,
    external_data: ExternalData = "auto",
    progress: Progress = no_progress,
) -> Path:
    """Write a model atomically; an error or an interrupt leaves the target as it was.

    Args:
        model: what to write. Metadata, doc strings, names and opsets survive.
        path: the `.onnx` file; its directory must exist.
        external_data: `"auto"` writes tensors to `<path>.data` when they exceed 1.5 GB,
            `"always"` and `"never"` force it.
        progress: called as tensors are written.

    Returns:
        The path written.

    Raises:
        SaveError: the target is a file the model is read from, the directory is missing
            or not writable, or the disk is full.
        OptionError: `external_data="never"` for a model above 2 GiB.
    """
    target = Path(path)
    model = plain_model(model)
    source = model if isinstance(model, ir.Model) else load(model)
    try:
        _check_target(target, source)
        external = _is_external(external_data, source)
        _check_space(target, size_bytes(source))
        with staging_directory(target) as staging:
            data = None
            if external:
                data = _write_external(source, target, staging, progress)
            else:
                progress("save", 0, 1)
                write_synced(staging / target.name, to_bytes(source))
            with exclusive(target.parent):
                _commit(target, staging, data, kept=mapped_files(source))
        progress("save", 1, 1)
    except OSError as error:
        raise SaveError(f"cannot write {str(target)!r}: {_remedy(error)}") from error
    return target


def _check_target(target: Path, model: ir.Model) -> None:
    if not target.parent.is_dir():
        raise SaveError(f"cannot write {str(target)!r}: create the directory first")
    if target.is_dir():
        raise SaveError(f"cannot write {str(target)!r}: it is a directory, name a file in it")
    if target.exists() and not target.is_file():
        raise SaveError(f"cannot write {str(target)!r}: it is a device, choose another output path")
    if target.resolve() in mapped_files(model):
        raise SaveError(
            f"{str(target)!r} is the input, or the external data that it is mapped from: "
            "choose another output path (the input is never touched)"
        )


def _is_external(external_data: ExternalData, model: ir.Model) -> bool:
    nbytes = size_bytes(model)
    if external_data == "never" and nbytes >= PROTO_LIMIT_BYTES:
        raise OptionError(
            f"external_data='never' with {nbytes / 2**30:.1f} GiB of tensors: "
            "an .onnx file holds at most 2 GiB; use 'auto'"
        )
    if external_data not in ("auto", "always", "never"):
        raise OptionError(f"external_data={external_data!r}: use 'auto', 'always' or 'never'")
    return external_data == "always" or (external_data == "auto" and nbytes > EXTERNAL_ABOVE_BYTES)


def _commit(target: Path, staging: Path, data: str | None, *, kept: frozenset[Path]) -> None:
    """Rename the staged files to their places; then data that nothing needs any more go.

    Args:
        target: the `.onnx` file.
        staging: directory of the staged files.
        data: name of the staged data file; None without external data.
        kept: files that the model in memory is read from.
    """
    replaced = _data_files_of(target)
    name = None
    if data is not None:
        # Another writer may have taken the name meanwhile.
        name = _free_name(target)
        if name != data:
            _rename_data(staging / target.name, data, name)
    try:
        if name is not None and data is not None:
            os.replace(staging / data, target.parent / name)
        os.replace(staging / target.name, target)
    except BaseException:
        if name is not None:
            (target.parent / name).unlink(missing_ok=True)
        raise
    sync_directory(target.parent)
    present = (target.parent / name).resolve() if name is not None else None
    for file in (replaced | _abandoned(target)) - kept - {present}:
        file.unlink(missing_ok=True)


def _rename_data(file: Path, old: str, new: str) -> None:
    """Let a staged model refer to its data by another name."""
    proto = onnx.ModelProto.FromString(file.read_bytes())
    for tensor in external_data_helper._get_all_tensors(proto):
        for entry in tensor.external_data:
            if entry.key == "location" and entry.value == old:
                entry.value = new
    write_synced(file, proto.SerializeToString())


def _abandoned(target: Path) -> frozenset[Path]:
    """Numbered data files of writers that were killed before they renamed their model.

    Called under the lock, when no other writer is between its two renames.
    """
    found = target.parent.glob(f"{escape(target.name)}.*.data")
    numbered = (f for f in found if f.name[len(target.name) + 1 : -len(".data")].isdecimal())
    return frozenset(f.resolve() for f in numbered if not f.is_symlink())


def _write_external(model: ir.Model, target: Path, staging: Path, progress: Progress) -> str | None:
    """Stage a model and its data file; returns the name of the latter, if there is one."""
    name = _free_name(target)
    values = [
        value
        for graph in iter_graphs(model)
        for value in graph.initializers.values()
        if value.const_value is not None
    ]
    tensors = [value.const_value for value in values]
    try:
        ir.external_data.unload_from_model(
            model,
            staging,
            name,
            size_threshold_bytes=_INLINE_BELOW_BYTES,
            callback=lambda _tensor, info: progress("save", info.index, info.total),
        )
        with embedded(model, initializers=False):
            content = serialized(model).SerializeToString()
    finally:
        for value, tensor in zip(values, tensors, strict=True):
            value.const_value = tensor
    write_synced(staging / target.name, content)
    if not (staging / name).exists():
        return None
    sync_file(staging / name)
    return name


def _free_name(target: Path) -> str:
    """`model.onnx.data`, or the first numbered variant that no file has."""
    name, number = f"{target.name}.data", 0
    while (target.parent / name).exists():
        number += 1
        name = f"{target.name}.{number}.data"
    return name


def _data_files_of(target: Path) -> frozenset[Path]:
    """The data files of our own naming that the model at `target` refers to today."""
    if not target.is_file():
        return frozenset()
    try:
        files = mapped_files(load(target)) - {target.resolve()}
    # What lies at the target need not be a model; then it has no data files to replace.
    except Exception:
        return frozenset()
    ours = (f for f in files if f.name.startswith(target.name) and f.suffix == ".data")
    return frozenset(f for f in ours if f.parent == target.parent.resolve())


def _check_space(target: Path, nbytes: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if nbytes > free:
        raise SaveError(
            f"cannot write {str(target)!r}: it needs {nbytes / 2**20:.0f} MiB and the disk has "
            f"{free / 2**20:.0f} MiB free; free some space or choose another disk"
        )


def _remedy(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{error.strerror}; free some space or choose another disk (nothing was changed)"
    return f"{error} (nothing was changed)"
