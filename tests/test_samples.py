"""Samples: every form of data becomes the same feeds, and every misfit a clear error."""

from __future__ import annotations

import random

import numpy as np
import pytest

from onnxlite.errors import OptionError, SamplesError
from onnxlite.inputs import InputSpec, feed_size, input_specs
from onnxlite.model import load
from onnxlite.runtime import Session
from onnxlite.samples import Samples, generate
from tests.odd_models import odd

X = InputSpec("x", "float32", ("n", 3))
IDS = InputSpec("ids", "int64", ("n", 2))
DATA = np.arange(30, dtype=np.float32).reshape(10, 3)


class Tensor:
    """What a torch tensor looks like from outside: NumPy may not touch it before `detach`."""

    def __init__(self, array, detached=False):
        self.array, self.detached = array, detached

    def detach(self):
        return Tensor(self.array, detached=True)

    def cpu(self):
        return self

    def __array__(self, dtype=None, copy=None):
        if not self.detached:
            raise RuntimeError("Can't call numpy() on a tensor that requires grad")
        return np.asarray(self.array, dtype)


class Loader:
    """What a torch DataLoader looks like: re-iterable batches of (data, label)."""

    def __init__(self, batches):
        self.batches, self.passes = batches, 0

    def __iter__(self):
        self.passes += 1
        return iter(self.batches)

    def __len__(self):
        return len(self.batches)


def joined(samples: Samples, name: str = "x") -> np.ndarray:
    return np.concatenate([feed[name] for feed in samples])


def sizes(samples: Samples) -> list[int]:
    return [len(feed["x"]) for feed in samples]


class TestForms:
    """The same ten samples in every form."""

    def same(self, source):
        samples = Samples(source, [X], batch_size=4)
        for _ in range(2):
            np.testing.assert_array_equal(joined(samples), DATA)
        assert samples.count() == 10
        assert all(feed["x"].dtype == np.float32 for feed in samples)

    def test_array(self):
        self.same(DATA)

    def test_float64_and_big_endian_and_fortran(self):
        self.same(DATA.astype(np.float64))
        self.same(DATA.astype(">f4"))
        self.same(np.asfortranarray(DATA))

    def test_dict(self):
        self.same({"x": DATA})
        self.same({"x": DATA.tolist()})

    def test_tensor(self):
        self.same(Tensor(DATA))
        self.same({"x": Tensor(DATA)})

    def test_batches(self):
        self.same([DATA[:3], DATA[3:]])
        self.same([{"x": DATA[:3]}, {"x": DATA[3:]}])
        self.same([(DATA[:3], "label"), (DATA[3:], "label")])
        self.same([[Tensor(DATA[:3]), Tensor(np.zeros(3))], [Tensor(DATA[3:]), None]])
        self.same([{"x": Tensor(DATA)}])

    def test_loader_is_read_batch_by_batch(self):
        loader = Loader([(Tensor(DATA[:3]), 1), (Tensor(DATA[3:]), 2)])
        self.same(loader)
        assert loader.passes == 5

    def test_files(self, tmp_path):
        np.save(tmp_path / "a.npy", DATA)
        np.savez(tmp_path / "named.npz", x=DATA)
        np.savez_compressed(tmp_path / "unnamed.npz", DATA)
        for name in ("a.npy", "named.npz", "unnamed.npz"):
            self.same(tmp_path / name)
            self.same(str(tmp_path / name))

    def test_folder(self, tmp_path):
        for start in range(0, 10, 3):
            np.save(tmp_path / f"part{start}.npy", DATA[start : start + 3])
        (tmp_path / "README").write_text("not data")
        self.same(tmp_path)

    def test_samples(self):
        self.same(Samples(DATA, [X], batch_size=3))

    @pytest.mark.parametrize(
        "source", [iter([DATA]), (DATA[i : i + 5] for i in (0, 5)), zip([DATA])]
    )
    def test_one_shot_iterator_is_kept_with_a_warning(self, source, caplog):
        self.same(source)
        assert "one-shot iterator" in caplog.text

    def test_torch(self):
        torch = pytest.importorskip("torch", reason="torch is not installed")
        tensor = torch.tensor(DATA, requires_grad=True)
        self.same(tensor)
        dataset = torch.utils.data.TensorDataset(tensor.detach(), torch.zeros(10))
        self.same(torch.utils.data.DataLoader(dataset, batch_size=4))
        with pytest.raises(SamplesError, match="cannot be made an array"):
            Samples(tensor.bfloat16(), [X])


