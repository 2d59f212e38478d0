"""What is kept between searches: whole or not at all."""

from __future__ import annotations

import os

import pytest

from onnxlite.records import StepReport
from onnxlite.search.trial_cache import CachedStep, Store, hashed, key_of


@pytest.fixture(params=["folder", "memory"])
def store(request, tmp_path):
    return Store(tmp_path / "trials" if request.param == "folder" else None)


def test_records_and_models_come_back(store):
    made = CachedStep(digest="d", report=StepReport(step="simplify", changed=True, summary="done"))
    assert store.record("k", CachedStep) is None
    store.keep("k", made)
    assert store.record("k", CachedStep) == made
    digest = store.keep_model(b"model")
    assert digest == hashed(b"model")
    assert store.model(digest) == b"model"
    assert store.model("other") is None


def test_another_process_finds_them(tmp_path):
    digest = Store(tmp_path).keep_model(b"model")
    Store(tmp_path).keep("k", CachedStep(digest=digest))
    other = Store(tmp_path)
    assert other.record("k", CachedStep).digest == digest
    assert other.found == 1
    assert other.model(digest) == b"model"


def test_damage_is_a_miss(tmp_path):
    store = Store(tmp_path)
    digest = store.keep_model(b"model")
    store.keep("k", CachedStep(digest=digest))
    (tmp_path / f"{digest}.onnx").write_bytes(b"mod")
    (tmp_path / "k.record").write_bytes(b"\x00")
    assert store.model(digest) is None
    assert store.record("k", CachedStep) is None


def test_without_a_place_to_write_memory_serves(tmp_path):
    (tmp_path / "file").write_text("in the way")
    store = Store(tmp_path / "file")
    digest = store.keep_model(b"model")
    assert store.model(digest) == b"model"


def test_the_oldest_go_first(tmp_path):
    store = Store(tmp_path)
    digests = [store.keep_model(bytes([i]) * 100) for i in range(3)]
    for age, digest in enumerate(digests):
        os.utime(tmp_path / f"{digest}.onnx", (1000 + age, 1000 + age))
    store.model(digests[0])  # used again, so it is the youngest now
    store.trim(250)
    assert [store.model(digest) is not None for digest in digests] == [True, False, True]


def test_keys_tell_parts_apart():
    assert key_of("a", "b") != key_of("b", "a") != key_of("ab")
