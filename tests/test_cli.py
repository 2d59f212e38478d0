"""The command line: what it prints, what it writes, and how it exits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

import onnxlite
from onnxlite import recipe
from onnxlite.analysis.summary import Summary
from onnxlite.cli import app
from onnxlite.errors import VerificationError
from onnxlite.evaluate import Fidelity
from onnxlite.prune import ChannelReport
from onnxlite.recipe import RunReport
from onnxlite.report import from_json
from tests.odd_models import parse

NET = """<ir_version: 8, opset_import: ["": 17]>
    net (float[n,3,8,8] x) => (float[n,4] y)
    <float[16,3,3,3] w, float[16] b, float[16,4] v, int64[2] shape = {0, -1}>
    { t = Conv<pads=[1,1,1,1]>(x, w, b)  i = Identity(t)  r = Relu(i)
      p = GlobalAveragePool(r)  f = Reshape(p, shape)  y = MatMul(f, v) }"""
COMMANDS = (
    "inspect", "channels", "simplify", "prune-weights", "prune-channels", "quantize-static",
    "quantize-auto", "quantize-dynamic", "to-float16", "sparse-storage", "compare",
    "benchmark", "run", "optimize", "report", "demo", "tune", "repair", "quantize-weights", "cache",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a model, samples, labels and recipes; commands run in it."""
    monkeypatch.chdir(tmp_path)
    onnx.save(parse(NET), "net.onnx")
    images = np.random.default_rng(0).standard_normal((16, 3, 8, 8)).astype(np.float32)
    np.save("x.npy", images)
    np.savez("x.npz", x=images)
    np.save("labels.npy", np.zeros(16, np.int64))
    Path("recipe.toml").write_text(
        '[[steps]]\nstep = "simplify"\nonnxsim = false\n'
        '[[steps]]\nstep = "prune-weights"\nsparsity = 0.5\n'
    )
    return tmp_path


def call(line, code=0):
    result = CliRunner().invoke(app, line.split(), prog_name="onnxlite")
    assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
    return result


def refused(line, code):
    """The one line on stderr of a command that fails and writes nothing."""
    before = sorted(Path.cwd().rglob("*"))
    result = call(line, code)
    assert result.stdout == ""
    assert sorted(Path.cwd().rglob("*")) == before
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("error: ")
    return result.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command):
    text = call(f"{command} --help").stdout
    assert f"Example: onnxlite {command}" in text
    assert "--json" in text


def test_the_main_help_lists_commands_data_forms_and_exit_codes():
    text = call("--help").stdout
    assert [word for word in (*COMMANDS, ".npz", "130:") if word not in text] == []


def test_the_help_of_run_shows_a_recipe_that_works():
    lines = [line.strip() for line in call("run --help").stdout.splitlines()]
    first = lines.index("[[steps]]")
    text = "\n".join(lines[first : lines.index('step = "quantize-static"') + 1])
    assert len(recipe.Recipe.from_toml(text).steps) == 3


def test_version():
    assert call("--version").stdout == f"onnxlite {onnxlite.__version__}\n"


def test_channels(folder):
    assert "16 of 20 channel units may be removed" in call("channels net.onnx").stdout
    report = from_json(call("channels net.onnx --json").stdout, "channels", ChannelReport)
    assert (report.units, report.prunable) == (20, 16)
    assert [group.pinned is None for group in report.groups] == [True, False]


def test_inspect(folder):
    text = call("inspect net.onnx --layers").stdout
    assert "x: float32[n, 3, 8, 8]" in text
    assert "16x3x3x3" in text
    document = call("inspect net.onnx --json").stdout
    summary = from_json(document, "summary", Summary)
    assert summary.operators["Conv"] == 1
    assert summary.macs == 16 * 27 * 64 + 64


def test_simplify(folder):
    text = call("simplify net.onnx -o out.onnx --onnxsim false --no-benchmark").stdout
    assert "written: out.onnx" in text
    assert "Identity" not in {node.op_type for node in onnx.load("out.onnx").graph.node}


