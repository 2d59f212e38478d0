"""Commands whose step changed nothing end with exit code 3 and write nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from onnxlite import recipe
from onnxlite.cli import app
from onnxlite.cli.app import ExitCode
from onnxlite.recipe import RunReport
from onnxlite.report import from_json
from tests.odd_models import parse

#: Nothing is left to do in them for the command, but for `simplify`, which drops an Identity.
DONE = {
    "int8": """<ir_version: 8, opset_import: ["": 17]>
        net (float[n,4] x) => (float[n,4] y)
        <float s = {0.1}, uint8 z = {128}, int8[4,4] w = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16}>
        { q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) v = DequantizeLinear(w, s)
          t = MatMul(d, v) i = Identity(t) y = Relu(i) }""",
    "float16": """<ir_version: 8, opset_import: ["": 17]>
        net (float16[n,4] x) => (float16[n,4] y) { t = Relu(x) i = Identity(t) y = Neg(i) }""",
    "weightless": """<ir_version: 8, opset_import: ["": 17]>
        net (float[n,3,8,8] x) => (float[n,3,8,8] y) { t = Relu(x) i = Identity(t) y = Neg(i) }""",
}


@pytest.mark.parametrize(
    ("net", "line"),
    [
        ("int8", "quantize-dynamic"),
        ("int8", "quantize-weights"),
        ("float16", "to-float16"),
        ("float16", "to-float16 --mode storage"),
        ("weightless", "quantize-dynamic"),
        ("weightless", "quantize-static --data x.npy"),
        ("weightless", "quantize-auto --data x.npy"),
        ("weightless", "quantize-weights --bits 4"),
    ],
)
def test_a_command_whose_step_changed_nothing_ends_with_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, net: str, line: str
) -> None:
    """Whether or not `simplify`, which runs before it, changed nodes."""
    monkeypatch.chdir(tmp_path)
    onnx.save(parse(DONE[net]), "done.onnx")
    np.save("x.npy", np.random.default_rng(0).standard_normal((16, 3, 8, 8)).astype(np.float32))
    command, *options = line.split()
    rest = " ".join([*options, "--no-benchmark", "-o", "out.onnx", "--json"])
    result = CliRunner().invoke(app, f"{command} done.onnx {rest}".split(), prog_name="onnxlite")
    assert result.exit_code == ExitCode.NOT_REACHED, result.output
    report = from_json(result.stdout, "run", RunReport)
    assert [step.changed for step in report.steps] == [True, False]
    assert (report.changed, report.output_path, report.output) == (False, None, report.input)
    assert not Path("out.onnx").exists()
    assert any("only simplify changed the model" in text for text in report.warnings)
    assert any(f"({command}) changed nothing" in text for text in report.warnings)


def test_a_recipe_counts_what_any_of_its_steps_changed(tmp_path: Path) -> None:
    path = tmp_path / "done.onnx"
    onnx.save(parse(DONE["int8"]), path)
    steps = [recipe.Simplify(), recipe.QuantizeDynamic()]
    for require_last in (False, True):
        made, report = recipe.run(path, steps, benchmark=False, require_last=require_last)
        assert report.changed != require_last
        assert len(made.graph) == (6 if require_last else 5)
