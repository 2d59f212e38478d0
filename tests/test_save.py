"""Saving: the target is the old file or the whole new one, whatever happens on the way."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxlite.errors import LoadError, OptionError, SaveError
from onnxlite.model import disk_bytes, load, mapped_files, source_files
from onnxlite.runtime import Session, run_all
from onnxlite.save import save
from tests.odd_models import odd, parse

#: The module; the package's attribute of that name is the function.
save_module = sys.modules["onnxlite.save"]
X = np.linspace(-1, 1, 64, dtype=np.float32).reshape(2, 32)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def outputs(path: Path) -> np.ndarray:
    return Session(path, threads=1).run({"x": X})["y"]


@pytest.fixture
def reference(external_model: Path) -> np.ndarray:
    return outputs(external_model)


@pytest.mark.parametrize("mode", ["auto", "always", "never"])
def test_saved_model_computes_the_same(external_model, reference, tmp_path, mode):
    target = tmp_path / "out" / "small.onnx"
    target.parent.mkdir()
    assert save(load(external_model), target, external_data=mode) == target
    np.testing.assert_array_equal(outputs(target), reference)
    data = {"small.onnx.data"} if mode == "always" else set()
    assert files(target.parent) == {"small.onnx", *data}
    assert disk_bytes(target) == sum(f.stat().st_size for f in target.parent.iterdir())


@pytest.mark.parametrize("source", ["path", "proto", "ir"])
def test_takes_every_kind_of_model(external_model, reference, tmp_path, source):
    kinds = {"path": external_model, "proto": onnx.load(external_model), "ir": load(external_model)}
    np.testing.assert_array_equal(
        outputs(save(kinds[source], tmp_path / "out.onnx", external_data="always")), reference
    )


def test_model_is_unchanged_by_saving(external_model, tmp_path):
    model = load(external_model)
    tensors = [value.const_value for value in model.graph.initializers.values()]
    for mode in ("always", "never"):
        save(model, tmp_path / f"{mode}.onnx", external_data=mode)
        after = [value.const_value for value in model.graph.initializers.values()]
        assert all(a is b for a, b in zip(after, tensors, strict=True))


def test_external_tensors_in_constant_nodes_come_inside(tmp_path):
    proto = odd("constant node weights")
    onnx.save(
        proto,
        tmp_path / "a.onnx",
        save_as_external_data=True,
        location="a.data",
        size_threshold=0,
        convert_attribute=True,
    )
    (tmp_path / "out").mkdir()
    for mode in ("auto", "always"):
        path = save(tmp_path / "a.onnx", tmp_path / "out" / f"{mode}.onnx", external_data=mode)
        feed = {"x": np.float32([[1, 2]])}
        assert Session(path).run(feed)["y"].tolist() == [[1 + 6 + 0.5, -2 + 1 - 0.5]]


class TestSavingOverAModel:
    def other(self) -> ir.Model:
        proto = parse(
            """<ir_version: 8, opset_import: ["": 17]>
            g (float[n,32] x) => (float[n,32] y) <float[32,32] w> { y = MatMul(x, w) }""",
            seed=5,
        )
        return load(proto)

    @pytest.mark.parametrize("mode", ["always", "never"])
    def test_old_data_file_goes(self, external_model, tmp_path, mode):
        expected = run_all(self.other(), [{"x": X}])[0]["y"]
        for _ in range(3):
            save(self.other(), external_model, external_data=mode)
            np.testing.assert_array_equal(outputs(external_model), expected)
            assert len(files(tmp_path)) == (2 if mode == "always" else 1)

    def test_foreign_data_files_stay(self, external_model, tmp_path):
        (tmp_path / "weights.bin").write_bytes(Path(f"{external_model}.data").read_bytes())
        proto = onnx.load(external_model, load_external_data=False)
        for tensor in proto.graph.initializer:
            for entry in tensor.external_data:
                entry.value = "weights.bin" if entry.key == "location" else entry.value
        external_model.write_bytes(proto.SerializeToString())
        save(self.other(), external_model)
        assert "weights.bin" in files(tmp_path)

    def test_data_that_the_saved_model_is_read_from_stay(self, external_model, tmp_path, reference):
        twin = tmp_path / "twin.onnx"
        twin.write_bytes(external_model.read_bytes())
        save(twin, external_model, external_data="never")
        for path in (twin, external_model):
            np.testing.assert_array_equal(outputs(path), reference)

    def test_not_a_model(self, tmp_path):
        target = tmp_path / "m.onnx"
        target.write_text("notes of a user")
        save(self.other(), target, external_data="always")
        assert outputs(target).shape == (2, 32)

    def test_a_reader_of_the_old_model_keeps_reading(self, external_model, reference):
        old = load(external_model)
        save(self.other(), external_model, external_data="always")
        moved = external_model.with_name("moved.onnx")
        with pytest.raises((LoadError, SaveError)):
            save(old, moved)
        assert not moved.exists()


class TestRefusals:
    def refused(self, model, target, message, **options):
        before = files(Path(target).parent) if Path(target).parent.is_dir() else None
        with pytest.raises(SaveError, match=message):
            save(model, target, **options)
        after = files(Path(target).parent) if Path(target).parent.is_dir() else None
        assert before == after

    def test_over_the_input(self, external_model, reference):
        model = load(external_model)
        self.refused(model, external_model, "is the input")
        self.refused(model, f"{external_model}.data", "external data that it is mapped from")
        np.testing.assert_array_equal(outputs(external_model), reference)

    def test_over_the_input_by_another_name(self, external_model, tmp_path):
        (tmp_path / "link.onnx").symlink_to(external_model)
        self.refused(load(external_model), tmp_path / "link.onnx", "is the input")
        self.refused(external_model, tmp_path / "." / "big.onnx", "is the input")

    def test_a_copy_remembers_its_source(self, external_model):
        copy = load(load(external_model))
        assert mapped_files(copy) == source_files(external_model)
        self.refused(copy, external_model, "is the input")

    def test_missing_directory(self, tmp_path):
        self.refused(odd("plain"), tmp_path / "no" / "m.onnx", "create the directory")

    def test_directory(self, tmp_path):
        self.refused(odd("plain"), tmp_path, "is a directory")

    def test_device(self):
        self.refused(odd("plain"), "/dev/full", "is a device")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_read_only_directory(self, tmp_path):
        tmp_path.chmod(0o500)
        self.refused(odd("plain"), tmp_path / "m.onnx", "Permission denied")
        tmp_path.chmod(0o700)

    def test_name_too_long(self, tmp_path):
        self.refused(odd("plain"), tmp_path / ("m" * 300), "too long")

    def test_too_large_for_one_file(self, tmp_path, monkeypatch):
        monkeypatch.setattr(save_module, "PROTO_LIMIT_BYTES", 100)
        with pytest.raises(OptionError, match="external_data='never'"):
            save(odd("plain"), tmp_path / "m.onnx", external_data="never")
        assert files(tmp_path) == set()

    def test_unknown_option(self, tmp_path):
        with pytest.raises(OptionError, match="'sometimes'"):
            save(odd("plain"), tmp_path / "m.onnx", external_data="sometimes")

    def test_auto_goes_external_above_the_limit(self, tmp_path, monkeypatch, external_model):
        monkeypatch.setattr(save_module, "EXTERNAL_ABOVE_BYTES", 4000)
        save(external_model, tmp_path / "m.onnx")
        assert files(tmp_path) >= {"m.onnx", "m.onnx.data"}

    def test_disk_too_small(self, tmp_path, monkeypatch):
        usage = save_module.shutil.disk_usage(tmp_path)
        monkeypatch.setattr(save_module.shutil, "disk_usage", lambda _path: usage._replace(free=10))
        self.refused(odd("plain"), tmp_path / "m.onnx", "disk has 0 MiB free")


@pytest.mark.parametrize("mode", ["always", "never"])
@pytest.mark.parametrize("exists", [False, True])
def test_disk_gets_full(external_model, tmp_path, mode, exists):
    """A limit on the size of files stands for a full disk: writes fail half-way."""
    target = tmp_path / "out" / "m.onnx"
    target.parent.mkdir()
    if exists:
        save(odd("plain"), target)
    before = {f.name: f.read_bytes() for f in target.parent.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(SaveError, match="too large; free some space"):
            save(external_model, target, external_data=mode)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {f.name: f.read_bytes() for f in target.parent.iterdir()} == before


#: Where a save may be interrupted: a function of a module, and which call of it.
POINTS = [
    ("tempfile", "mkdtemp", 1),
    ("os", "fsync", 1),
    ("os", "fsync", 2),
    ("os", "replace", 1),
    ("os", "replace", 2),
    ("os", "replace", 3),
    ("progress", "", 1),
    ("progress", "", 2),
]


def interrupting(action, module, function, nth, patch):
    """Make the n-th call of a function do `action`; returns the progress callback to pass."""
    calls = 0

    def call(original):
        def run(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == nth:
                action()
            return original(*args, **kwargs)

        return run

    if module == "progress":
        return call(lambda *_: None)
    owner = {"os": os, "tempfile": tempfile}[module]
    patch(owner, function, call(getattr(owner, function)))
    return lambda *_: None


@pytest.mark.parametrize("mode", ["always", "never"])
@pytest.mark.parametrize(("module", "function", "nth"), POINTS)
def test_interrupt(external_model, tmp_path, monkeypatch, mode, module, function, nth):
    target = tmp_path / "out" / "m.onnx"
    target.parent.mkdir()
    save(odd("plain"), target)
    old = target.read_bytes()

    def interrupt():
        raise KeyboardInterrupt

    model = load(external_model)
    with monkeypatch.context() as patch:
        progress = interrupting(interrupt, module, function, nth, patch.setattr)
        interrupted = False
        try:
            save(model, target, external_data=mode, progress=progress)
        except KeyboardInterrupt:
            interrupted = True
    if interrupted and target.read_bytes() == old:
        assert files(target.parent) == {"m.onnx"}
    else:
        np.testing.assert_array_equal(outputs(target), outputs(external_model))
        assert files(target.parent) == {"m.onnx", *({"m.onnx.data"} if mode == "always" else ())}
    # The model in memory is as before and can be saved again.
    save(model, target, external_data=mode)
    np.testing.assert_array_equal(outputs(target), outputs(external_model))


CHILD = """
import os, signal, sys
from onnxlite.save import save
from tests.test_save import interrupting
source, target, module, function, nth, number = sys.argv[1:]
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
progress = interrupting(
    lambda: os.kill(os.getpid(), int(number)), module, function, int(nth), setattr)