def test_quantize_dynamic(folder):
    line = "quantize-dynamic net.onnx -o out.onnx --kernel integer --no-benchmark"
    assert "written: out.onnx" in call(line).stdout
    assert "MatMulInteger" in {node.op_type for node in onnx.load("out.onnx").graph.node}


def test_prune(folder):
    call("prune-weights net.onnx --sparsity 0.5 --exclude v -o out.onnx --data x.npz")
    zeros = {
        tensor.name: int((onnx.numpy_helper.to_array(tensor) == 0).sum())
        for tensor in onnx.load("out.onnx").graph.initializer
    }
    assert (zeros["w"], zeros["v"]) == (216, 0)


def test_prune_channels(folder):
    options = "--round-to 1 --exclude nothing* --data x.npy -o out.onnx --no-simplify"
    assert "matches 'nothing*'" in refused(f"prune-channels net.onnx --macs 0.5 {options}", 2)
    assert "exactly one" in refused("prune-channels net.onnx --data x.npy -o out.onnx", 2)
    assert "needs samples" in refused("prune-channels net.onnx --macs 0.5 -o out.onnx", 2)
    options = "--round-to 1 --no-branches --data x.npy -o out.onnx --no-benchmark --json"
    result = call(f"prune-channels net.onnx --macs 0.5 {options}")
    report = from_json(result.stdout, "run", RunReport)
    assert [step.step for step in report.steps] == ["simplify", "prune-channels"]
    shapes = {tensor.name: list(tensor.dims) for tensor in onnx.load("out.onnx").graph.initializer}
    assert shapes["w"] == [8, 3, 3, 3]


def test_to_float16(folder):
    assert "matches 'nothing*'" in refused("to-float16 net.onnx --exclude nothing* -o out.onnx", 2)
    assert "bfloat16" in refused("to-float16 net.onnx --dtype bfloat16 --mode compute", 2)
    result = call("to-float16 net.onnx --data x.npy -o out.onnx --no-benchmark --json")
    report = from_json(result.stdout, "run", RunReport)
    assert [step.step for step in report.steps] == ["simplify", "to-float16"]
    assert report.samples.evaluation == 8
    types = {tensor.data_type for tensor in onnx.load("out.onnx").graph.initializer}
    assert onnx.TensorProto.FLOAT not in types
    call("to-float16 net.onnx -o out.onnx --mode storage --no-benchmark --no-simplify")


def test_quantize_with_labels(folder):
    options = "--labels labels.npy -o out.onnx --no-simplify --no-benchmark --json"
    result = call(f"quantize-static net.onnx --data x.npy --placement everything {options}")
    report = from_json(result.stdout, "run", RunReport)
    assert report.output_path == "out.onnx"
    assert [step.step for step in report.steps] == ["quantize-static"]
    assert (report.samples.calibration, report.samples.evaluation) == (8, 8)
    assert report.fidelity.metrics[0].name == "accuracy"
    assert "QuantizeLinear" in {node.op_type for node in onnx.load("out.onnx").graph.node}


def test_run(folder):
    result = call("run net.onnx recipe.toml --data x.npy -o out.onnx --no-benchmark --json")
    report = from_json(result.stdout, "run", RunReport)
    assert [step.step for step in report.steps] == ["simplify", "prune-weights"]
    assert report.command.startswith("onnxlite")
    text = call("run net.onnx recipe.toml --data x.npy --no-benchmark").stdout
    for part in ("Steps", "Before and after", "file, zipped", "Fidelity on 8 samples", "dB"):
        assert part in text
    assert "written" not in text