class TestSplitting:
    def test_batch(self):
        assert sizes(Samples(DATA, [X], batch_size=4)) == [4, 4, 2]

    def test_fixed_batch(self, caplog):
        spec = InputSpec("x", "float32", (5, 3))
        assert sizes(Samples(DATA, [spec], batch_size=2)) == [5, 5]
        assert sizes(Samples(DATA[:9], [spec])) == [5]
        assert "4 of 9 samples do not fill a batch" in caplog.text
        with pytest.raises(SamplesError, match=r"3 samples cannot fill .* fixed batch of 5"):
            Samples(DATA[:3], [spec])

    @pytest.mark.parametrize(
        ("limit", "expected"), [(1, [1]), (4, [4]), (6, [4, 2]), (99, [4, 4, 2])]
    )
    def test_limit(self, limit, expected):
        samples = Samples(DATA, [X], batch_size=4, limit=limit)
        assert sizes(samples) == sizes(samples) == expected
        assert sizes(Samples(samples, [X])) == expected

    def test_limit_on_a_fixed_batch(self):
        spec = InputSpec("x", "float32", (4, 3))
        assert sizes(Samples(DATA[:8], [spec], limit=6)) == [4]
        assert sizes(Samples(DATA[:8], [spec], limit=3)) == [4]

    def test_several_inputs_go_in_step(self):
        ids = np.arange(20).reshape(10, 2)
        feeds = list(Samples({"x": DATA, "ids": ids}, [X, IDS], batch_size=7))
        assert [feed_size(feed, [X, IDS]) for feed in feeds] == [7, 3]
        np.testing.assert_array_equal(feeds[1]["ids"], ids[7:])

    def test_stacked_states(self):
        state = InputSpec("state", "float32", (2, "n", 4))
        states = np.arange(10 * 8, dtype=np.float32).reshape(10, 2, 1, 4)
        feeds = list(Samples({"x": DATA, "state": states}, [X, state]))
        assert len(feeds) == 10
        assert feeds[3]["x"].shape == (1, 3)
        np.testing.assert_array_equal(feeds[3]["state"], states[3])

    def test_rank_0_input(self):
        rate = InputSpec("rate", "int64", ())
        feeds = list(Samples({"x": DATA, "rate": np.int64(16000)}, [X, rate], batch_size=5))
        assert [feed["rate"].tolist() for feed in feeds] == [16000, 16000]
        feeds = list(Samples({"x": DATA, "rate": np.arange(10, dtype=np.int32)}, [X, rate]))
        assert [feed["rate"].tolist() for feed in feeds] == list(range(10))
        assert all(isinstance(f["rate"], np.ndarray) and f["rate"].ndim == 0 for f in feeds)

    def test_only_rank_0_inputs_run(self):
        model = load(odd("scalars"))
        session = Session(model)
        samples = Samples(np.float64([1, 2, 3]), input_specs(model))
        assert [session.run(feed)["y"].item() for feed in samples] == [2, 4, 6]
        assert samples.count() == 3

    def test_no_inputs(self):
        assert list(Samples({}, [])) == [{}]

    def test_empty_past(self):
        past = InputSpec("past", "float32", ("n", "past", 3))
        assert next(iter(Samples(np.zeros((2, 0, 3), np.float32), [past])))["past"].shape == (
            2,
            0,
            3,
        )

    def test_unknown_rank(self):
        spec = InputSpec("x", "float32", None)
        assert sizes(Samples(DATA, [spec], batch_size=4)) == [4, 4, 2]


