"""The glossary names files and folders of the package that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text("utf-8")


def test_paths_exist():
    named = re.findall(r"`([\w/]+(?:\.py|/))`", GLOSSARY)
    assert len(named) > 30
    assert [path for path in named if not (ROOT / "onnxlite" / path).exists()] == []


def test_terms_are_defined_once():
    terms = re.findall(r"^\| ([^|]+?) \|", GLOSSARY, flags=re.MULTILINE)
    terms = [term for term in terms if term != "term" and not term.startswith("--")]
    assert len(terms) == len(set(terms))
    assert len(terms) > 60
