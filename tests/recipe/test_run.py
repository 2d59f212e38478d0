"""Running recipes: every step is verified, and the result is held against the input."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxlite import evaluate
from onnxlite.errors import OptionError, SamplesError, SaveError, VerificationError
from onnxlite.graph import add_initializer
from onnxlite.inputs import input_specs
from onnxlite.model import load
from onnxlite.prune import weight_step
from onnxlite.prune.options import PruneWeightsReport
from onnxlite.quantize.mixed import mixed_precision
from onnxlite.recipe import (
    PruneChannels,
    PruneWeights,
    QuantizeStatic,
    Recipe,
    Simplify,
    ToFloat16,
    run,
)
from onnxlite.recipe.proof import Reference
from onnxlite.samples import Samples
from tests.fake_timer import made_up_latency
from tests.odd_models import parse

NET = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,3,8,8] x) => (float[n,4] y)
    <float[16,3,3,3] w, float[16] b, float[16,4] v, int64[2] shape = {0, -1}>
    { t = Conv<pads=[1,1,1,1]>(x, w, b)  i = Identity(t)  r = Relu(i)
      p = GlobalAveragePool(r)  f = Reshape(p, shape)  y = MatMul(f, v) }"""
#: So small that Q and DQ nodes weigh more than the weights that they replace.
TINY = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,3,8,8] x) => (float[n,4,8,8] y) <float[4,3,1,1] w> { y = Conv(x, w) }"""
PRUNE = PruneWeights(sparsity=0.5, method="magnitude")


@pytest.fixture
def net():
    return parse(NET)


@pytest.fixture
def images():
    return np.random.default_rng(0).standard_normal((40, 3, 8, 8)).astype(np.float32)


def zeros(model):
    return {
        name: int(np.sum(value.const_value.numpy() == 0))
        for name, value in load(model).graph.initializers.items()
    }


def test_a_path_in_and_a_file_out(net, images, tmp_path):
    source, target = tmp_path / "net.onnx", tmp_path / "small.onnx"
    onnx.save(net, source)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    outcome = run(
        source, [Simplify(onnxsim=False), PRUNE], samples=images, output=target, benchmark=False
    )
    report = outcome.report
    assert hashlib.sha256(source.read_bytes()).hexdigest() == digest
    assert isinstance(outcome.model, ir.Model)
    assert zeros(target) == zeros(outcome.model)
    assert (zeros(target)["w"], zeros(target)["v"]) == (216, 32)
    assert (report.input_path, report.output_path) == (str(source), str(target))
    assert report.sizes.input_bytes == source.stat().st_size
    assert report.sizes.output_bytes == target.stat().st_size
    assert report.sizes.output_deflated_bytes < report.sizes.input_deflated_bytes
    assert report.sizes.ratio == target.stat().st_size / source.stat().st_size
    assert [step.step for step in report.steps] == ["simplify", "prune-weights"]
    assert report.input.operators["Identity"] == 1
    assert "Identity" not in report.output.operators
    assert report.fidelity.samples == report.samples.evaluation == 40
    assert 0 < report.fidelity.sqnr_db < 40
    assert report.latency is None
    assert Recipe.from_toml(report.recipe).steps[1] == PRUNE
    assert report.environment.packages["numpy"] == np.__version__


def test_a_proto_gives_a_proto_and_stays_as_it_was(net, images):
    before = net.SerializeToString()
    outcome = run(net, Recipe((PRUNE,)), samples=images, benchmark=False)
    assert isinstance(outcome.model, onnx.ModelProto)
    assert net.SerializeToString() == before
    assert outcome.report.output_path is None
    assert outcome.report.sizes.input_bytes == len(before)


def test_evaluation_samples_are_never_used_for_calibration(net, images, monkeypatch):
    seen = []
    original = mixed_precision.quantize_mixed_ir

    def recorded(model, samples, *arguments, **options):
        feeds = list(samples)
        seen.extend(np.concatenate([feed["x"] for feed in feeds]))
        return original(model, feeds, *arguments, **options)

    monkeypatch.setattr(mixed_precision, "quantize_mixed_ir", recorded)
    report = run(net, [QuantizeStatic()], samples=images, benchmark=False).report
    assert np.array_equal(seen, images[:30])
    assert (report.samples.calibration, report.fidelity.samples) == (30, 10)
    assert "last 10 of 40" in report.samples.note
    seen.clear()
    report = run(
        net, [QuantizeStatic()], samples=images, evaluation=images[:5], benchmark=False
    ).report
    assert np.array_equal(seen, images)
    assert report.fidelity.samples == 5
    assert report.samples.origin == "given"


def test_fidelity_is_against_the_input_not_the_last_step(net, images):
    one = run(net, [PRUNE], samples=images, benchmark=False)
    two = run(one.model, [QuantizeStatic()], samples=images, evaluation=images, benchmark=False)
    both = run(net, [PRUNE, QuantizeStatic()], samples=images, evaluation=images, benchmark=False)
    assert one.report.fidelity.sqnr_db < 20 < two.report.fidelity.sqnr_db
    assert both.report.fidelity.sqnr_db < 20


def test_labels_give_the_accuracy_of_both(net, images):
    logits = evaluate.compare(
        net, net, samples=images, metric=lambda outputs: outputs["y"].argmax(1)[0]
    )
    labels = np.full(40, int(logits.metrics[0].reference))
    report = run(net, [PRUNE], samples=images, labels=labels, benchmark=False).report
    assert [metric.name for metric in report.fidelity.metrics] == ["accuracy"]
    # Labels of a set that is split belong to its end.
    report = run(net, [QuantizeStatic()], samples=images, labels=labels, benchmark=False).report
    assert report.fidelity.samples == 10
    with pytest.raises(SamplesError, match=r"labels of shape \[39\] for 10"):
        run(net, [QuantizeStatic()], samples=images, labels=labels[:39], benchmark=False)


def test_no_samples(net):
    with pytest.raises(OptionError, match=r"'quantize-static' needs samples.*x: float32\[n, 3"):
        run(net, [PRUNE, QuantizeStatic()])
    report = run(net, [PRUNE], benchmark=False).report
    assert report.samples.origin == "generated"
    assert any("generated inputs" in warning for warning in report.warnings)


def test_nothing_done_is_no_success(tmp_path):
    net = parse("""<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4] x) => (float[n,4] y) { y = Relu(x) }""")
    target = tmp_path / "out.onnx"
    report = run(net, [PRUNE], output=target).report
    assert not report.changed
    assert (report.fidelity, report.latency, report.output_path) == (None, None, None)
    assert not target.exists()
    assert report.warnings[0].startswith("step 1 (prune-weights) changed nothing: no layer")
    assert "unchanged" in report.warnings[1]


def test_a_larger_or_slower_result_says_so(images, monkeypatch):
    slow = made_up_latency(1.3)
    monkeypatch.setattr(evaluate, "benchmark", lambda *args, **options: slow)
    report = run(parse(TINY), [QuantizeStatic()], samples=images).report
    assert report.latency == slow
    assert "larger than the input" in report.warnings[0]
    sizes = report.sizes
    assert str(report).splitlines()[1:] == [
        f"size {sizes.input_bytes:,} -> {sizes.output_bytes:,} bytes ({sizes.ratio:.2f}x)",
        str(slow),
        str(report.fidelity),
        *(f"warning: {warning}" for warning in report.warnings),
    ]
    assert report.warnings[1] == (
        "the result is slower than the input: latency ratio 1.300 [1.200, 1.400]"
    )


def test_a_run_names_the_sample_that_made_most_of_the_noise(images):
    net = parse("""<ir_version: 8, opset_import: ["": 17]>
        g (float[n,3,8,8] x) => (float[n,3,8,8] y) <float[3,3,1,1] w> { y = Conv(x, w) }""")
    images = np.clip(images, -1, 1)
    held_out = images[:12].copy()
    held_out[7] *= 20
    report = run(
        net,
        [QuantizeStatic(observer="minmax")],
        samples=images[12:],
        evaluation=held_out,
        benchmark=False,
    ).report
    (warning,) = (text for text in report.warnings if "look at sample" in text)
    assert "1 of 12 samples made" in warning
    assert "of the noise of y: look at sample 7 (" in warning
    plain = run(net, [PRUNE], samples=images, benchmark=False).report
    assert not any("look at sample" in text for text in plain.warnings)


def _break(change):
    def broken_step(model, *_):
        change(model)
        return model, PruneWeightsReport(changed=True, summary="broken")

    return broken_step


def _not_a_number(model):
    weight = model.graph.initializers["w"]
    weight.const_value = ir.tensor(np.full(weight.shape.numpy(), np.nan, np.float32), name="w")


def _new_name(model):
    model.graph.outputs[0].name = "z"


def _new_shape(model):
    shape = add_initializer(model.graph, "flat", np.array([0, 2, 2]))
    output = model.graph.outputs[0]
    node = ir.node("Reshape", [output, shape])
    output.name, node.outputs[0].name = "inner", "y"
    model.graph.append(node)
    model.graph.outputs[0] = node.outputs[0]


def _unknown_operator(model):
    next(node for node in model.graph if node.op_type == "Relu").op_type = "Nonesuch"


def test_a_step_that_breaks_the_numbers_is_caught(net, images, monkeypatch, tmp_path):
    monkeypatch.setattr(weight_step, "prune_weights_ir", _break(_not_a_number))
    message = r"step 1 \(prune-weights\).*'y' has 32 new NaN or infinite of 32"
    with pytest.raises(VerificationError, match=message):
        run(net, [PRUNE], samples=images, output=tmp_path / "out.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_new_name, "the outputs are ['z'] instead of ['y']"),
        (_new_shape, "onnx refuses it"),
        (_unknown_operator, "No Op registered for Nonesuch"),
    ],
)
def test_a_step_that_breaks_the_graph_is_undone(
    net, images, change, message, monkeypatch, tmp_path
):
    monkeypatch.setattr(weight_step, "prune_weights_ir", _break(change))
    report = run(net, [PRUNE], samples=images, output=tmp_path / "out.onnx").report
    assert not report.changed
    assert message in report.steps[0].summary
    assert list(tmp_path.iterdir()) == []


def test_outputs_are_refused_before_the_work(net, images, monkeypatch, tmp_path):
    monkeypatch.setattr(weight_step, "prune_weights_ir", None)
    source = tmp_path / "net.onnx"
    onnx.save(net, source)
    with pytest.raises(SaveError, match="is the input"):
        run(source, [PRUNE], samples=images, output=tmp_path / "." / "net.onnx")
    with pytest.raises(SaveError, match="create the directory first"):
        run(source, [PRUNE], samples=images, output=tmp_path / "missing" / "net.onnx")


def test_wrong_samples(net):
    with pytest.raises(SamplesError, match="shape"):
        run(net, [PRUNE], samples=np.zeros((4, 5), np.float32))


def test_samples_may_be_prepared(net, images):
    samples = Samples(images, input_specs(load(net)), limit=20)
    report = run(net, [QuantizeStatic()], samples=samples, benchmark=False).report
    assert (report.samples.calibration, report.samples.evaluation) == (12, 8)


def test_channels_are_removed_and_repaired(images):
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,3,8,8] x) => (float[n,4] y)
        <float[16,3,3,3] w, float[16] b, float[8,16,3,3] u, float[8] c, float[8,4] v>
        { t = Conv<pads=[1,1,1,1]>(x, w, b)  r = Relu(t)  s = Conv(r, u, c)  q = Relu(s)
          p = GlobalAveragePool(q)  f = Flatten(p)  y = MatMul(f, v) }"""
    outcome = run(
        parse(text), [PruneChannels(remove=0.5, round_to=4)], samples=images, benchmark=False
    )
    (report,) = outcome.report.steps
    assert report.changes.units_removed == 12
    assert "repair" in report.summary
    sizes = {name: list(v.shape) for name, v in load(outcome.model).graph.initializers.items()}
    assert [8, 3, 3, 3] in sizes.values()
    assert [4, 8, 3, 3] in sizes.values()
    assert outcome.report.sizes.ratio < 0.6


def test_inputs_of_16_bits_are_fed_and_compared(net, images, tmp_path):
    target = tmp_path / "half.onnx"
    steps = [ToFloat16(io="float16"), PruneWeights(sparsity=0.1, method="magnitude")]
    outcome = run(net, steps, samples=images, output=target)
    half = load(target).graph
    assert {v.dtype for v in (*half.inputs, *half.outputs)} == {ir.DataType.FLOAT16}
    assert outcome.report.fidelity.sqnr_db > 15
    with pytest.raises(VerificationError, match="float16"):
        Reference(load(net), images).verify(load(target), "a step")
    rows = evaluate.compare(net, target, samples=images, layers=True).layers
    assert rows
    assert min(row.sqnr_db for row in rows) > 10


def test_a_document_asks_for_inputs_of_16_bits():
    recipe = Recipe((ToFloat16(io="float16"),))
    assert 'io = "float16"' in recipe.to_toml()
    assert Recipe.from_toml(recipe.to_toml()) == recipe