class TestTypes:
    @pytest.mark.parametrize(
        ("dtype", "array"),
        [
            ("float16", np.float32([[1, 2, 3]])),
            ("float64", np.float32([[1, 2, 3]])),
            ("bfloat16", np.float32([[1, 2, 3]])),
            ("int64", np.int32([[1, 2, 3]])),
            ("int8", np.int64([[1, -128, 127]])),
            ("uint8", np.int64([[1, 0, 255]])),
            ("bool", np.array([[True, False, True]])),
            ("object", np.array([["a", "b", "c"]])),
            ("object", np.array([["a", "b", "c"]], dtype=object)),
        ],
    )
    def test_converted(self, dtype, array):
        feed = next(iter(Samples(array, [InputSpec("x", dtype, (1, 3))])))
        assert feed["x"].dtype == np.dtype(dtype)
        assert feed["x"].tolist() == array.tolist()

    @pytest.mark.parametrize(
        ("dtype", "array", "message"),
        [
            ("float32", np.uint8([[1, 2, 3]]), "takes float32, given was uint8: scale and convert"),
            ("float32", np.array([["a", "b", "c"]]), "takes float32, given was <U1"),
            ("float32", np.complex64([[1, 2, 3]]), "takes float32, given was complex64"),
            ("float32", np.array([[True, False, True]]), "takes float32, given was bool"),
            ("float32", np.array([[None, 1, 2]]), "takes float32, given was object"),
            ("int8", np.int64([[1, 2, 300]]), "int8, and values of the given int64 do not fit"),
            ("uint8", np.int64([[1, 2, -1]]), "do not fit"),
            ("int64", np.float32([[1, 2, 3]]), "takes int64, given was float32"),
            ("bool", np.int64([[1, 0, 1]]), "takes bool, given was int64"),
            ("object", np.int64([[1, 0, 1]]), "takes text, given was int64"),
            ("float16", np.float32([[1e30, 0, 1]]), "1 NaN or infinite of 3"),
        ],
    )
    def test_refused(self, dtype, array, message):
        with pytest.raises(SamplesError, match=message):
            Samples(array, [InputSpec("x", dtype, (1, 3))])


class TestMisfits:
    @pytest.mark.parametrize(
        ("source", "message"),
        [
            (DATA[:, :2], r"x: float32\[n, 3\] was given shape \(8, 2\)"),
            (DATA[0], r"was given shape \(3,\)"),
            (DATA[None, None], "was given shape"),
            (DATA[:0], "empty"),
            ([], "empty"),
            ([DATA[:0]], "is empty"),
            (iter([]), "empty"),
            ({"x": DATA[:0]}, "empty"),
            (np.where(DATA == 4, np.nan, DATA), "'x' has 1 NaN or infinite of 24"),
            ({"y": DATA}, r"no data for input 'x'; the model takes x: float32\[n, 3\]"),
            ({}, "no data for input 'x'"),
            ({"x": DATA, "label": DATA}, "'label' is not an input"),
            ([{"y": DATA}], "feed 0: no data for input 'x'"),
            ([()], "was given shape"),
            ([[[1.0, 2.0], [3.0]]], "was given shape"),
            ({"x": [[1.0, 2.0], [3.0]]}, "cannot be made an array"),
            (None, "samples of type NoneType are not understood"),
            (7, "samples of type int are not understood"),
            (b"abc", "x"),
            ("nowhere.npz", "no samples at 'nowhere.npz'"),
            ("m" * 300, "too long"),
        ],
    )
    def test_refused(self, source, message):
        with pytest.raises(SamplesError, match=message):
            Samples(source, [X])

    def test_refused_where_it_happens(self):
        spoiled = DATA.copy()
        spoiled[9, 0] = np.nan
        samples = Samples(spoiled, [X], batch_size=4)
        with pytest.raises(SamplesError, match=r"feed 2: .* 1 NaN or infinite of 6"):
            list(samples)

    def test_several_inputs(self):
        with pytest.raises(SamplesError, match=r"one array for a model with 2 inputs \(x: .*ids: "):
            Samples(DATA, [X, IDS])
        with pytest.raises(
            SamplesError, match=r"different numbers of samples: \{'x': 10, 'ids': 4"
        ):
            Samples({"x": DATA, "ids": np.zeros((4, 2), np.int64)}, [X, IDS])
        with pytest.raises(SamplesError, match=r"batch 0 has 1 arrays for 2 inputs.*order x, ids"):
            Samples([(DATA,)], [X, IDS])

    @pytest.mark.parametrize("options", [{"batch_size": 0}, {"limit": 0}, {"limit": -3}])
    def test_options(self, options):
        with pytest.raises(OptionError, match="from 1 on"):
            Samples(DATA, [X], **options)

    def test_iterable_that_works_only_once(self):
        class Once:
            def __init__(self):
                self.batches = iter([DATA, DATA])

            def __iter__(self):
                return self.batches

        samples = Samples(Once(), [X])
        list(samples)
        with pytest.raises(SamplesError, match="iterated only once"):
            list(samples)

    def test_an_error_of_the_loader_is_not_hidden(self):
        def batches():
            yield DATA
            raise ZeroDivisionError

        class Faulty:
            def __iter__(self):
                return batches()

        with pytest.raises(ZeroDivisionError):
            list(Samples(Faulty(), [X]))


