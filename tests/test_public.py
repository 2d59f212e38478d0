"""The public functions: what people write from memory works, or the error says the right form."""

from __future__ import annotations

import inspect
import subprocess
import sys

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnxlite as ol
from onnxlite.errors import OptionError
from tests import public_stub
from tests.odd_models import parse

NET = """<ir_version: 8, opset_import: ["": 17]>
    net (float[n,8] x) => (float[n,4] y) <float[8,16] w, float[16,4] v>
    { t = MatMul(x, w) r = Relu(t) i = Identity(r) y = MatMul(i, v) }"""
X = np.random.default_rng(0).standard_normal((48, 8)).astype(np.float32)
STEPS = (
    "prune_channels", "prune_weights", "quantize_auto", "quantize_dynamic", "quantize_static",
    "quantize_weights", "repair", "simplify", "sparse_storage", "to_float16", "tune",
)  # fmt: skip


@pytest.fixture
def model():
    return parse(NET)


def test_a_step_unpacks_to_model_and_report(model):
    made, report = ol.simplify(model, onnxsim=False)
    assert isinstance(made, onnx.ModelProto)
    assert report.changes.total > 0
    assert report.summary in str(report)
    assert isinstance(ol.simplify(ir.from_proto(model), onnxsim=False).model, ir.Model)


def test_steps_chain_and_save(model, tmp_path):
    onnx.save(model, tmp_path / "m.onnx")
    simple = ol.simplify(tmp_path / "m.onnx", onnxsim=False)
    small = ol.quantize_static(simple, X, placement="everything", rounding="nearest")
    path = small.save(tmp_path / "q.onnx")
    assert "QuantizeLinear" in ol.inspect(path).operators
    better = ol.repair(model, ol.prune_weights(simple, sparsity=0.5), X)
    assert ol.compare(model, better, samples=X).sqnr_db > 3
    assert len(repr(better)) < 500


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"rounding": "gptq"}, ["rounding='gptq'", "did you mean rounding='compensated'"]),
        ({"smooth": "yes"}, ["smooth='yes'", "did you mean smooth=True"]),
        ({"placement": "all"}, ["placement='all'", "did you mean placement='everything'"]),
        ({"observer": "min-max"}, ["observer='min-max'", "did you mean observer='minmax'"]),
        ({"min_sqnr_db": "25"}, ["min_sqnr_db='25'", "did you mean min_sqnr_db=25.0"]),
        ({"form": "QDQ"}, ["form='QDQ'", "did you mean form='qdq'", "'qdq', 'qoperator'"]),
        ({"exclude": "conv1"}, ["exclude='conv1'", "did you mean exclude=['conv1']"]),
        ({"target": "gpu"}, ["target 'gpu'", "cpu-avx2"]),
        ({"roundng": "nearest"}, ["no option 'roundng'", "did you mean 'rounding'"]),
        ({"on_report": print}, ["model, report = ..."]),
        ({"threads": 0}, ["threads=0", "a whole number >= 1"]),
    ],
)
def test_wrong_options_name_the_right_form(model, options, parts):
    with pytest.raises(OptionError) as caught:
        ol.quantize_static(model, X, **options)
    assert [part for part in parts if part not in str(caught.value)] == []


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda m: ol.quantize_static(m), "quantize_static needs 'samples'"),
        (lambda m: ol.quantize_weights(m, X), "give all others by name"),
        (lambda m: ol.prune_channels(m, ratio=0.5), "it is now 'remove'"),
        (lambda m: ol.prune_channels(m, remove=0.5, protect=["w"]), "it is now 'exclude'"),
        (lambda m: ol.prune_weights(m, sparsity=0.5, steps=2), "it is now 'rounds'"),
        (lambda m: ol.prune_weights(m, sparsity=0.5, method="obc"), "needs samples"),
        (lambda m: ol.tune(m, m, X, vary=True), "it is now 'augment'"),
        (lambda m: ol.simplify(m, time_limit=1), "it is now 'time_limit_s'"),
        (lambda m: ol.optimize(m, X, budget=0.01), "max_drop=0.01"),
        (lambda m: ol.optimize(m, X, budget={"max_drop": 0.1}, max_size=0.5), "not both"),
        (lambda m: ol.optimize(m, X, budget={"max_dropp": 0.1}), "did you mean 'max_drop'"),
        (lambda m: ol.run(m, ["simplify"]), "step 1 is 'simplify', of type str"),
        (lambda m: ol.run(m, "no.toml"), "no recipe at 'no.toml'"),
        (lambda m: ol.run(m, X, [ol.Simplify()]), "give all others by name"),
        (lambda m: ol.benchmark(m, m, rounds=0), "rounds=0"),
        (lambda m: ol.compare(m, m, X), "give all others by name"),
    ],
)
def test_wrong_calls_name_the_right_form(model, call, part):
    with pytest.raises(OptionError) as caught:
        call(model)
    assert part in str(caught.value)