save(source, target, external_data="always", progress=progress)
"""


@pytest.mark.parametrize(
    ("number", "module", "function", "nth"),
    [
        (signal.SIGKILL, "progress", "", 2),
        (signal.SIGKILL, "os", "replace", 1),
        (signal.SIGKILL, "os", "fsync", 3),
        (signal.SIGINT, "progress", "", 2),
    ],
)
def test_killed(external_model, reference, tmp_path, number, module, function, nth):
    target = tmp_path / "out" / "m.onnx"
    target.parent.mkdir()
    save(odd("plain"), target)
    old = target.read_bytes()
    arguments = [external_model, target, module, function, nth, int(number)]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *map(str, arguments)],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        check=False,
    )
    assert done.returncode == -number, done.stderr.decode()
    left = {name for name in files(target.parent) if not name.startswith(".m.onnx.")}
    if target.read_bytes() == old:
        assert left == {"m.onnx"}
    else:
        np.testing.assert_array_equal(outputs(target), reference)
    if number == signal.SIGINT:
        assert files(target.parent) == left
    save(external_model, target)
    np.testing.assert_array_equal(outputs(target), reference)
    # What the killed process had to leave is gone.
    assert files(target.parent) <= {"m.onnx", "m.onnx.data"}


def test_two_writers_of_external_data_do_not_mix_their_files(tmp_path, monkeypatch):
    """Each has weights of its own; the result is one of them, with its own data."""
    replace, rng = os.replace, np.random.default_rng(0)

    def slowly(*names):
        """Leave others time between the two renames of a model."""
        replace(*names)
        time.sleep(rng.random() * 0.03)

    monkeypatch.setattr(os, "replace", slowly)
    nets = {
        value: parse(
            f"""<ir_version: 8, opset_import: ["": 17]>
            g (float[1,64] x) => (float[1,{value}] y) <float[64,{value}] w>
            {{ y = MatMul(x, w) }}""",
            seed=value,
        )
        for value in (8, 16, 32, 64)
    }
    weights = [onnx.numpy_helper.to_array(net.graph.initializer[0]) for net in nets.values()]
    for folder in (tmp_path / str(number) for number in range(6)):
        folder.mkdir()
        target, barrier = folder / "m.onnx", threading.Barrier(len(nets))

        def write(net, target=target, barrier=barrier):
            barrier.wait()
            save(net, target, external_data="always")

        threads = [threading.Thread(target=write, args=(net,)) for net in nets.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = load(target).graph.initializers["w"].const_value.numpy()
        assert any(np.array_equal(found, weight) for weight in weights)
        assert len(files(folder)) == 2


def test_two_writers_at_once(external_model, reference, tmp_path):
    target = tmp_path / "m.onnx"
    errors: list[BaseException] = []

    def write():
        try:
            save(external_model, target)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    np.testing.assert_array_equal(outputs(target), reference)
    assert files(tmp_path) == {"m.onnx", "big.onnx", "big.onnx.data"}