def test_compare_and_its_limits(folder):
    call("prune-weights net.onnx --sparsity 0.5 -o out.onnx")
    result = call("compare net.onnx out.onnx --data x.npy --labels labels.npy --json")
    fidelity = from_json(result.stdout, "fidelity", Fidelity)
    assert fidelity.samples == 16
    assert fidelity.metrics[0].name == "accuracy"
    call("compare net.onnx net.onnx --data x.npy --min-sqnr-db 200 --min-agreement 1")
    result = call("compare net.onnx out.onnx --data x.npy --min-sqnr-db 60", 3)
    assert (
        f"SQNR of {fidelity.worst_part} is {fidelity.sqnr_db:.1f} dB, the limit is 60 dB"
        in result.stderr
    )
    result = call("compare net.onnx out.onnx --data x.npy --min-agreement 1.01", 3)
    assert f"agreement is {fidelity.agreement:.2%}, the limit is 101.00%" in result.stderr


def test_compare_by_a_task_metric(folder):
    call("prune-weights net.onnx --sparsity 0.9 -o out.onnx")
    command = "compare net.onnx out.onnx --data x.npy --metric sqnr"
    (metric,) = from_json(call(f"{command} --json").stdout, "fidelity", Fidelity).metrics
    assert metric.name == "sqnr"
    text = call(command).stdout
    assert "20 dB" in text  # what a drop of 1% means
    call(f"{command} --max-drop 9999%")
    result = call(f"{command} --max-drop 0.1%", 3)
    assert f"sqnr loses {metric.drop:.2%}, the limit is 0.10%" in result.stderr
    assert "no task metric" in call("compare net.onnx out.onnx --max-drop 1%", 3).stderr
    call("compare net.onnx out.onnx --data x.npy --metric f1", 2)


def test_benchmark_and_its_limit(folder):
    result = call("benchmark net.onnx net.onnx --rounds 1 --json --max-ratio 0.000001", 3)
    document = json.loads(result.stdout)
    assert (document["schema"], document["kind"]) == (2, "latency")
    assert document["record"]["rounds"] == 1
    assert "the limit is 1e-06" in result.stderr


def test_quiet(folder):
    result = call("run net.onnx recipe.toml --no-benchmark --quiet -o out.onnx")
    assert result.stdout == result.stderr == ""
    assert Path("out.onnx").exists()
    result = call("run net.onnx recipe.toml --no-benchmark --quiet --json")
    assert json.loads(result.stdout)["kind"] == "run"


@pytest.mark.parametrize(
    ("line", "code", "part"),
    [
        ("inspect missing.onnx", 1, "no model file at 'missing.onnx'"),
        ("inspect .", 1, "is a directory"),
        ("inspect x.npy", 1, "not a readable ONNX model"),
        ("prune-weights net.onnx --sparsity 0.5 -o net.onnx", 1, "is the input"),
        ("prune-weights net.onnx --sparsity 0.5 -o ./none/o.onnx", 1, "create the directory first"),
        ("prune-weights net.onnx --sparsity 0.5 --data gone.npy", 1, "no samples at 'gone.npy'"),
        ("prune-weights net.onnx --sparsity 0.5 --data labels.npy", 1, "x"),
        (
            "prune-weights net.onnx --sparsity 2 -o o.onnx",
            2,
            "sparsity=2.0: give a finite number >= 0 and < 1",
        ),
        ("prune-weights net.onnx -o o.onnx", 2, "either sparsity"),
        ("prune-weights net.onnx --sparsity 0.5 --include nothing* -o o.onnx", 2, "'nothing*'"),
        ("quantize-static net.onnx -o o.onnx", 2, "needs samples"),
        ("quantize-static net.onnx --data x.npy --target gpu", 2, "unknown target 'gpu'"),
        ("prune-weights net.onnx --sparsity much", 2, "sparsity='much': give a finite number"),
        ("prune-weights net.onnx --sparsity 0.5 --scope all", 2, "one of 'auto', 'layer'"),
        ("quantize-static net.onnx --data x.npy --observer min-max", 2, "observer='minmax'?"),
        ("benchmark net.onnx net.onnx --threads 0", 2, "threads=0: give a whole number >= 1"),
        ("run net.onnx missing.toml", 2, "no recipe at 'missing.toml'"),
        ("run net.onnx net.onnx", 2, "cannot read the recipe"),
    ],
)
def test_mistakes_get_one_line(folder, line, code, part):
    assert part in refused(line, code)


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "inspect",
        "inspect net.onnx --nonsense",
        "compare net.onnx net.onnx --labels x.npy",
        "compare net.onnx net.onnx --labels gone.npy",
    ],
)
def test_usage(folder, line):
    result = call(line, 2)
    assert "Usage" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_unchanged_model_is_not_written(folder):
    result = call("prune-weights net.onnx --threshold 0 -o o.onnx", 3)
    assert "unchanged" in result.stdout
    assert not Path("o.onnx").exists()


