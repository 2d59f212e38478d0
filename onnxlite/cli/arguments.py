"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np
import typer
from numpy.typing import NDArray

ModelPath: TypeAlias = Annotated[
    Path,
    typer.Argument(metavar="MODEL", help="The ONNX model; it stays as it is.", show_default=False),
]
ReferencePath: TypeAlias = Annotated[
    Path,
    typer.Argument(metavar="REFERENCE", help="The original ONNX model.", show_default=False),
]
CandidatePath: TypeAlias = Annotated[
    Path,
    typer.Argument(metavar="CANDIDATE", help="The model made from it.", show_default=False),
]
RecipePath: TypeAlias = Annotated[
    Path,
    typer.Argument(metavar="RECIPE", help="The recipe, a TOML file.", show_default=False),
]
Output: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Where to write the result. Without it the result is measured and shown only.",
        show_default=False,
    ),
]
Data: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--data",
        "-d",
        metavar="FILE|FOLDER",
        help="Real inputs, without labels: .npy (a model with one input), .npz (one array per "
        "input name), or a folder of them. The first axis counts samples.",
        show_default=False,
    ),
]
Evaluation: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--evaluation",
        "-e",
        metavar="FILE|FOLDER",
        help="Separate inputs to measure fidelity on. Without it the last quarter of --data "
        "is held out for that.",
        show_default=False,
    ),
]
Include: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN",
        help="Only layers whose node or weight name matches, for example 'conv*'. Repeatable.",
        show_default=False,
    ),
]
Exclude: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN",
        help="Leave out layers whose node or weight name matches. Repeatable.",
        show_default=False,
    ),
]
Target: TypeAlias = Annotated[str, typer.Option(help="What the result runs on.")]
Smooth: TypeAlias = Annotated[
    bool,
    typer.Option("--smooth/--no-smooth", help="Move outliers into weights where that helps."),
]
Embeddings: TypeAlias = Annotated[
    bool,
    typer.Option("--embeddings/--no-embeddings", help="Look-up tables with 8 bits as well."),
]
SimplifyForIntegers: TypeAlias = Annotated[
    bool,
    typer.Option("--simplify/--no-simplify", help="Simplify first, for more layers in INT8."),
]
Benchmark: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--benchmark/--no-benchmark",
        help="Measure the latency of the result against the model.",
    ),
]
Reports: TypeAlias = Annotated[
    list[Path] | None,
    typer.Option(
        "--report",
        metavar="FILE",
        help="Write the report here: .html, one page without network, or .json. Repeatable.",
        show_default=False,
    ),
]
Json: TypeAlias = Annotated[
    bool,
    typer.Option("--json", help="Write the full report as JSON to stdout, instead of tables."),
]
Quiet: TypeAlias = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Show errors only (and JSON, if asked for)."),
]


def _read_labels(path: str) -> NDArray[Any]:
    try:
        labels = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise typer.BadParameter(f"cannot read labels from {path!r}: {error}") from error
    if not isinstance(labels, np.ndarray) or labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise typer.BadParameter(f"{path!r} does not hold one whole number per sample")
    return labels


Labels: TypeAlias = Annotated[
    Any,
    typer.Option(
        "--labels",
        "-l",
        metavar="FILE",
        parser=_read_labels,
        help="Class of each evaluation sample, a .npy file of whole numbers: shows accuracy.",
        show_default=False,
    ),
]