class TestFiles:
    @pytest.mark.parametrize("suffix", ["npy", "npz"])
    def test_damaged(self, tmp_path, suffix):
        good = tmp_path / f"good.{suffix}"
        if suffix == "npy":
            np.save(good, DATA)
        else:
            np.savez_compressed(good, x=DATA)
        data = good.read_bytes()
        rng = random.Random(0)
        refused = 0
        for _ in range(200):
            damaged = bytearray(data[: rng.randrange(len(data))] if rng.random() < 0.5 else data)
            for _ in range(rng.randrange(1, 4)):
                if damaged:
                    damaged[rng.randrange(len(damaged))] = rng.randrange(256)
            path = tmp_path / f"bad.{suffix}"
            path.write_bytes(damaged)
            try:
                list(Samples(path, [X]))
            except SamplesError:
                refused += 1
        assert refused > 90

    def test_pickles_are_refused(self, tmp_path):
        np.save(tmp_path / "p.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
        with pytest.raises(SamplesError, match="cannot read samples"):
            Samples(tmp_path / "p.npy", [X])

    def test_other_files(self, tmp_path):
        (tmp_path / "a.csv").write_text("1,2,3")
        with pytest.raises(SamplesError, match=r"read from \.npy and \.npz"):
            Samples(tmp_path / "a.csv", [X])
        with pytest.raises(SamplesError, match=r"holds no \.npy or \.npz"):
            Samples(tmp_path, [X])


class TestGenerate:
    @pytest.mark.parametrize(
        "name", ["plain", "string input", "float16", "scalars", "If", "double"]
    )
    def test_is_accepted_by_samples(self, name):
        specs = input_specs(load(odd(name)))
        feeds = generate(specs, count=3, default_dim=2)
        assert len(list(Samples(feeds, specs))) == 3

    def test_is_repeatable(self):
        first, second, other = (generate([X], seed=seed)[0]["x"] for seed in (0, 0, 1))
        np.testing.assert_array_equal(first, second)
        assert not np.array_equal(first, other)

    def test_dims(self):
        spec = InputSpec("x", "int64", ("n", "len", None, 5))
        array = generate([spec], dims={"n": 2, "len": 7}, default_dim=3)[0]["x"]
        assert array.shape == (2, 7, 3, 5)
        assert set(array.flat) <= {0, 1}


def test_input_specs():
    specs = input_specs(load(odd("weights are inputs")))
    assert specs == (InputSpec("x", "float32", ("n", 4)),)
    assert str(specs[0]) == "x: float32[n, 4]"
    assert input_specs(load(odd("unnamed dims")))[0].shape == (None,) * 4
    assert input_specs(load(odd("no shapes")))[0].shape is None
    assert [s.dtype for s in input_specs(load(odd("string input")))] == ["object", "float32"]