@pytest.mark.parametrize(
    ("error", "code", "part"),
    [
        (KeyboardInterrupt(), 130, "interrupted, nothing was written"),
        (VerificationError("step 1 made\na wrong model"), 3, "step 1 made a wrong model"),
        (MemoryError(), 1, "out of memory"),
        (PermissionError(13, "Permission denied"), 1, "Permission denied"),
    ],
)
def test_what_goes_wrong_within(folder, error, code, part, monkeypatch):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(recipe, "run", fail)
    monkeypatch.setattr(onnxlite, "compare", fail)
    assert part in refused("run net.onnx recipe.toml -o o.onnx", code)
    assert part in refused("compare net.onnx net.onnx", code)


def test_a_bug_is_not_hidden(folder, monkeypatch):
    monkeypatch.setattr(recipe, "run", lambda *args, **options: 1 // 0)
    result = CliRunner().invoke(app, ["run", "net.onnx", "recipe.toml"])
    assert isinstance(result.exception, ZeroDivisionError)


def test_debug_shows_the_trace(folder):
    result = call("--debug inspect missing.onnx", 1)
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: no model file")


def test_former_names_of_commands_still_work(folder):
    call("prune net.onnx --sparsity 0.5 -o out.onnx")
    assert Path("out.onnx").exists()
    assert " prune " not in call("--help").stdout


def test_cache(folder, monkeypatch):
    monkeypatch.setenv("ONNXLITE_CACHE", str(folder / "kept"))
    (folder / "kept").mkdir()
    assert "kept" in call("cache info").stdout
    assert json.loads(call("cache --json").stdout)["kind"] == "cache"
    assert "removed" in call("cache clear").stderr


def test_options_that_are_tables_or_lists(folder):
    line = "prune-channels net.onnx --widths Conv_0=8 --data x.npy -o out.onnx --no-benchmark"
    assert "no group of units is named 'Conv_0'" in refused(line, 2)
    assert "give NAME=VALUE" in refused(line.replace("Conv_0=8", "=8"), 2)
    result = call(
        "prune-channels net.onnx --remove 50% --round-to 1 --data x.npy --no-benchmark --json"
    )
    report = from_json(result.stdout, "run", RunReport)
    assert "remove = 0.5" in report.recipe
    assert report.command.startswith("onnxlite")


def test_names_with_brackets_are_text(folder):
    net = parse(NET)
    net.graph.node[0].name = "block[0]/[bold]conv"
    onnx.save(net, "net.onnx")
    assert "block[0]/[bold]conv" in call("inspect net.onnx --layers").stdout


def shell(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "onnxlite", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": str(Path(onnxlite.__file__).parent.parent), "PATH": ""},
    )


def test_as_a_process(folder):
    good = shell("inspect", "net.onnx", "--json")
    assert (good.returncode, good.stderr) == (0, "")
    assert json.loads(good.stdout)["kind"] == "summary"
    bad = shell("inspect", "missing.onnx")
    assert (bad.returncode, bad.stdout) == (1, "")
    assert bad.stderr == "error: no model file at 'missing.onnx': check the path\n"


def test_help_loads_neither_onnx_nor_numpy():
    code = (
        "import sys\n"
        "from onnxlite.cli import main\n"
        "sys.argv = ['onnxlite', '--help']\n"
        "try:\n    main()\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'numpy', 'onnx', 'onnx_ir', 'onnxruntime', 'msgspec', 'torch'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "quantize-static" in done.stdout