def test_recipes_as_paths_and_budgets_as_dictionaries(model, tmp_path, monkeypatch):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(ol.Recipe((ol.Simplify(onnxsim=False),)).to_toml())
    made, report = ol.run(model, recipe, samples=X, benchmark=False)
    assert report.changed
    assert isinstance(made, onnx.ModelProto)
    assert "Identity" not in {node.op_type for node in made.graph.node}
    monkeypatch.setattr("onnxlite.search.search.Search._is_prunable", lambda self: False)
    for limits in ({"max_drop": 0.5}, {"budget": {"max_drop": 0.5}}):
        report = ol.optimize(model, X, cache=False, time_limit_s=0.01, **limits).report
        assert report.search.budget == ol.Budget(max_drop=0.5)


def test_reports_print_and_show_in_notebooks(model):
    small, report = ol.prune_weights(model, sparsity=0.5, exclude=["v"])
    shown = (
        report,
        ol.inspect(model),
        ol.explain_channels(model),
        ol.compare(model, small, samples=X),
        ol.benchmark(model, small, rounds=1, memory=False),
        ol.sensitivity(model, X, times=False, confirm=0),
        ol.run(model, [ol.PruneWeights(sparsity=0.5)], samples=X, benchmark=False).report,
    )
    for each in shown:
        assert "Struct" not in str(each)
        assert "(name=" not in str(each)
        assert each._repr_html_().startswith("<pre>")
    assert "excluded" in str(report)
    assert ol.prune_weights(model, sparsity=0.5)._repr_html_().startswith("<pre>")


@pytest.mark.parametrize("name", STEPS)
def test_every_option_is_in_the_signature_and_in_the_docstring(name):
    function = getattr(ol, name)
    text = inspect.getdoc(function)
    parameters = inspect.signature(function).parameters
    assert [p for p in parameters if f"\n    {p}: " not in text] == []
    assert "progress" in parameters


def test_the_stub_is_up_to_date():
    assert public_stub.STUB.read_text(encoding="utf-8") == public_stub.stub()


def test_every_public_name_loads():
    assert [name for name in ol.__all__ if getattr(ol, name, None) is None] == []
    assert set(ol.__all__) <= set(dir(ol))
    with pytest.raises(AttributeError, match="nonsense"):
        ol.nonsense  # noqa: B018


def test_former_names_warn():
    with pytest.warns(DeprecationWarning, match=r"is now onnxlite\.Skipped"):
        assert ol.Declined is ol.Skipped


def test_modules_load_when_first_used():
    code = (
        "import sys, onnxlite\n"
        "heavy = {'numpy', 'onnx', 'onnx_ir', 'onnxruntime', 'torch', 'msgspec', 'sympy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "import onnxlite.simplify\n"
        "assert onnxlite.simplify.__name__ == 'simplify' and callable(onnxlite.simplify)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
